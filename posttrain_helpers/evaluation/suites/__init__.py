"""Suites: items of one kind, and how replies to them are scored."""
