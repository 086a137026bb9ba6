"""The first two steps of the road, from paths to folders: a tokenizer, then a token store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lmdata.corpus import CorpusConfig, Documents, Source, find_sources, read_documents
from lmdata.encoding import make_encoder
from lmdata.errors import CorpusError, OutputError
from lmdata.plan import TokenizeConfig
from lmdata.schema import Manifest
from lmdata.tokenize import DEFAULT_MEMORY_BYTES, tokenize_corpus
from lmdata.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from lmdata.training import TokenizerConfig, train_tokenizer
from lmdata.writer import output_errors

DEFAULT_TOKENIZER = Path("tokenizer")

OnBytes = Callable[[int, int], None]
OnProgress = Callable[[int, int, int], None]


def build_tokenizer(
    arguments: Sequence[str], output: Path, config: TokenizerConfig, corpus: CorpusConfig, *,
    num_workers: int = 2, overwrite: bool = False, progress: OnBytes | None = None,
) -> Tokenizer:  # fmt: skip
    """Train a tokenizer on files and write its folder.

    Args:
        arguments: files, folders, globs or "-"
        output: folder to write; it appears whole or not at all
        config: what to train
        corpus: how to read the files
        num_workers: threads; does not change the result
        overwrite: replace what is in `output`
        progress: called with (bytes of files read, bytes of all files)

    Raises:
        CorpusError: an input is missing or broken
        TokenizerError: the text can't give such a tokenizer
        OutputError: `output` exists or can't be written
    """
    if output.exists() and not overwrite:
        raise OutputError(
            f"{output} exists: add --overwrite to replace it, or choose another --output"
        )
    sources = find_sources(arguments, corpus)
    batches = _documents_of(sources, corpus, progress)
    tokenizer = train_tokenizer(batches, config, num_threads=num_workers)
    _replace_folder(tokenizer, output)
    return tokenizer


def build_store(
    arguments: Sequence[str], output: Path, config: TokenizeConfig, *,
    tokenizer_path: Path | None = None, num_workers: int = 2,
    memory_bytes: int = DEFAULT_MEMORY_BYTES, overwrite: bool = False,
    progress: OnProgress | None = None, say: Callable[[str], None] | None = None,
    verbose: bool = False,
) -> Manifest:  # fmt: skip
    """Tokenize files into a token store, training a WordPiece tokenizer first if there is none.

    Args:
        arguments: files, folders, globs or "-"
        output: folder to write
        config: everything that changes the result
        tokenizer_path: any existing tokenizer; None: the folder `tokenizer`, made if absent
        num_workers: worker processes; does not change the result
        memory_bytes: budget of all processes together
        overwrite: replace what is in `output`
        progress: called with (bytes done, bytes in all, documents done)
        say: called with a line about what was decided for the user
        verbose: say how the text is encoded too, and why so

    Raises:
        LmdataError: as `build_tokenizer` and `lmdata.tokenize.tokenize_corpus`
    """
    sources = find_sources(arguments, config.corpus)
    if tokenizer_path is None and not DEFAULT_TOKENIZER.exists():
        _check_readable_twice(sources)
        if say:
            say(f"no {DEFAULT_TOKENIZER}/ here: training a WordPiece tokenizer on the corpus first")
        build_tokenizer(
            arguments, DEFAULT_TOKENIZER, TokenizerConfig(allow_smaller=True), config.corpus,
            num_workers=num_workers,
        )  # fmt: skip
    tokenizer = load_tokenizer(tokenizer_path or DEFAULT_TOKENIZER)
    if say and verbose:
        encoder = make_encoder(tokenizer)
        say(f"encoding by {encoder.kind}: {encoder.reason}")
    return tokenize_corpus(
        sources, config, tokenizer, output, num_workers=num_workers, memory_bytes=memory_bytes,
        overwrite=overwrite, progress=progress,
    )  # fmt: skip


def _documents_of(
    sources: Sequence[Source], config: CorpusConfig, progress: OnBytes | None
) -> Iterator[Documents]:
    total = sum(source.size_bytes for source in sources)
    done = 0
    for source in sources:
        yield from read_documents(source, config)
        done += source.size_bytes
        if progress:
            progress(done, total)


def _check_readable_twice(sources: Sequence[Source]) -> None:
    if any(source.path is None for source in sources):
        raise CorpusError(
            "standard input can be read only once and there is no tokenizer yet: give one with "
            "--tokenizer, or save the text to a file first"
        )


def _replace_folder(tokenizer: Tokenizer, output: Path) -> None:
    """Write the tokenizer's folder beside its place, then move it there."""
    temporary = output.with_name(f".{output.name}.tmp")
    with output_errors(output):
        shutil.rmtree(temporary, ignore_errors=True)
        save_tokenizer(tokenizer, temporary)
        if output.exists():
            shutil.rmtree(output)
        temporary.rename(output)
