"""The tiny world: a language small enough to rebuild, whose truth is known.

`facts/` holds what is true, `documents` and its neighbours write text about it, `tasks` turns it into
questions with answers and splits, `gold` scores replies, `training_data/` makes what methods learn from, and
`pretraining/` the base model that `base/` ships.

`__init__.pyi` lists the names that it hands on; each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
