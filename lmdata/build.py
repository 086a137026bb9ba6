"""The first two steps of the road, from paths to folders: a tokenizer, then a token store.

What learns and reads is imported when it is needed: a wrong path or setting is answered before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmdata.building.memory import MemoryBudget
from lmdata.building.output import check_apart, check_free, check_unfinished, place_of
from lmdata.building.plan import DEFAULT_UNIT_BYTES, Choice, Unit, make_units
from lmdata.building.resumable import FACTS, Part, PartDone, read_plan
from lmdata.building.workers import Died, Failed, Finished, Workers
from lmdata.encoding import RoundTrip, make_encoder
from lmdata.errors import ConfigError, CorpusError, LmdataError, MismatchError
from lmdata.files import Kind, output_errors, writing_folder
from lmdata.reading.sources import Source, survey_sources
from lmdata.schema import Manifest
from lmdata.settings import DEFAULT_TOKENIZER, CorpusConfig, TokenizeConfig, TokenizerConfig
from lmdata.tokenizer import TOKENIZER_FILES, Tokenizer, load_tokenizer, save_tokenizer
from lmdata.tokens import DEFAULT_MEMORY_BYTES, finish_store, tokenize_corpus

if TYPE_CHECKING:
    from lmdata.corpus import Documents
    from lmdata.tagging.manifests import TagManifest

_MOST_UNKNOWN = 0.02  # of the characters, before the default tokenizer is of another kind
TOKENIZER = Kind(
    "a tokenizer", lambda folder: (folder / "tokenizer_config.json").is_file(), TOKENIZER_FILES
)

OnBytes = Callable[[int, int], None]
OnProgress = Callable[[int, int, int], None]


def build_tokenizer(
    arguments: Sequence[str], output: Path, config: TokenizerConfig, corpus: CorpusConfig, *,
    num_workers: int = 2, overwrite: bool = False, progress: OnBytes | None = None,
    report: Callable[[RoundTrip], None] | None = None, workers: Workers | None = None,
    say: Callable[[str], None] | None = None, selection_path: Path | None = None,
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
        report: called with what comes back of the text that it was trained on
        workers: of another engine, which run `prepare_counts`; ended here
        say: called with a line about what was decided for the user
        selection_path: a folder that `lmdata select` wrote; None: every document is read

    Raises:
        CorpusError: an input is missing or broken
        MismatchError: the selection is of another corpus
        TokenizerError: the text can't give such a tokenizer
        OutputError: `output` exists or can't be written
    """
    survey = survey_sources(arguments, corpus)
    sources = survey.sources
    selection = _open_selection(selection_path, sources, corpus)
    if say is not None:
        for note in survey.notes:
            say(note)
    from lmdata.tokenizer_training import CountSetup, learn_tokenizer, train_tokenizer

    with writing_folder(output, TOKENIZER, overwrite=overwrite) as folder:
        if workers is None:
            batches = _documents_of(sources, corpus, progress, selection)
            tokenizer = train_tokenizer(batches, config, num_threads=num_workers, report=report)
        else:
            with closing(workers):
                workers.prepare(CountSetup(sources, corpus, config, selection), -1)
                units = make_units(sources, corpus, DEFAULT_UNIT_BYTES)
                tallies = _in_turn(workers, units, sources, progress)
                tokenizer = learn_tokenizer(tallies, config, report)
        with output_errors(output):
            save_tokenizer(tokenizer, folder)
    return tokenizer


