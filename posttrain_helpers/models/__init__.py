"""Models and tokenizers on disk or on the Hub: load, repair, verify. Nothing is trained here.

`__init__.pyi` lists the names that it hands on; each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
