import os
import subprocess
import sys

import numpy as np
import pytest

from lmdata.errors import OutputError
from lmdata.packing import pack
from lmdata.viewing import store_table as scratch
from lmdata.viewing.store_table import scratch_array

_GROWTH = """
import numpy as np, os
from lmdata.viewing.store_table import scratch_array
def anonymous():
    status = open("/proc/self/status").read()
    return int(status.split("RssAnon:")[1].split()[0])
before = anonymous()
array = {make}
array[:] = 1
print(anonymous() - before)
"""


def _anonymous_kib(make):
    done = subprocess.run(
        [sys.executable, "-c", _GROWTH.format(make=make)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
def test_a_large_array_takes_no_memory_of_the_process():
    length = 8_000_009  # 61 MiB of int64
    assert _anonymous_kib(f"np.empty({length}, np.int64)") > 60 << 10
    assert _anonymous_kib(f"scratch_array({length}, np.int64)") < 4 << 10


def test_a_plan_on_disk_is_the_plan_in_memory(monkeypatch):
    sizes = np.random.default_rng(5).integers(1, 38, 1009).astype(np.uint16)
    in_memory = pack(sizes, 37)
    monkeypatch.setattr(scratch, "KEPT_BYTES", 0)
    on_disk = pack(sizes, 37)
    assert np.array_equal(in_memory.pieces, on_disk.pieces)
    assert np.array_equal(in_memory.row_offsets, on_disk.row_offsets)


def test_a_full_disk_is_said_before_anything_is_written(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match=r"no room for 19 MiB .* set TMPDIR"):
        scratch_array(20_000_003, np.uint8)
