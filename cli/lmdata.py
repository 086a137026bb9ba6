"""`lmdata`: raw text to training examples, one function a verb."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmdata.errors import counted

from . import looking
from .curating import clean, compare, select, select_option, tag
from .looking import export
from .options import (
    FOLDER,
    NAME,
    PLACE,
    FriendlyGroup,
    Size,
    by_key,
    config_option,
    echo_part,
    echo_result,
    engine_options,
    num_cores,
    num_workers_option,
    output_option,
    overwrite_option,
    part_option,
    reading_options,
    resolve,
    result_options,
    say,
    seed_option,
    set_option,
    start_engine,
)
from .summaries import (
    ProgressLine,
    dataset_summary,
    manifest_lines,
    passed_over_lines,
    size,
    tokenizer_lines,
    tokenizer_summary,
)

if TYPE_CHECKING:
    from lmdata.building.resumable import Part


@click.group("lmdata", cls=FriendlyGroup, context_settings={"max_content_width": 100})
@click.version_option(package_name="lmdata-lmmodel")
def main() -> None:
    """Raw text to training examples: exact, fast, resumable.

    \b
    The whole road, in a folder that holds corpus/:
      lmdata tokenize corpus/
      lmdata mask --rate 0.15
      lmmodel train shards/
    """


for verb in (*looking.VERBS, export):
    main.add_command(verb)


@main.command("sample-corpus")
@click.argument("output", type=FOLDER, default="corpus")
@click.option("--max-megabytes", type=click.FloatRange(min=0.01), help="Stop after this much text.")
@overwrite_option
@result_options
def sample_corpus(
    output: Path, max_megabytes: float | None, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    """Write the English prose that this Python installation carries as a corpus.

    \b
    Example: lmdata sample-corpus corpus/
    """
    from lmdata.sample_corpus import write_sample_corpus

    max_bytes = None if max_megabytes is None else int(max_megabytes * 1e6)
    with ProgressLine("harvesting docstrings", unit="bytes", quiet=quiet) as line:
        result = write_sample_corpus(
            output, max_bytes=max_bytes, overwrite=overwrite, progress=line.update
        )
    text = (
        f"{output}/  {size(result.num_bytes)} of text: {result.num_documents:,} documents, "
        f"{result.num_paragraphs:,} paragraphs"
    )
    echo_result({"output": str(output), **vars(result)}, as_json=as_json, quiet=quiet, lines=[text])


@main.command("train-tokenizer")
@click.argument("corpus", type=NAME, nargs=-1, required=True)
@click.option("--model", type=click.Choice(["wordpiece", "bpe", "unigram"]),
              help="Kind of tokenizer.  [default: wordpiece]")  # fmt: skip
@click.option("--vocab-size", type=click.IntRange(min=1), help="Pieces.  [default: 30522]")
@click.option("--uncased/--cased", "lowercase", default=None, help="Lower-case the text, or not.")
@click.option("--strip-accents", is_flag=True, default=None, help="Take combining marks away.")
@click.option(
    "--special-token",
    "special_tokens",
    multiple=True,
    metavar="TOKEN",
    help="Padding, unknown, begin, separator, mask, then any others: give all or none.",
)
@click.option("--num-sentinels", type=click.IntRange(min=0),
              help="Special tokens <extra_id_0> ..., which T5 has 100 of.")  # fmt: skip
@click.option("--splits", type=click.Choice(["gpt2", "gpt4"]),
              help="Of bpe: rules that cut text first.  [default: gpt2]")  # fmt: skip
@select_option
@engine_options
@reading_options
@output_option("tokenizer")
@num_workers_option
@overwrite_option
@config_option
@set_option
@result_options
def train_tokenizer(
    corpus: tuple[str, ...], selection_path: Path | None, engine: str, address: str | None,
    output: Path, num_workers: int | None, overwrite: bool, config_path: Path | None,
    overrides: tuple[str, ...], as_json: bool, quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Train a tokenizer that transformers.AutoTokenizer opens; the same text, the same bytes.

    \b
    Example: lmdata train-tokenizer corpus/ --vocab-size 16384
    """
    from lmdata.config import build_config, gather
    from lmdata.settings import CorpusConfig, TokenizerConfig

    settings = gather(config_path, overrides, options=by_key(options))
    reading = build_config(CorpusConfig, settings.pop("corpus", {}), "corpus.")
    settings.setdefault("allow_smaller", "vocab_size" not in settings)
    config = build_config(TokenizerConfig, settings)

    from lmdata.build import build_tokenizer
    from lmdata.encoding import RoundTrip

    found: list[RoundTrip] = []
    with ProgressLine("training the tokenizer", unit="bytes", quiet=quiet) as line:
        tokenizer = build_tokenizer(
            corpus, output, config, reading, num_workers=num_workers or num_cores(),
            overwrite=overwrite, progress=line.update, report=found.append,
            workers=start_engine("counts", engine, address, num_workers),
            say=None if quiet else say, selection_path=selection_path,
        )  # fmt: skip
    facts = tokenizer_summary(tokenizer, output, found[0])
    lines = tokenizer_lines(tokenizer, output, config.vocab_size, found[0])
    echo_result(facts, as_json=as_json, quiet=quiet, lines=lines)


