"""Files that lie beside a text but are none: of tokenizers, models, data sets and our own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

# Of tokenizers and models, known by one of the first; of data sets that `datasets` saved.
_MODEL_MARKS = frozenset(
    {
        "tokenizer.json", "tokenizer_config.json", "model.safetensors", "pytorch_model.bin",
        "model.safetensors.index.json", "pytorch_model.bin.index.json",
    }
)  # fmt: skip
_MODEL_FILES = _MODEL_MARKS | {
    "added_tokens.json", "chat_template.json", "config.json", "generation_config.json",
    "merges.txt", "metrics.jsonl", "preprocessor_config.json", "special_tokens_map.json",
    "trainer_state.json", "vocab.json", "vocab.txt",
}  # fmt: skip
_DATASET_INFO = "dataset_info.json"  # of `datasets`, beside the Arrow files
_DATASET_STATE = "state.json"  # of `Dataset.save_to_disk`: names its Arrow files
_METADATA_FILES = frozenset({_DATASET_INFO, "dataset_infos.json", "dataset_dict.json"})
_OUR_MANIFEST, _OUR_BUILD = "manifest.json", ".build"


Read = Callable[[str], bytes | None]


def find_no_texts(names: Iterable[str], read: Read) -> dict[str, str]:
    """Return the entries of a folder that are no text of a corpus, whatever their extension says.

    Args:
        names: of all entries
        read: returns the bytes of one by its name, or by the path of one below; None: there is none

    Returns:
        name -> reason
    """
    present = frozenset(names)
    if _is_our_dataset(read, present):
        return dict.fromkeys(present, "part of a dataset that lmdata wrote")
    found = dict.fromkeys(present & _METADATA_FILES, "metadata of datasets")
    if _MODEL_MARKS & present:
        found |= dict.fromkeys(present & _MODEL_FILES, "part of a tokenizer or model")
    if {_DATASET_INFO, _DATASET_STATE} <= present:
        found[_DATASET_STATE] = "metadata of datasets"
        tables = {name for name in present if name.endswith(".arrow")}
        strangers = tables - _saved_tables(read, tables)
        found |= dict.fromkeys(strangers, "cache of datasets")
    return found


def _is_our_dataset(read: Read, names: frozenset[str]) -> bool:
    """Return whether `lmdata` wrote a folder, or was about to."""
    if _OUR_MANIFEST in names:
        values = _read_json(read, _OUR_MANIFEST)
        return isinstance(values, dict) and {"kind", "format_version", "ledger"} <= values.keys()
    return _OUR_BUILD in names and read(f"{_OUR_BUILD}/plan.json") is not None


def _saved_tables(read: Read, tables: set[str]) -> set[str]:
    """Return the Arrow files that a data set on disk consists of; all if it does not say."""
    values = _read_json(read, _DATASET_STATE)
    files = values.get("_data_files") if isinstance(values, dict) else None
    if not isinstance(files, list):
        return tables
    return {
        str(file["filename"]) for file in files if isinstance(file, dict) and "filename" in file
    }


def _read_json(read: Read, name: str) -> object:
    """Return what a JSON file holds, None where it is none that could be ours."""
    try:
        return json.loads(read(name) or b"")
    except (ValueError, RecursionError):
        return None
