"""Real deaths: kill -9 of the command or of a worker, Ctrl-C, a full disk, a read-only folder."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmdata.building.workers import Died, Message, start_tokenizing
from tests.lmdata.builds import all_bytes, random_documents, write_corpus

ROOT = Path(__file__).parents[2]
NUM_FILES = 30
COMMAND = """
import signal
import sys
from pathlib import Path
from lmdata.errors import LmdataError
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell put us behind
from tests.lmdata.builds import build
try:
    build(Path(sys.argv[1]), Path(sys.argv[2]), num_workers=int(sys.argv[3]), processes=True,
          unit_bytes=4000, shard_bytes=20000, validation_ratio=0.2)
except (LmdataError, KeyboardInterrupt) as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")


def start(corpus: Path, output: Path, num_workers: int = 2) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", COMMAND, str(corpus), str(output), str(num_workers)]
    return subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def run(corpus: Path, output: Path, num_workers: int = 2) -> tuple[int, str]:
    process = start(corpus, output, num_workers)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    files = {f"{number:03d}.txt": random_documents(120, number) for number in range(NUM_FILES)}
    return write_corpus(folder, files)


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("whole") / "tokens"
    assert run(corpus, output) == (0, "")
    return all_bytes(output)


def num_units_done(output: Path) -> int:
    return len(list(output.glob(".build/unit-*.json")))


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    ends_at = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < ends_at:
        time.sleep(0.001)


