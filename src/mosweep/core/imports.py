"""Where imports look: Python and the installed libraries first, the working directory last.

People have an ``inspect.py`` or a ``datasets`` folder where they work. Imports only what is always
loaded, as it runs before anything else.
"""

from __future__ import annotations

import os
import sys

__all__ = ["installed", "working_directory_last"]


def working_directory_last() -> None:
    """Look in the working directory after all other places, for the user's own modules."""
    here = os.getcwd()
    sys.path[:] = [*(place for place in sys.path if (place or here) != here), here]


def installed(module: str) -> bool:
    """Whether the top-level ``module`` can be imported, and is more than a folder of that name."""
    from importlib.util import find_spec

    spec = find_spec(module)
    return spec is not None and spec.origin is not None
