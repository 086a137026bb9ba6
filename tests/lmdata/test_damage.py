"""Whatever happens to the bytes of a dataset is found before they are used, and named."""

from __future__ import annotations

import contextlib
import gc
import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lmdata.dataset import TokenStore, open_examples, open_store
from lmdata.errors import IntegrityError, LmdataError
from lmdata.examples import write_examples
from lmdata.recipes import Recipe
from lmdata.schema import read_manifest, token_schema
from lmdata.shards import Shard
from lmdata.verification import check_files, verify_dataset
from lmdata.views import view
from lmdata.writer import ShardWriter
from references.made_up import write_dataset
from tests.lmdata.builds import (
    build,
    edit_manifest,
    make_tokenizer,
    make_version_1,
    random_documents,
    write_corpus,
)

NSP = Recipe(view="nsp", max_seq_length=32)
PACKED = Recipe(view="packed", max_seq_length=32)
SCHEMA = token_schema(np.dtype(np.uint16))


def make_sentences(num_documents: int, seed: int) -> list[str]:
    texts = random_documents(num_documents, seed)
    return [text.replace(" the", ". The").replace(" cat", "? Cat") for text in texts]


def make_documents(num_documents: int) -> list[list[list[int]]]:
    """Sentences of ids, like those of pairs of words."""
    generator = np.random.default_rng(3)
    return [
        [generator.integers(5, 50, generator.integers(2, 9)).tolist() for _ in range(1 + row % 5)]
        for row in range(num_documents)
    ]


