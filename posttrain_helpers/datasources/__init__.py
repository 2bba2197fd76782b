"""Public data sets and files of one's own: how each becomes rows that a method can learn from."""
