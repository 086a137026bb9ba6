"""Domains of the real data, languages and kinds of English, as text and as token stores."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measure import DATA

MOST_DOCUMENT = 4000  # letters of a document
LEAST_DOCUMENT = 100
CAPTIONS = {"captions": "en", "captions-fr": "fr"}  # of pictures: domains, and their languages


def documents_of(domain: str, folder: Path) -> Iterator[str]:
    """Yield the documents of a domain of the real data."""
    if domain == "docstrings":
        subprocess.run(
            ["lmdata", "sample-corpus", "all", "--overwrite", "--quiet"], cwd=folder, check=True
        )
        for path in sorted((folder / "all").rglob("*.txt")):
            yield from path.read_text(encoding="utf-8").split("\n\n\n")
    elif domain == "reviews":
        lines = opened(next((DATA / "tasks/sst2").glob("train*"))).split("\n")[1:]
        yield from by_eight([line.partition("\t")[0].strip() for line in lines])
    elif domain in CAPTIONS:
        path = DATA / f"tasks/multi30k/train.{CAPTIONS[domain]}.gz"
        yield from by_eight(opened(path).split("\n"))
    elif domain in ("wiki", "zh", "ko"):
        where = DATA / ("wikipedia-en" if domain == "wiki" else f"multilingual/{domain}")
        for path in sorted(where.glob("*.jsonl.zst")):
            for line in opened(path).strip().split("\n"):
                yield json.loads(line)["text"]
    else:
        where = DATA / ("gutenberg" if domain == "books" else f"multilingual/{domain}")
        for path in sorted(where.glob("*.txt.*")):
            yield from passages(opened(path).replace("\r\n", "\n"), is_wrapped=domain == "books")


def opened(path: Path) -> str:
    """Return the text of a file that may be compressed."""
    raw = path.read_bytes()
    if path.suffix == ".zst":
        import zstandard

        raw = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw)).read()
    elif path.suffix == ".gz":
        raw = gzip.decompress(raw)
    return raw.decode("utf-8", "replace")


def by_eight(lines: Sequence[str]) -> Iterator[str]:
    """Yield documents of eight lines.

    Example:
        >>> list(by_eight(["one", "two"]))
        ['one two']
    """
    for start in range(0, len(lines), 8):
        yield " ".join(lines[start : start + 8])


def passages(text: str, *, is_wrapped: bool) -> Iterator[str]:
    """Yield stretches of about 2,000 letters that end with a paragraph.

    Example:
        >>> list(passages("one", is_wrapped=False))
        ['one']
    """
    kept: list[str] = []
    for paragraph in text.split("\n\n" if is_wrapped else "\n"):
        kept.append(" ".join(paragraph.split()))
        if sum(map(len, kept)) > 2000:
            yield "\n".join(kept)
            kept = []
    if kept:
        yield "\n".join(kept)


def write_domain(domain: str, corpus: Path, most_bytes: int) -> None:
    """Write documents of a domain, spread over four times as many, as a file of JSON lines."""
    texts, total = [], 0
    for text in documents_of(domain, corpus.parent):
        if len(text) >= LEAST_DOCUMENT:
            texts.append(text[:MOST_DOCUMENT])
            total += len(texts[-1].encode())
        if total > 4 * most_bytes:
            break
    step = max(1.0, total / most_bytes)
    rows = [texts[int(place * step)] for place in range(int(len(texts) / step))]
    (corpus / domain).mkdir(parents=True)
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in rows]
    (corpus / domain / f"{domain}.jsonl").write_text("".join(lines), encoding="utf-8")


def make_stores(
    folder: Path, domains: Sequence[str], new: str, *, num_bytes: int, vocab_size: int
) -> None:
    """Make a tokenizer, a store of each domain and one of all, once.

    Args:
        folder: where they lie
        domains: that the tokenizer and the store `tokens` are of
        new: a domain that has a store, and is in neither
        num_bytes: of each domain
        vocab_size: of the tokenizer
    """
    make_corpus(folder / "corpus", domains, num_bytes)
    make_corpus(folder / "corpus-new", [new], num_bytes)
    lmdata(folder, "tokenizer", "train-tokenizer", "corpus", "--model", "bpe", "--vocab-size",
           str(vocab_size))  # fmt: skip
    corpora = {"tokens": "corpus", f"tokens-{new}": "corpus-new"}
    corpora |= {f"tokens-{domain}": f"corpus/{domain}" for domain in domains}
    for store, corpus in corpora.items():
        lmdata(folder, store, "tokenize", corpus, "--tokenizer", "tokenizer", "--set",
               "validation_ratio=0.1")  # fmt: skip


def make_corpus(corpus: Path, domains: Sequence[str], num_bytes: int) -> None:
    """Make a folder with a folder of each domain, once."""
    if corpus.exists():
        return
    made = corpus.with_suffix(".partial")
    for domain in domains:
        if not (made / domain).exists():
            write_domain(domain, made, num_bytes)
    made.rename(corpus)


def lmdata(folder: Path, output: str, *arguments: str) -> None:
    """Run a verb of lmdata that makes a folder, unless it is there; go on with one stopped."""
    if not any((folder / output / last).exists() for last in ("manifest.json", "tokenizer.json")):
        command = ["lmdata", *arguments, "--output", output, "--quiet"]
        subprocess.run(command, cwd=folder, check=True)
