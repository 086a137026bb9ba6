"""`lmdata`: raw text to training examples, one function a verb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import (
    FriendlyGroup,
    config_option,
    echo_result,
    json_option,
    num_workers_option,
    output_option,
    overwrite_option,
    quiet_option,
    reading_options,
    resolve,
    seed_option,
    set_option,
)
from .progress import ProgressLine
from .summaries import (
    manifest_lines,
    manifest_summary,
    report_lines,
    sample_corpus_lines,
    stats_lines,
    tokenizer_lines,
)

FOLDER = click.Path(path_type=Path)


@click.group(cls=FriendlyGroup, context_settings={"max_content_width": 100})
@click.version_option(package_name="lmdata-lmmodel")
def main() -> None:
    """Raw text to training examples: exact, fast, resumable.

    \b
    The whole road, in a folder that holds corpus/:
      lmdata tokenize corpus/
      lmdata mask --rate 0.15
      lmmodel train shards/
    """


@main.command("sample-corpus")
@click.argument("output", type=FOLDER, default="corpus")
@click.option("--max-megabytes", type=click.FloatRange(min=0.01), help="Stop after this much text.")
@overwrite_option
@json_option
@quiet_option
def sample_corpus(
    output: Path, max_megabytes: float | None, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    """Write the English prose that this Python installation carries as a corpus.

    \b
    Example: lmdata sample-corpus corpus/
    """
    from lmdata.sample_corpus import write_sample_corpus

    max_bytes = None if max_megabytes is None else int(max_megabytes * 1e6)
    with ProgressLine("harvesting", unit="files", quiet=quiet) as line:
        result = write_sample_corpus(
            output, max_bytes=max_bytes, overwrite=overwrite, progress=line.update
        )
    lines = sample_corpus_lines(result, output)
    echo_result(result, as_json=as_json, quiet=quiet, lines=lines)


@main.command("train-tokenizer")
@click.argument("corpus", nargs=-1, required=True)
@click.option("--model", type=click.Choice(["wordpiece", "bpe", "unigram"]),
              help="Kind of tokenizer.  [default: wordpiece]")
@click.option("--vocab-size", type=click.IntRange(min=1), help="Pieces.  [default: 30522]")
@click.option("--uncased/--cased", "lowercase", default=None, help="Lower-case the text, or not.")
@click.option("--special-token", "special_tokens", multiple=True, metavar="TOKEN",
              help="Special token, in the order of their ids; may be repeated.")
@reading_options
@output_option("tokenizer")
@overwrite_option
@config_option
@set_option
@json_option
@quiet_option
def train_tokenizer(
    corpus: tuple[str, ...], output: Path, overwrite: bool, as_json: bool, quiet: bool,
    config_path: Path | None, overrides: tuple[str, ...], **options: Any,
) -> None:
    """Train a tokenizer that transformers.AutoTokenizer opens; the same text, the same bytes.

    \b
    Example: lmdata train-tokenizer corpus/ --vocab-size 16384
    """
    from lmdata.corpus import CorpusConfig
    from lmdata.training import TokenizerConfig, train_tokenizer_files

    reading = {name: options.pop(name) for name in READING}
    options["special_tokens"] = options["special_tokens"] or None
    config = resolve(TokenizerConfig, config_path, overrides, **options)
    corpus_config = resolve(CorpusConfig, None, (), **reading)
    with ProgressLine("training the tokenizer", quiet=quiet) as line:
        tokenizer = train_tokenizer_files(
            corpus, output, config, corpus_config, overwrite=overwrite, progress=line.update
        )
    summary = {"output": str(output), "vocab_size": tokenizer.vocab_size, "hash": tokenizer.hash}
    echo_result(summary, as_json=as_json, quiet=quiet, lines=tokenizer_lines(tokenizer, output))


READING = ("text_field", "documents", "encoding", "errors")
