"""Starting Numba: what only compiling needs is not loaded, and is there where it is needed."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import numba, numpy
from lmdata.encoders.cut_kernels import flag_alphanumeric
from lmdata.intrinsics import start_numba
start_numba()
print(flag_alphanumeric(numpy.frombuffer(b"to be", numpy.uint8))[0])
print(sorted({"numba.np.npyimpl", "scipy.linalg", "awkward"} & set(sys.modules)))

@numba.njit
def wave(numbers):
    return numpy.sort(numpy.sin(numbers))[1]

print(wave(numpy.zeros(3)))
import scipy.linalg
print(scipy.linalg.det([[2.0]]))
"""


def test_a_kernel_on_disk_needs_nothing_of_the_compiler_and_a_new_one_gets_it_all():
    for _ in range(2):  # the first may have to compile
        command = [sys.executable, "-W", "ignore", "-c", CODE]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:4] == ["27", "[]", "0.0", "2.0"]
