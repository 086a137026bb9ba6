"""`lmmodel serve`: models behind HTTP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .options import config_option, device_option, resolve, say, set_option


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--host", help="Address to listen at.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="0: any that is free.  [default: 8000]")
@click.option(
    "--max-batch-tokens",
    "engine__max_batch_tokens",
    type=click.IntRange(min=1),
    help="Tokens computed together at most.  [default: 16384]",
)
@device_option
@config_option
@set_option
def serve(
    models: tuple[str, ...], config_path: Path | None, overrides: tuple[str, ...],
    **options: Any,
) -> None:  # fmt: skip
    """Answer over HTTP what runs and fine-tuned models can be asked: OpenAI's routes, ours, a page.

    A model is called as its folder is, or NAME in NAME=FOLDER. If the variable LMMODEL_API_KEY is
    set, requests must have it. SIGTERM and Ctrl-C finish what was taken, a second one ends it.

    \b
    Example: lmmodel serve runs/wiki
    Example: lmmodel serve runs/sst2 films=runs/imdb --port 8000 --max-batch-tokens 16384
    """
    from lmmodel.errors import ServeError

    try:
        from lmmodel.serving.server import ServeConfig
        from lmmodel.serving.server import serve as run_server
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("starlette", "uvicorn", "orjson"):
            raise
        raise ServeError(
            f"lmmodel serve needs {error.name}: pip install 'lmdata-lmmodel[serve]'"
        ) from error
    from lmmodel.serving.opening import name_folders

    config = resolve(ServeConfig, config_path, overrides, **options)
    num_unfinished = run_server(name_folders(models), config, say)
    if num_unfinished:
        say(f"{num_unfinished} requests were not finished")
        sys.exit(1)
