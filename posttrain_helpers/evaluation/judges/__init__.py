"""Judges of replies: reward models and language models."""