@main.command()
@click.argument("corpus", type=NAME, nargs=-1, required=True)
@click.option(
    "--tokenizer",
    "tokenizer_path",
    type=FOLDER,
    help="Folder, dataset, tokenizer.json, vocab.txt or vocab.json.  [default: tokenizer/]",
)
@click.option("--sentences", type=click.Choice(["rules", "lines", "none"]),
              help="Where sentences end.  [default: rules]")  # fmt: skip
@click.option("--shard-size", "shard_bytes", type=Size("MB"), metavar="SIZE",
              help="Target size of a shard, such as 256MB.  [default: 256MB]")  # fmt: skip
@click.option(
    "--memory",
    "memory_bytes",
    type=Size("MiB"),
    default="1GiB",
    show_default=True,
    metavar="SIZE",
    help="Budget of all processes together, such as 4GiB.",
)
@select_option
@click.option("--verbose", is_flag=True, help="Say how the text is encoded, and why so.")
@part_option
@engine_options
@reading_options
@output_option("tokens", is_anywhere=True)
@seed_option
@num_workers_option
@overwrite_option
@config_option
@set_option
@result_options
def tokenize(
    corpus: tuple[str, ...], tokenizer_path: Path | None, shard_bytes: int | None,
    memory_bytes: int, selection_path: Path | None, verbose: bool, part: Part | None, engine: str,
    address: str | None, output: Path | str, seed: int | None, num_workers: int | None,
    overwrite: bool, config_path: Path | None, overrides: tuple[str, ...], as_json: bool,
    quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Turn text into a token store: every document once, exactly as `tokenizers` encodes it.

    Without a tokenizer, a WordPiece tokenizer is trained on the corpus first. An interrupted
    command goes on where it stopped when it is typed again.

    \b
    Example: lmdata tokenize corpus/
    Example: lmdata tokenize 'wiki/*.jsonl.zst' --tokenizer vocab.txt --output wiki-tokens
    """
    from lmdata.building.workers import start_tokenizing
    from lmdata.settings import DEFAULT_TOKENIZER, TokenizeConfig

    start = time.perf_counter()
    config = resolve(
        TokenizeConfig, config_path, overrides, shard_bytes=shard_bytes, seed=seed, **options
    )
    # The workers load their kernels while this process imports what it needs.
    pool = start_engine("tokens", engine, address, num_workers)
    pool = pool or start_tokenizing(
        num_workers or num_cores(), tokenizer_path=tokenizer_path or DEFAULT_TOKENIZER
    )
    with contextlib.closing(pool) as workers:
        from lmdata.build import build_store
        from lmdata.building.resumable import PartDone

        with ProgressLine("tokenizing", unit="bytes", quiet=quiet) as line:
            built = build_store(
                corpus, output, config, tokenizer_path=tokenizer_path,
                num_workers=workers.num_workers, memory_bytes=memory_bytes,
                overwrite=overwrite, say=None if quiet else say, verbose=verbose,
                progress=lambda done, total, documents: line.update(done, total),
                workers=workers, selection_path=selection_path, part=part,
            )  # fmt: skip
    if isinstance(built.manifest, PartDone):
        return echo_part(built.manifest, output, as_json=as_json, quiet=quiet)
    return report_dataset(
        built.manifest, output, start, "documents", skipped=built.skipped, as_json=as_json,
        quiet=quiet,
    )  # fmt: skip


@main.command()
@click.argument("tokens", type=PLACE, default="tokens")
@click.option("--rate", "mlm_probability", type=float,
              help="Share of the tokens to predict.  [default: the recipe's, 0.15]")  # fmt: skip
@click.option("--recipe", "recipe_name", default="bert", show_default=True,
              help="Named recipe to start from; see `lmdata recipes`.")  # fmt: skip
@click.option("--max-seq-length", type=int, help="Tokens of the longest example.")
@click.option("--duplicates", type=int, help="Passes over the documents.")
@click.option("--compat", type=click.Choice(["bert"]), help="Choices of BERT's own script.")
@click.option("--epoch", type=click.IntRange(min=0), default=0, show_default=True,
              help="Which epoch of the view is frozen.")  # fmt: skip
@select_option
@engine_options
@output_option("shards", is_anywhere=True)
@seed_option
@num_workers_option
@overwrite_option
@config_option
@set_option
@result_options
def mask(
    tokens: Path | str, recipe_name: str, epoch: int, selection_path: Path | None, engine: str,
    address: str | None, output: Path | str, seed: int | None, num_workers: int | None,
    overwrite: bool, config_path: Path | None, overrides: tuple[str, ...], as_json: bool,
    quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Freeze one view of a token store: pairs, masks and labels as files.

    Training from tokens/ itself sees other pairs and masks in each epoch; these files are for
    whoever wants them fixed.

    \b
    Example: lmdata mask --rate 0.15
    Example: lmdata mask tokens/ --recipe roberta --max-seq-length 512 --output packed
    """
    from lmdata.config import config_to_dict
    from lmdata.recipes import Recipe, named_recipe

    base = {k: v for k, v in config_to_dict(named_recipe(recipe_name)).items() if v is not None}
    recipe = resolve(Recipe, config_path, overrides, base=base, **options)
    start = time.perf_counter()

    from lmdata.examples import write_examples

    with ProgressLine("making examples", unit="examples", quiet=quiet) as line:
        manifest = write_examples(
            tokens, recipe, output, seed=seed or 0, epoch=epoch,
            num_workers=num_workers or num_cores(), overwrite=overwrite, progress=line.update,
            workers=start_engine("examples", engine, address, num_workers),
            selection_path=selection_path,
        )  # fmt: skip
    report_dataset(manifest, output, start, "examples", as_json=as_json, quiet=quiet)


@main.command()
@click.argument("output", type=PLACE, default="tokens")
@result_options
def finish(output: Path | str, as_json: bool, quiet: bool) -> None:
    """End a build that was done in parts: put its units together and write the manifest.

    Neither the corpus nor a worker is needed, only the output.

    \b
    Example: lmdata finish tokens/
    """
    from lmdata.build import finish_dataset

    start = time.perf_counter()
    with ProgressLine("finishing", quiet=quiet):
        manifest = finish_dataset(output)
    report_dataset(manifest, output, start, "documents", as_json=as_json, quiet=quiet)


@main.command("clean-up")
@click.argument("output", type=PLACE)
@click.option("--dry-run", is_flag=True, help="List what would be removed, and remove nothing.")
@result_options
def clean_up(output: Path | str, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Remove what a dataset or an unfinished build has no use for, as killed workers leave it.

    \b
    Example: lmdata clean-up tokens/ --dry-run
    """
    from lmdata.building.leftovers import clean_up as remove_leftovers

    found = remove_leftovers(output, is_dry=dry_run)
    did = "would be removed" if dry_run else "removed"
    lines = [
        *found,
        f"{output}/  {counted(len(found), 'file')} of {size(sum(found.values()))} {did}",
    ]
    facts = {"output": str(output), "files": found, "is_dry_run": dry_run}
    echo_result(facts, as_json=as_json, quiet=quiet, lines=lines)


def report_dataset(
    manifest: Any, output: Path | str, start: float, rows: str, *,
    skipped: dict[str, list[str]] | None = None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Print the summary of a dataset that was written since `start`."""
    elapsed_s = time.perf_counter() - start
    facts = dataset_summary(manifest, output, elapsed_s)
    lines = manifest_lines(manifest, output, elapsed_s, rows)
    if skipped is not None:
        facts["passed_over"] = {reason: len(paths) for reason, paths in skipped.items()}
        lines += passed_over_lines(skipped)
    echo_result(facts, as_json=as_json, quiet=quiet, lines=lines)


main.add_command(tag)
main.add_command(select)
main.add_command(compare)
main.add_command(clean)
