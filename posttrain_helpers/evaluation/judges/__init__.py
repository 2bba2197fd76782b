"""Judges of pairs of replies: reward models, language models, and how far they agree."""