def descendants(process_id: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    stack = children.get(process_id, [])[:]
    while stack:
        found.append(stack.pop())
        stack += children.get(found[-1], [])
    return found


def is_alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def kill_when(output: Path, process: subprocess.Popen[str], num_units: int, delay_s: float) -> None:
    wait_for(lambda: num_units_done(output) >= num_units, process)
    time.sleep(delay_s)
    process.kill()
    process.communicate()


def strike(
    corpus: Path, output: Path, num_units: int, blow: Callable[[subprocess.Popen[str]], None]
) -> tuple[int, str]:
    """Start a build and hit it after some units; its exit code, stderr.

    On a busy machine the build may be faster: then it is hit again, ever earlier.
    """
    for attempt in range(20):
        shutil.rmtree(output, ignore_errors=True)
        process = start(corpus, output)
        wanted = max(1, num_units - attempt // 5)
        wait_for(lambda wanted=wanted: num_units_done(output) >= wanted, process)
        with contextlib.suppress(ProcessLookupError, IndexError):  # it has just ended
            blow(process)
        _, errors = process.communicate(timeout=60)
        if process.returncode != 0:
            return process.returncode, errors
    raise AssertionError("the build was faster than the blow twenty times")


@pytest.mark.parametrize("num_units", [1, 20])
def test_a_killed_command_ends_its_workers_and_goes_on_to_the_same_bytes(
    corpus: Path, tmp_path: Path, undisturbed: dict[str, bytes], num_units: int
) -> None:
    output = tmp_path / "tokens"
    family: list[int] = []

    def kill(process: subprocess.Popen[str]) -> None:
        family[:] = descendants(process.pid)
        process.kill()

    strike(corpus, output, num_units, kill)
    assert 1 <= len(family) <= 3  # the nursery and two workers
    ends_at = time.monotonic() + 5
    while any(map(is_alive, family)) and time.monotonic() < ends_at:
        time.sleep(0.01)
    assert not any(map(is_alive, family))
    assert not (output / "manifest.json").exists()
    assert run(corpus, output, num_workers=3) == (0, "")
    assert all_bytes(output) == undisturbed


def test_a_killed_worker_ends_the_command_with_the_file_it_was_reading(
    corpus: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    output = tmp_path / "tokens"

    def kill_a_worker(process: subprocess.Popen[str]) -> None:
        nursery = next(pid for pid in descendants(process.pid) if descendants(pid))
        os.kill(descendants(nursery)[0], signal.SIGKILL)

    code, errors = strike(corpus, output, 2, kill_a_worker)
    assert code == 1
    assert errors.startswith("LmdataError: a worker was killed by SIGKILL while it read ")
    assert ".txt" in errors
    assert "type the same command again" in errors
    assert len(errors.splitlines()) == 1
    assert run(corpus, output) == (0, "")
    assert all_bytes(output) == undisturbed


def test_a_killed_nursery_does_not_hang_the_command(corpus: Path, tmp_path: Path) -> None:
    process = start(corpus, tmp_path / "tokens")
    wait_for(lambda: descendants(process.pid), process)
    os.kill(descendants(process.pid)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "LmdataError: a worker was killed by SIGKILL" in errors


def test_whichever_closed_connection_comes_first_tells_of_the_nursery() -> None:
    before = set(descendants(os.getpid()))
    with contextlib.closing(start_tokenizing(2)) as pool:
        (nursery,) = set(descendants(os.getpid())) - before
        os.kill(nursery, signal.SIGKILL)
        until = time.monotonic() + 20
        messages: list[Message] = []
        while len(messages) < 3 and time.monotonic() < until:  # of the nursery and both workers
            messages = pool.receive(1.0)
    reasons = [message.reason for message in messages if isinstance(message, Died)]
    assert reasons == ["was killed by SIGKILL"] * 3


def test_control_c_says_what_is_kept(
    corpus: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    output = tmp_path / "tokens"
    code, errors = strike(corpus, output, 3, lambda process: process.send_signal(signal.SIGINT))
    assert code == 1
    assert errors.startswith("KeyboardInterrupt: ")
    assert f"units are kept in {output}; type the same command again" in errors
    assert run(corpus, output, num_workers=1) == (0, "")
    assert all_bytes(output) == undisturbed


@pytest.mark.slow
def test_twenty_random_deaths_of_the_command(
    corpus: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    generator = random.Random(7)
    output = tmp_path / "tokens"
    for _ in range(20):
        process = start(corpus, output, generator.choice([1, 2, 3]))
        done = num_units_done(output)
        kill_when(output, process, done + generator.randint(0, 3), generator.uniform(0, 0.02))
        if process.returncode == 0:  # it was faster: begin another
            assert all_bytes(output) == undisturbed
            for path in sorted(output.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    if not (output / "manifest.json").exists():
        assert run(corpus, output) == (0, "")
    assert all_bytes(output) == undisturbed


@pytest.mark.slow
def test_twenty_random_deaths_of_a_worker(
    corpus: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    generator = random.Random(11)
    output = tmp_path / "tokens"
    num_deaths = 0
    while num_deaths < 20:
        process = start(corpus, output, generator.choice([1, 2, 3]))
        goal = num_units_done(output) + generator.randint(1, 3)
        wait_for(lambda goal=goal: num_units_done(output) >= goal, process)  # type: ignore[misc]
        family = descendants(process.pid)
        if process.poll() is None and family:
            os.kill(generator.choice(family), signal.SIGKILL)
            num_deaths += 1
        _, errors = process.communicate(timeout=60)
        if process.returncode == 0:
            assert all_bytes(output) == undisturbed
            for path in sorted(output.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
        else:
            assert "LmdataError: a worker" in errors
    if not (output / "manifest.json").exists():
        assert run(corpus, output) == (0, "")
    assert all_bytes(output) == undisturbed


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KiB in memory."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_goes_on_when_there_is_space(
    corpus: Path, tmpfs: Path, undisturbed: dict[str, bytes]
) -> None:
    output = tmpfs / "tokens"
    code, errors = run(corpus, output)
    assert code == 1
    assert errors.startswith("OutputError: the disk is full: can't write ")
    assert "free some space and run again" in errors
    assert len(errors.splitlines()) == 1
    assert not list(output.rglob(".*.partial"))
    subprocess.run(["mount", "-o", "remount,size=9m", str(tmpfs)], check=True)
    assert run(corpus, output) == (0, "")
    assert all_bytes(output) == undisturbed


def test_a_read_only_file_system_is_one_line(corpus: Path, tmpfs: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tmpfs)], check=True)
    code, errors = run(corpus, tmpfs / "tokens")
    assert code == 1
    assert errors.startswith("OutputError: ")
    assert "tokens: Read-only file system; choose another place" in errors


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder")
def test_a_read_only_folder_is_one_line(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    code, errors = run(corpus, tmp_path / "closed" / "tokens")
    assert code == 1
    assert "tokens: Permission denied; choose another place" in errors