def make_batch(documents: list[list[list[int]]]) -> pa.RecordBatch:
    codes = pa.array([row % 2 for row in range(len(documents))], pa.int32())
    ids = [[token for sentence in document for token in sentence] for document in documents]
    lengths = [[len(sentence) for sentence in document] for document in documents]
    return pa.RecordBatch.from_arrays(
        [
            pa.DictionaryArray.from_arrays(codes, pa.array(["a.txt", "b.txt"])),
            pa.array(range(len(documents)), pa.uint64()),
            pa.array(ids, SCHEMA.field("input_ids").type),
            pa.array(lengths, SCHEMA.field("sentence_lengths").type),
        ],
        schema=SCHEMA,
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and shards of several files, each of several blocks."""
    folder = tmp_path_factory.mktemp("sound")
    corpus = write_corpus(
        folder / "corpus", {f"{name}.txt": make_sentences(60, i) for i, name in enumerate("ab")}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmdata.building.resumable.ShardWriter", _writer_of_small_blocks)
        build(corpus, folder / "tokens", validation_ratio=0, shard_bytes=4000)
        write_examples(folder / "tokens", NSP, folder / "shards", seed=3, shard_bytes=6000)
    return folder


def _writer_of_small_blocks(*arguments: object, **options: object) -> ShardWriter:
    return ShardWriter(*arguments, **options, batch_bytes=1200)  # type: ignore[arg-type]


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "copy")
    return tmp_path / "copy"


def test_the_store_and_the_shards_have_several_blocks_and_are_sound(sound: Path) -> None:
    for name in ("tokens", "shards"):
        shards = read_manifest(sound / name).splits["train"]
        assert len(shards) > 2
        assert all(len(shard.blocks or ()) > 1 for shard in shards[:-1])
        report = verify_dataset(sound / name)
        assert report.passed, report.rows
    use_store(sound / "tokens")
    use_shards(sound / "shards")


def read_store(folder: Path) -> TokenStore:
    store = open_store(folder)
    for row in range(len(store)):
        store.document(row)
        store.provenance(row)
    return store


def mask_store(folder: Path) -> None:
    for recipe in (NSP, PACKED):
        rows = view(open_store(folder), recipe, seed=1)
        rows.examples(np.arange(len(rows)))


def use_store(folder: Path) -> None:
    read_store(folder)
    mask_store(folder)


def use_shards(folder: Path) -> None:
    examples = open_examples(folder)
    examples.rows(np.arange(len(examples)))


def flip_bit(path: Path, generator: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    data[generator.integers(len(data))] ^= 1 << generator.integers(8)
    path.write_bytes(data)


def truncate(path: Path, generator: np.random.Generator) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: generator.integers(len(data))])


def overwrite(path: Path, generator: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    start = int(generator.integers(len(data) - 8))
    data[start : start + 8] = generator.bytes(8)
    path.write_bytes(data)


def swap_stretches(path: Path, generator: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    size = int(generator.integers(16, 256))
    a, b = sorted(generator.choice(len(data) // size, 2, replace=False) * size)
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    path.write_bytes(data)


def swap_files(path: Path, generator: np.random.Generator) -> None:
    other = generator.choice([p for p in sorted(path.parent.glob("*.arrow")) if p != path])
    data = path.read_bytes()
    path.write_bytes(Path(other).read_bytes())
    Path(other).write_bytes(data)


DAMAGES = (flip_bit, flip_bit, flip_bit, truncate, overwrite, swap_stretches, swap_files)


def plant(folder: Path, seed: int) -> bool:
    """Do one damage to a file of a dataset; return whether anything changed."""
    generator = np.random.default_rng(seed)
    files = [*sorted(folder.glob("*.arrow")), folder / "manifest.json"]
    path = files[generator.integers(len(files))]
    damage = DAMAGES[generator.integers(len(DAMAGES))]
    if damage is swap_files and path.name == "manifest.json":
        damage = flip_bit
    before = path.read_bytes()
    damage(path, generator)
    return path.read_bytes() != before


def find(use: Callable[[Path], object], folder: Path) -> None:
    """Check that a use of a damaged dataset ends in one line that says so."""
    with pytest.raises(LmdataError) as caught:
        use(folder)
    assert "\n" not in str(caught.value)


def check_damage(sound: Path, folder: Path, kind: str, seed: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound / kind, folder)
    if not plant(folder, seed):
        return
    uses = {"tokens": [read_store, mask_store], "shards": [use_shards]}
    for use in uses[kind]:
        find(use, folder)
    with contextlib.suppress(LmdataError):  # of the manifest itself
        assert not verify_dataset(folder).passed


@pytest.mark.parametrize("kind", ["tokens", "shards"])
def test_every_damage_is_found_before_use(sound: Path, tmp_path: Path, kind: str) -> None:
    for seed in range(120):
        check_damage(sound, tmp_path / kind, kind, seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tokens", "shards"])
def test_no_damage_ends_a_process(sound: Path, tmp_path: Path, kind: str) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.lmdata.test_damage import check_damage;"
        "[check_damage(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], seed)"
        " for seed in range(1000, 1500)]; print('all found')"
    )
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, sound, tmp_path / kind, kind],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "all found\n"), done.stderr


def test_a_shard_is_let_go_of_with_its_last_block(sound: Path) -> None:
    folder = sound / "tokens"
    record = read_manifest(folder).splits["train"][0]
    shard = Shard(folder, record, SCHEMA)
    blocks, is_there = shard.blocks, weakref.ref(shard)
    gc.disable()
    try:
        del shard
        assert is_there() is not None
        blocks.clear()
        assert is_there() is None
    finally:
        gc.enable()


def damage_column(folder: Path, number: int, column: str) -> str:
    """Flip a bit of a column in a block of the first file; return the place as it is named."""
    manifest = read_manifest(folder)
    record = manifest.splits["train"][0]
    path = folder / record.file
    places = [buffer.name for buffer in Shard(folder, record, SCHEMA).blocks[number]._buffers]
    assert record.blocks is not None
    block = record.blocks[number]
    data = pa.memory_map(str(path)).read_buffer()
    buffers = Shard(folder, record, SCHEMA).blocks[number]._buffers
    offsets = np.cumsum([block.start, *(len(buffer.data) for buffer in buffers)])
    assert offsets[-1] == block.stop <= data.size
    changed = bytearray(path.read_bytes())
    changed[offsets[places.index(column)]] ^= 4
    path.write_bytes(changed)
    return rf"{record.file}, block {number}, column {column} is damaged"


@pytest.mark.parametrize(
    "column",
    ["source", "position", "input_ids offsets", "input_ids", "sentence_lengths offsets",
     "sentence_lengths"],
)  # fmt: skip
def test_the_file_the_block_and_the_column_are_named(copy: Path, column: str) -> None:
    place = damage_column(copy / "tokens", 1, column)
    with pytest.raises(IntegrityError, match=place):
        read_store(copy / "tokens")
    rows = check_files(copy / "tokens", read_manifest(copy / "tokens"))
    (row,) = [row for row in rows if row.verdict == "fail"]
    assert place.removesuffix(" is damaged") in row.observed
    if column not in {"source", "position"}:
        with pytest.raises(IntegrityError, match=place):
            write_examples(copy / "tokens", NSP, copy / "again", seed=3)
        assert not (copy / "again").exists()


def test_a_block_that_nobody_reads_may_be_damaged(copy: Path) -> None:
    damage_column(copy / "tokens", 1, "input_ids")
    store = open_store(copy / "tokens")
    first = read_manifest(copy / "tokens").splits["train"][0]
    store.document(0)
    store.document(first.rows)
    packed = view(store, PACKED, seed=1)  # lengths and offsets are sound
    with pytest.raises(IntegrityError, match="block 1, column input_ids is damaged"):
        packed.examples(np.arange(len(packed)))


def test_a_dataset_of_version_1_opens_and_is_checked_as_a_whole(copy: Path) -> None:
    for kind, use in (("tokens", use_store), ("shards", use_shards)):
        folder = copy / kind
        before = read_manifest(folder).hash
        make_version_1(folder)
        assert read_manifest(folder).hash != before
        use(folder)
        (row,) = [
            row for row in check_files(folder, read_manifest(folder)) if row.verdict == "skip"
        ]
        assert row.observed == "none in format version 1: files are checked whole"
        path = folder / "train-00000.arrow"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(IntegrityError, match=r"train-00000.arrow (was altered|is damaged)"):
            use(folder)
    assert not verify_dataset(copy / "tokens").passed


LIES: dict[str, Callable[[dict[str, list[list[int]]]], object]] = {
    "id 65535 is not below the vocabulary's": lambda c: c["input_ids"][3].__setitem__(0, 65535),
    "do not sum to the tokens of each document": lambda c: c["sentence_lengths"][3].append(1),
    "there is a sentence without a token": lambda c: c["sentence_lengths"][3].append(0),
}


@pytest.mark.parametrize("message", LIES)
def test_values_that_a_kernel_may_not_meet_are_refused_though_their_hashes_fit(
    tmp_path: Path, message: str
) -> None:
    columns = make_batch(make_documents(9)).to_pydict()
    LIES[message](columns)
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(columns["source"]).dictionary_encode(),
            *(pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names[1:]),
        ],
        schema=SCHEMA,
    )
    write_dataset(tmp_path / "tokens", "tokens", make_tokenizer(), batch)
    with pytest.raises(IntegrityError, match=f"block 0, column .* is damaged .*{message}"):
        use_store(tmp_path / "tokens")
    assert not verify_dataset(tmp_path / "tokens").passed


def test_a_manifest_made_to_fit_may_not_name_other_files(copy: Path) -> None:
    values = json.loads((copy / "tokens" / "manifest.json").read_text())
    values["splits"]["train"][0]["file"] = "../../thesis.arrow"
    edit_manifest(copy / "tokens", splits=values["splits"])
    with pytest.raises(IntegrityError, match="file must be the name of a shard"):
        open_store(copy / "tokens")


WRONG = (None, True, -1, 2**63, 1e300, "", "x", "../x", [], {}, [[]], {"x": 1})


def leaves(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Yield the way to every value of nested JSON, also to those that hold others."""
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value[:2]) if isinstance(value, list) else items
    for key, item in items:
        yield (*path, key)
        yield from leaves(item, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], wrong: object) -> Any:
    """Return nested JSON with one value replaced, or taken out where `wrong` is KeyError."""
    copied = copy_of(value)
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    if wrong is KeyError:
        del inner[path[-1]]
    else:
        inner[path[-1]] = wrong
    return copied


