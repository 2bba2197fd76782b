"""The tiny world: a language small enough to rebuild, whose truth is known.

`facts/` holds what is true, `grammar` and its neighbours write text about it, `tasks` turn it into questions
with answers and splits, `gold` scores replies, `tokenizer` and `pretrain` make the base model that `base/`
ships.
"""
