"""The tiny world: a language small enough to rebuild, whose truth is known.

`facts/` holds what is true, `documents` and its neighbours write text about it, `tasks` turns it into
questions with answers and splits, `gold` scores replies, `tokenizer`, `corpus` and `pretrain` make the base
model that `base/` ships.
"""