def copy_of(value: Any) -> Any:
    return json.loads(json.dumps(value))


def verdict_of(folder: Path) -> str:
    """Return what verify says of a damaged dataset: the rows that fail, or one clear error."""
    try:
        report = verify_dataset(folder)
    except LmdataError as error:
        return str(error)
    return "; ".join(f"{row.name}: {row.observed}" for row in report.rows if row.verdict == "fail")


@pytest.mark.parametrize("name", ["tokens", "shards"])
def test_verify_never_raises_whatever_the_manifest_says(copy: Path, name: str) -> None:
    folder = copy / name
    manifest = json.loads((folder / "manifest.json").read_text())
    ways = list(leaves(manifest))
    assert len(ways) > 60
    for number, way in enumerate(ways):
        wrong = [KeyError, *WRONG][number % (1 + len(WRONG))]
        if wrong is not KeyError or len(way) > 1:
            text = json.dumps(replaced(manifest, way, wrong))
            (folder / "manifest.json").write_text(text)
            verdict_of(folder)  # no other exception


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tokens", "shards"])
def test_verify_gives_a_verdict_on_every_wrong_value_and_damaged_file(
    copy: Path, name: str
) -> None:
    folder = copy / name
    manifest = json.loads((folder / "manifest.json").read_text())
    for way in leaves(manifest):
        for wrong in (KeyError, *WRONG):
            text = json.dumps(replaced(manifest, way, wrong))
            (folder / "manifest.json").write_text(text)
            verdict_of(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        data, found = path.read_bytes(), []
        for seed in range(12):
            for damage in (flip_bit, truncate, overwrite, swap_stretches):
                if damage is swap_stretches and len(data) < 1024:
                    continue
                damage(path, np.random.default_rng(seed))
                found.append((path.read_bytes() == data, verdict_of(folder)))
                path.write_bytes(data)
        if path.suffix == ".arrow":
            assert all(same or path.name in verdict for same, verdict in found)
