"""Does a dataset hold what it promises? Files, ledger and, of examples, statistics.

The verdicts of counts are exact. The verdicts of random quantities use intervals of five standard
deviations, which a correct dataset leaves once in 1.7 million checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lmdata.checking.checks import Row, Verdict, exact
from lmdata.checking.contents import check_shards, check_store
from lmdata.copies import at_hand
from lmdata.errors import LmdataError
from lmdata.schema import Manifest, ShardRecord, dataset_schema, read_manifest
from lmdata.shards import Shard
from lmdata.tokenizer import TOKENIZER_FOLDER, Tokenizer, load_tokenizer


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found; one row a check."""

    path: str
    kind: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(row.verdict != "fail" for row in self.rows)


def verify_dataset(path: Path | str, *, store_path: Path | str | None = None) -> Report:
    """Return a report on a token store or on example shards; reads every byte.

    Args:
        path: a dataset folder
        store_path: of example shards, the store they were made from; by default where the manifest
            says it was. Without it, the checks against the documents are skipped.

    Raises:
        IntegrityError: there is no readable manifest to compare with
        VersionError: written by a newer format version
    """
    folder = at_hand(path)
    manifest = read_manifest(folder)
    rows = list(check_files(folder, manifest))
    tokenizer, row = check_tokenizer(folder, manifest)
    rows.append(row)
    if tokenizer is not None and all(row.verdict != "fail" for row in rows):
        rows += _check_contents(folder, manifest, tokenizer, store_path)
    else:
        rows.append(Row("contents", "", "not looked at: the files are damaged", "", "skip"))
    return Report(path=str(path), kind=manifest.kind, rows=tuple(rows))


def _check_contents(
    folder: Path, manifest: Manifest, tokenizer: Tokenizer, store_path: Path | str | None
) -> Iterator[Row]:
    try:
        if manifest.kind == "tokens":
            yield from check_store(folder, manifest, tokenizer)
        else:
            yield from check_shards(folder, manifest, tokenizer, store_path)
    except LmdataError as error:  # hashes that were made to fit what can't be read
        yield Row("contents", "can be read", str(error), "", "fail")


def check_files(folder: Path, manifest: Manifest) -> Iterator[Row]:
    """Yield whether every shard is there, unaltered, with the promised columns and counts."""
    for split, shards in manifest.splits.items():
        problems = [list(_problems_of(folder, manifest, shard)) for shard in shards]
        found = f"{sum(not problem for problem in problems)} whole"
        name = f"{split}: shards, by size, xxh3, columns and counts"
        texts = [str(error) for errors in problems for error in errors]
        verdict: Verdict = "fail" if texts else "pass"
        yield Row(name, f"{len(shards)} whole", "; ".join([found, *texts[:3]]), "", verdict)
    if manifest.format_version == 1:
        name, found = "hashes of single blocks", "none in format version 1: files are checked whole"
        yield Row(name, "", found, "", "skip")
    yield _check_strangers(folder, manifest)


def _problems_of(folder: Path, manifest: Manifest, record: ShardRecord) -> Iterator[LmdataError]:
    """Yield what is wrong with a shard: in which block and column, where the manifest tells."""
    try:
        shard = Shard(folder, record, dataset_schema(manifest))
        blocks = shard.blocks
        in_blocks = [error for block in blocks for error in block.damages()]
        yield from in_blocks
        if not in_blocks:
            shard.check_whole()
            for block in blocks:
                block.read()
    except LmdataError as error:
        yield error


def _check_strangers(folder: Path, manifest: Manifest) -> Row:
    """Return whether there are Arrow files that the manifest does not know."""
    known = {shard.file for shards in manifest.splits.values() for shard in shards}
    strangers = sorted(path.name for path in folder.glob("*.arrow") if path.name not in known)
    return exact("files that the manifest does not name", "none", ", ".join(strangers) or "none")


def check_tokenizer(folder: Path, manifest: Manifest) -> tuple[Tokenizer | None, Row]:
    """Return the dataset's tokenizer, if it is the right one, and the row that says so."""
    name = "tokenizer, by hash"
    try:
        tokenizer = load_tokenizer(folder / TOKENIZER_FOLDER)
    except LmdataError as error:
        return None, Row(name, manifest.tokenizer.hash, str(error), "", "fail")
    row = exact(name, manifest.tokenizer.hash, tokenizer.hash)
    return (tokenizer if row.verdict == "pass" else None), row
