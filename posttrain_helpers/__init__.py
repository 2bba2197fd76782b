"""Helpers of a notebook course on post-training language models.

    from posttrain_helpers import compare_generations, load_recipe, setup

`__init__.pyi` lists the public names. They are imported when they are first used, so that this import takes
milliseconds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