def _in_turn(
    workers: Workers, units: Sequence[Unit], sources: Sequence[Source], progress: OnBytes | None
) -> Iterator[Any]:
    """Yield the result of every unit as it comes, whose order is of no matter.

    Raises:
        LmdataError: what a unit raised, or a worker died
    """
    total = sum(source.size_bytes for source in sources)
    waiting, idle, num_done = list(units)[::-1], list(range(workers.num_workers)), 0
    while num_done < len(units):
        while idle and waiting:
            workers.submit(idle.pop(), waiting.pop())
        for message in workers.receive(0.25):
            match message:
                case Finished(worker, result):
                    idle.append(worker)
                    num_done += 1
                    yield result
                case Failed(_, error):
                    raise error
                case Died(_, reason):
                    raise LmdataError(f"a worker {reason} while it counted: type it again")
        if progress is not None:
            progress(total * num_done // len(units), total)


@dataclass(frozen=True)
class StoreBuild:
    """A token store, or what was done of one, and the files that were not read, by reason."""

    manifest: Manifest | PartDone
    skipped: dict[str, list[str]]


def build_store(
    arguments: Sequence[str], output: Path | str, config: TokenizeConfig, *,
    tokenizer_path: Path | None = None, num_workers: int = 2,
    memory_bytes: int = DEFAULT_MEMORY_BYTES, overwrite: bool = False,
    progress: OnProgress | None = None, say: Callable[[str], None] | None = None,
    verbose: bool = False, workers: Workers | None = None, selection_path: Path | None = None,
    part: Part | None = None,
) -> StoreBuild:  # fmt: skip
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
        workers: from `start_tokenizing`, when started early; sets `num_workers`
        selection_path: a folder that `lmdata select` wrote; None: every document is read
        part: do only these units, beside other commands that do the others

    Raises:
        LmdataError: as `build_tokenizer` and `lmdata.tokens.tokenize_corpus`
    """
    say = say or (lambda _: None)
    MemoryBudget(memory_bytes, workers.num_workers if workers else num_workers).divide()
    survey = survey_sources(arguments, config.corpus)
    selection = _open_selection(selection_path, survey.sources, config.corpus)
    check_apart(tokenizer_path or DEFAULT_TOKENIZER, output)
    check_free(output, overwrite=overwrite)
    for note in survey.notes:
        say(note)
    is_there = tokenizer_path is not None or DEFAULT_TOKENIZER.exists()
    if part is not None:
        _check_parts_fit(survey.sources, is_there, overwrite)
    if not is_there:
        _check_readable_twice(survey.sources)
        _build_default_tokenizer(arguments, config.corpus, num_workers, say)
    tokenizer = load_tokenizer(tokenizer_path or DEFAULT_TOKENIZER)
    if is_there and tokenizer_path is None:
        say(
            f"taking the tokenizer that lies in {DEFAULT_TOKENIZER}/: "
            f"{tokenizer.definition['model']['type']}, {tokenizer.vocab_size:,} pieces"
        )
    for note in tokenizer.notes:
        say(note)
    if verbose:
        encoder = make_encoder(tokenizer)
        say(f"encoding by {encoder.kind}: {encoder.reason}")
    manifest = tokenize_corpus(
        survey.sources, config, tokenizer, output, num_workers=num_workers,
        memory_bytes=memory_bytes, overwrite=overwrite, progress=progress, workers=workers,
        selection=selection, part=part,
    )  # fmt: skip
    return StoreBuild(manifest, survey.skipped)


def _build_default_tokenizer(
    arguments: Sequence[str], corpus: CorpusConfig, num_workers: int, say: Callable[[str], None]
) -> None:
    """Train a WordPiece tokenizer, or Unigram where WordPiece would lose much of the text."""
    from lmdata.tokenizer_training import UnspacedTextError

    say(f"no {DEFAULT_TOKENIZER}/ here: training a WordPiece tokenizer on the corpus first")
    found: list[RoundTrip] = []
    try:
        build_tokenizer(
            arguments, DEFAULT_TOKENIZER, TokenizerConfig(allow_smaller=True), corpus,
            num_workers=num_workers, report=found.append,
        )  # fmt: skip
    except UnspacedTextError:
        say("every word is too long for WordPiece, as in text without spaces")
    else:
        if found[0].unknown_ratio <= _MOST_UNKNOWN:
            return
        say(f"{found[0].unknown_ratio:.0%} of the text would be unknown to WordPiece")
    say("training a Unigram tokenizer instead, which needs no spaces between words")
    build_tokenizer(
        arguments, DEFAULT_TOKENIZER,
        TokenizerConfig(model="unigram", allow_smaller=True), corpus,
        num_workers=num_workers, overwrite=True,
    )  # fmt: skip


def _open_selection(
    path: Path | None, sources: list[Source], corpus: CorpusConfig
) -> Choice | None:
    if path is None:
        return None
    from lmdata.selection import open_selection  # which reads tags: seconds to import

    return open_selection(path, sources, corpus)


def _documents_of(
    sources: Sequence[Source], config: CorpusConfig, progress: OnBytes | None,
    selection: Choice | None,
) -> Iterator[Documents]:  # fmt: skip
    from lmdata.corpus import read_documents

    total = sum(source.size_bytes for source in sources)
    done = 0
    for source in sources:
        for documents in read_documents(source, config):
            yield documents if selection is None else selection.keep(source, 0, documents)
        done += source.size_bytes
        if progress:
            progress(done, total)


def _check_parts_fit(sources: Sequence[Source], has_tokenizer: bool, overwrite: bool) -> None:
    """Check that what every part reads is the same.

    Raises:
        ConfigError: it can't be
    """
    if not has_tokenizer:
        raise ConfigError(
            "all parts of a build need one tokenizer, and there is none here: give --tokenizer, or "
            "make one first by `lmdata train-tokenizer`"
        )
    check_part(sources, overwrite=overwrite)


def check_part(sources: Sequence[Source], *, overwrite: bool) -> None:
    """Check that a build can be done in parts.

    Raises:
        ConfigError: it reads standard input, or would remove what other parts have done
    """
    if any(source.path is None for source in sources):
        raise ConfigError(
            "standard input can't be read by several commands: save it to a file first, or leave "
            "--part out"
        )
    if overwrite:
        raise ConfigError(
            "--overwrite with --part would remove what other parts have done: remove the output "
            "yourself first, and leave --overwrite out"
        )


def finish_dataset(
    output: Path | str, progress: OnProgress | None = None
) -> Manifest | TagManifest:
    """Put together what the parts of a build have done, and write its manifest.

    Args:
        output: of `lmdata tokenize --part` or `lmdata tag --part`
        progress: called with (bytes done, bytes in all, documents done)

    Raises:
        IntegrityError: units are missing, or there is no such build
        OutputError: it is finished, a part is being done still, or the disk is full
    """
    place = place_of(output)
    check_unfinished(output)
    kind = read_plan(place).get(FACTS, {}).get("kind")
    if kind == "tokens":
        return finish_store(output, progress)
    if kind == "tags":
        from lmdata.tags import finish_tags  # which brings what tags are made by

        return finish_tags(output)
    raise MismatchError(
        f"{output} holds an unfinished build that is not done in parts: type the command that "
        "began it again to go on"
    )


def _check_readable_twice(sources: Sequence[Source]) -> None:
    if any(source.path is None for source in sources):
        raise CorpusError(
            "standard input can be read only once and there is no tokenizer yet: give one with "
            "--tokenizer, or save the text to a file first"
        )
