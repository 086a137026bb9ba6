"""Starting Numba: what our functions do not use is not loaded, and can be loaded later."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from lmdata.intrinsics import start_numba
start_numba()
print(sorted({"scipy.linalg", "awkward"} & set(sys.modules)))
import scipy.linalg
print(scipy.linalg.det([[2.0]]))
start_numba()
print("scipy" in sys.modules)
"""


def test_numba_starts_without_scipy_and_extensions_and_leaves_both_usable():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["[]", "2.0", "True"]
