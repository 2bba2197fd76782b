"""Evaluation: suites, records, boards and judges."""
