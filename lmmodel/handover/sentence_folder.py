"""What makes an exported folder one of sentence-transformers: same texts, same vectors.

Beside what transformers reads lie a list of modules, how token states become one vector (their
mean) and that it gets length 1.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from lmdata.files import output_errors
from lmmodel.families import ModelConfig
from lmmodel.handover.parity import largest_difference, silent
from lmmodel.handover.stock import write_json
from lmmodel.predicting.likelihood import embed
from lmmodel.trained import Run

SENTENCE_FILES = frozenset({
    "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling",
    "2_Normalize",
})  # fmt: skip
_MODULES = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
_NUM_CHECKED = 6  # texts whose vectors are compared


def write_sentence_files(folder: Path, config: ModelConfig) -> None:
    """Write the files of sentence-transformers beside those of transformers.

    Raises:
        OutputError: they can't be written
    """
    modules = [
        {
            "idx": index, "name": str(index), "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, (path, kind) in enumerate(_MODULES.items())
    ]  # fmt: skip
    pooling = {"word_embedding_dimension": config.hidden_size, "pooling_mode_mean_tokens": True}
    with output_errors(folder):
        for path in filter(None, _MODULES):
            (folder / path).mkdir()
        write_json(folder / "1_Pooling" / "config.json", pooling)
        write_json(folder / "modules.json", modules)  # type: ignore[arg-type]
        write_json(
            folder / "sentence_bert_config.json", {"max_seq_length": config.max_position_embeddings}
        )
        write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})


def check_vectors(run: Run, folder: Path) -> float | None:
    """Return the largest difference of vectors between a run and a folder opened by others.

    Returns:
        The largest absolute difference; None where sentence-transformers is not installed.

    Raises:
        HuggingFaceError: the difference is more than rounding
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer

    texts = _texts(run)
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with silent():
        theirs: Any = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        found = theirs.encode(texts, show_progress_bar=False)
    ours = embed(run, texts).vectors
    complaint = f"sentence-transformers computes other vectors from {folder}"
    return largest_difference([torch.from_numpy(ours)], [torch.from_numpy(found)], complaint)


def _texts(run: Run) -> list[str]:
    """Return texts of random pieces, of different lengths, each with a token."""
    tokenizer, most = run.tokenizer, min(run.model.config.max_position_embeddings - 2, 40)
    usual = np.flatnonzero(~tokenizer.is_special)
    generator = np.random.default_rng(0)
    drawn = [
        generator.choice(usual, 1 + (most - 1) * n // _NUM_CHECKED) for n in range(_NUM_CHECKED)
    ]
    texts = [tokenizer.backend.decode(ids.tolist()) for ids in drawn]
    return [text for text in texts if tokenizer.backend.encode(text, add_special_tokens=False).ids]
