"""`python -m benchmarks NAME [OPTIONS]`: run one comparison, print its table, keep its result."""

from __future__ import annotations

import importlib
import sys

BENCHMARKS = {
    "end_to_end": "the main job on real Wikipedia, with ten minutes of training",
    "minutes": "ten minutes of mini on Wikipedia: levels, BLiMP, Trainer beside it",
    "tokenize": "lmdata tokenize against datasets.map, encode_batch_fast, BlingFire and gigatoken",
    "tokenize_unspaced": "Chinese, Japanese, Korean and Thai against encode_batch_fast",
    "train_tokenizer": "lmdata train-tokenizer against tokenizers and gigatoken",
    "sentences": "the sentence splitter against pySBD and BlingFire: speed and F1",
    "slopes": "how time grows with the length of text of every shape",
    "examples": "pairs and masks against Hugging Face's collator and BERT's procedure",
    "train": "lmmodel train against transformers.Trainer",
    "orders": "a step of permutation language modelling against XLNetLMHeadModel",
    "objectives": "every objective of one store at equal tokens and minutes, and its steps' times",
    "recipe": "what a run learns from the same tokens, one change of its settings at a time",
    "muon": "Muon against AdamW for masked tokens: five learning rates each, three seeds",
    "minimal_pairs": "BLiMP by pseudo-log-likelihood against a plain loop over transformers",
    "finetune_study": "five tasks from a pretrained model and from random weights",
    "ngrams": "lmmodel count over real Wikipedia against lmplz: seconds, memory, probabilities",
    "stand_ins": "tokenizers with the rules of published ones, for the other benchmarks",
    "exactness": "the ids of every document of the real data against tokenizers",
    "hostile": "a thousand hostile files and damaged datasets: no traceback, crash, hang or bloat",
    "memory": "what lmdata tokenize holds under a budget, for tokenizers of any size",
    "experts": "branches of one parent and a router, on real domains, against a dense run",
    "serve": "lmmodel serve against sentence-transformers behind FastAPI",
    "sequence_to_sequence": "reversing, translating, titles; T5 and beams against transformers",
    "curate": "rules, near duplicates, evaluations and whole tags against datatrove and others",
    "raw_or_curated": "what a model knows after equal tokens of a raw and of a curated corpus",
    "anywhere": "from S3, on Ray and to other formats, against the same work on one machine",
    "gpu": "correctness and speed of training on the graphics card at hand",
}


def main() -> None:
    """Run the benchmark that the first argument names."""
    name = sys.argv[1].replace("-", "_") if len(sys.argv) > 1 else ""
    if name not in BENCHMARKS:
        lines = [f"  {known.replace('_', '-'):16} {text}" for known, text in BENCHMARKS.items()]
        sys.exit("usage: python -m benchmarks NAME [OPTIONS]\n\n" + "\n".join(lines))
    importlib.import_module(f"benchmarks.{name}").main(sys.argv[2:])


if __name__ == "__main__":
    main()
