"""Import the heavy libraries without a look for garbage, which is a quarter of the time that they take.

And say whether a library that is not part of the plain installation is there.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

_MODELS = "transformers.modeling_utils"  # before it is there, there is no model


def is_installed(package: str) -> bool:
    """Say whether a package can be imported; a directory of its name, as wandb makes one, is none."""
    found = find_spec(package)
    return found is not None and found.origin is not None


@contextmanager
def importing_libraries() -> Iterator[None]:
    """Keep the garbage collector out of a block that imports, and away from what libraries hold for good.

    Their modules never become garbage, but each training collects when it begins and would walk through all
    of them. What is there with the first import of transformers' models is left out from then on.
    """
    first = _MODELS not in sys.modules
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if first and _MODELS in sys.modules:
            gc.freeze()
        if collecting:
            gc.enable()
