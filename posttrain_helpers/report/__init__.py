"""The report card: one page made of what lessons and evaluations have measured; see `report.page`."""
