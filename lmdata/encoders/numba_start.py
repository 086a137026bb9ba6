"""Make Numba ready in half the time, in processes of our own.

Before it runs the first compiled function, Numba loads every extension that any installed package
registers (awkward's takes 0.2 s) and SciPy's linear algebra (another 0.2 s). Our functions use
neither. A process that is a user's own is left alone: there, somebody else may need them.
"""

from __future__ import annotations

import sys

import numba
from numba.core import entrypoints


def start_numba() -> None:
    """Run a first compiled function with extensions and SciPy out of sight."""
    entrypoints._already_initialized = True
    hidden = {name: sys.modules[name] for name in ("scipy",) if name in sys.modules}
    sys.modules["scipy"] = None  # type: ignore[assignment]
    try:
        _successor(0)
    finally:
        del sys.modules["scipy"]
        sys.modules.update(hidden)


@numba.njit(cache=True)
def _successor(number: int) -> int:
    return number + 1
