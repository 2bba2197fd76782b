"""The formulas of post-training, as functions of tensors: KL, advantages, policy and preference losses.

`__init__.pyi` lists the names that it hands on; each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
