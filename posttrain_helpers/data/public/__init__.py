"""Public data sets and files of one's own: read them, and bring them to the course's form."""
