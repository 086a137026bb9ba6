"""The systems that `benchmarks.tokenize` compares with, one a process: prints one line of JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zstandard

from benchmarks.measure import cpu_seconds

MEMORY_SAMPLE_BYTES = 30_000_000  # what the in-memory peers encode


def main() -> None:
    """Run the peer that the first argument names: NAME VOCABULARY FOLDER FILES..."""
    name, vocabulary, folder, *files = sys.argv[1:]
    peer = PEERS[name]
    print(json.dumps(peer(Path(vocabulary), Path(folder), [Path(file) for file in files])))


def datasets_map(vocabulary: Path, folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Files to an Arrow cache of ids by `datasets.map(batched=True, num_proc=2)`."""
    import datasets
    from transformers import AutoTokenizer

    hub_tokenizer = AutoTokenizer.from_pretrained(hub_folder(vocabulary, folder))
    datasets.disable_progress_bars()
    start, cpu_start = time.perf_counter(), cpu_seconds()
    loaded = datasets.load_dataset(
        "json", data_files=[str(file) for file in files], split="train", cache_dir=str(folder)
    )
    loaded.map(
        lambda batch: {"input_ids": hub_tokenizer(
            batch["text"], add_special_tokens=False, return_attention_mask=False,
            return_token_type_ids=False, verbose=False)["input_ids"]},
        batched=True, num_proc=2, remove_columns=loaded.column_names,
    )  # fmt: skip
    return {"system": "datasets.map, batched, num_proc=2",
            "seconds": [time.perf_counter() - start],
            "cpu_seconds": [cpu_seconds() - cpu_start]}  # fmt: skip


def encode_batch_fast(vocabulary: Path, folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Texts in memory to lists of ids, nothing written, all cores."""
    from lmdata.tokenizer import load_tokenizer

    backend = load_tokenizer(vocabulary).backend
    texts = sample(files)
    start, cpu_start = time.perf_counter(), cpu_seconds()
    _ = [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    elapsed_s, cpu_s = time.perf_counter() - start, cpu_seconds() - cpu_start
    return {"system": "tokenizers encode_batch_fast, in memory, 2 threads",
            "seconds": [elapsed_s], "cpu_seconds": [cpu_s], "bytes": size(texts)}  # fmt: skip


def seen_text(vocabulary: Path, folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Our encoder on text that its word cache has seen, in memory, on two threads."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from lmdata.encoding import make_encoder
    from lmdata.sentences import find_sentence_starts
    from lmdata.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(vocabulary)
    batches = []
    for half in (sample(files)[::2], sample(files)[1::2]):
        encoded = [text.encode() for text in half]
        offsets = np.concatenate([[0], np.cumsum([len(text) for text in encoded])]).astype(np.int64)
        text = np.frombuffer(b"".join(encoded), np.uint8)
        encoder = make_encoder(tokenizer)
        batches.append((encoder, text, offsets, find_sentence_starts(text, offsets, "none")))
    with ThreadPoolExecutor(2) as pool:
        seconds = []
        for _ in range(4):
            start = time.perf_counter()
            list(pool.map(lambda batch: batch[0].encode(*batch[1:]), batches))
            seconds.append(time.perf_counter() - start)
    return {"system": "our encoder, text it has seen, in memory, 2 threads", "seconds": seconds[1:],
            "bytes": sum(batch[1].size for batch in batches)}  # fmt: skip


def blingfire(vocabulary: Path, folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """BlingFire's own BERT model, one core; its ids are not those of Hugging Face."""
    import blingfire as bf

    model = bf.load_model(str(Path(bf.__file__).parent / "bert_base_tok.bin"))
    texts = [text.encode() for text in sample(files)]
    start = time.perf_counter()
    for text in texts:
        bf.text_to_ids(model, text.decode(), len(text) // 2 + 8, 100)
    elapsed_s = time.perf_counter() - start
    return {"system": "BlingFire text_to_ids, 1 core, other ids", "seconds": [elapsed_s],
            "bytes": sum(map(len, texts))}  # fmt: skip


def gigatoken(vocabulary: Path, folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """`encode_batch` of gigatoken on texts in memory, all cores, nothing written."""
    import gigatoken as gt

    tokenizer = gt.Tokenizer(str(hub_folder(vocabulary, folder) / "tokenizer.json"))
    texts = sample(files)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        tokenizer.encode_batch(texts)
        seconds.append(time.perf_counter() - start)
    return {"system": "gigatoken encode_batch, in memory", "seconds": seconds[1:],
            "bytes": size(texts)}  # fmt: skip


def sample(files: Sequence[Path]) -> list[str]:
    """Return documents from the start of the files, about 30 MB of them."""
    texts: list[str] = []
    total = 0
    for file in files:
        with zstandard.open(file, "rt", encoding="utf-8") as stream:
            for line in stream:
                texts.append(json.loads(line)["text"])
                total += len(texts[-1])
                if total > MEMORY_SAMPLE_BYTES:
                    return texts
    return texts


def size(texts: Sequence[str]) -> int:
    """Return the UTF-8 bytes of some texts."""
    return sum(len(text.encode()) for text in texts)


def hub_folder(vocabulary: Path, folder: Path) -> Path:
    """Return a folder that transformers opens, made from the vocabulary files."""
    from lmdata.tokenizer import load_tokenizer, save_tokenizer

    save_tokenizer(load_tokenizer(vocabulary), folder / "tokenizer")
    return folder / "tokenizer"


PEERS = {
    "datasets_map": datasets_map,
    "encode_batch_fast": encode_batch_fast,
    "seen_text": seen_text,
    "blingfire": blingfire,
    "gigatoken": gigatoken,
}

if __name__ == "__main__":
    main()
