"""The board: all stages in one table, with intervals, what each forgot, and the frontier."""
