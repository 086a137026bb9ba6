"""Sequence to sequence, in parts that are measured one by one and kept side by side.

reverse      JoeyNMT's task: sequences of at most 25 numbers below 50, to be written backwards, by a
             Transformer of 2 + 2 layers of 64. A model that does it looks at the anti-diagonal,
             which the picture shows
beams        the same random T5, sources and tokens in lmmodel and transformers: tokens a second
steps        T5 mini on Wikipedia: twenty steps' losses of both, float32, and tokens a second
titles       titles of Wikipedia articles from their first paragraphs, pretrained against random
             weights, three seeds
translation  Multi30k, English to German, from nothing: BLEU on test 2016 after --minutes
turns        a step of that in lmmodel and in a plain PyTorch loop, taking turns
race         the same: seconds of training to BLEU 25, beside a plain PyTorch loop
"""

from __future__ import annotations

import argparse
import functools
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch

from benchmarks import t5_runs, translation
from benchmarks.measure import RESULTS, merge_result, print_table
from lmdata.tokenizer import Tokenizer
from lmmodel.batch import SOURCE, TARGET, batch_of, make_stream
from lmmodel.encoder_decoder import EncoderDecoder, build_model
from lmmodel.families import ModelConfig
from lmmodel.finetuner import finetune
from lmmodel.finetuning.data import FinetuneConfig
from lmmodel.finetuning.folder import FineTuned, load_fine_tuned
from lmmodel.handover.stock import export_model
from lmmodel.predicting.written import load_writer
from lmmodel.writing import WritingConfig, write

NAME = "sequence-to-sequence"
PARTS = ("reverse", "beams", "steps", "titles", "translation", "turns", "race")
NUM_NUMBERS, LONGEST = 50, 25
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def main(arguments: list[str]) -> None:
    """Measure the parts that are asked for; each is kept as soon as it is there."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks sequence-to-sequence", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--parts", default="reverse,beams,steps", help="[default: %(default)s]")
    parser.add_argument("--num-pairs", type=int, default=40_000, help="of reverse")
    parser.add_argument("--num-epochs", type=int, help="of reverse, translation, race")
    parser.add_argument("--num-sources", type=int, default=100, help="of beams")
    parser.add_argument("--minutes", type=float, default=56.0, help="of translation")
    parser.add_argument("--pretraining-tokens", type=int, default=6_000_000, help="of titles")
    parser.add_argument("--bf16", action="store_true", help="of turns, race: the plain loop")
    parser.add_argument("--most-ratio", type=float, default=4.0,
                        help="of race: the plain loop ends after so many times ours")  # fmt: skip
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where runs are kept, to go on with")
    parser.add_argument("--note", help="kept beside the figures, such as: busy machine")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.num_threads)
    for part in options.parts.split(","):
        if part not in PARTS:
            raise SystemExit(f"{part!r} is no part: there are {', '.join(PARTS)}")
        with tempfile.TemporaryDirectory() as temporary:
            found = measures(options, options.folder or Path(temporary))[part]()
        facts = {"num_threads": options.num_threads, "note": options.note}
        rows = found if isinstance(found, list) else [found]
        print_table([{k: v for k, v in row.items() if not isinstance(v, list)} for row in rows])
        print(f"written to {merge_result(NAME, part, {**facts, 'rows': rows})}\n", flush=True)


def measures(options: argparse.Namespace, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return what measures each part, into a folder."""
    folder.mkdir(exist_ok=True, parents=True)
    epochs = options.num_epochs
    return {
        "reverse": functools.partial(learn_reversing, folder, options.num_pairs, epochs or 2),
        "beams": functools.partial(compare_beams, folder, options.num_sources),
        "steps": functools.partial(t5_runs.compare_steps, folder),
        "titles": functools.partial(t5_runs.write_titles, folder, options.pretraining_tokens),
        "translation": functools.partial(
            translation.translate, folder, options.minutes, epochs
        ),
        "turns": functools.partial(translation.take_turns, folder, 20, is_bf16=options.bf16),
        "race": functools.partial(
            translation.race, folder, epochs or 15, options.most_ratio, is_bf16=options.bf16
        ),
    }  # fmt: skip


def learn_reversing(folder: Path, num_pairs: int, num_epochs: int) -> dict[str, Any]:
    """Return how much of held-out sequences is right, and in what time; draws the picture."""
    draws = random.Random(0)
    for name, count in (("train", num_pairs), ("validation", 200), ("test", 1000)):
        lines = ["source\ttarget"]
        for _ in range(count):
            numbers = [str(draws.randrange(NUM_NUMBERS)) for _ in range(draws.randint(1, LONGEST))]
            lines.append(" ".join(numbers) + "\t" + " ".join(numbers[::-1]))
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shape = ModelConfig(family="transformer", num_hidden_layers=2, hidden_size=64,
                        num_attention_heads=4, max_position_embeddings=64)  # fmt: skip
    config = FinetuneConfig(
        task="sequence-to-sequence", model=shape, num_seeds=1, num_epochs=num_epochs,
        batch_size=64, lr=2e-3, dropout=0.0, max_seq_length=32, score="exact_match",
        patience=None, device="cpu", precision="fp32",
    )  # fmt: skip
    start = time.perf_counter()
    finetune(None, config, folder / "train.tsv", folder / "validation.tsv", folder / "reverse",
             tokenizer=number_tokenizer(), overwrite=True)  # fmt: skip
    elapsed_s = time.perf_counter() - start
    held_out = [
        line.split("\t")
        for line in (folder / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    ]
    writer = load_writer(folder / "reverse", "cpu")
    found = writer.write([source for source, _ in held_out], WritingConfig(max_new_tokens=30))
    right = sum(one.target == target for one, (_, target) in zip(found, held_out, strict=True))
    tuned = load_fine_tuned(folder / "reverse", "cpu")
    draw_attention(tuned, held_out[0][0], RESULTS / "sequence-to-sequence-attention.png")
    return {
        "pairs": num_pairs, "epochs": num_epochs, "exact on 1,000 held-out": right / len(held_out),
        "seconds": round(elapsed_s, 1),
    }  # fmt: skip


def number_tokenizer() -> Tokenizer:
    """Return one with a piece for each number."""
    pieces = [*SPECIAL.values(), *map(str, range(NUM_NUMBERS))]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(list(SPECIAL.values()))
    return Tokenizer(backend, SPECIAL)


def draw_attention(tuned: FineTuned, text: str, path: Path) -> None:
    """Write a picture of how strongly each written number looks at each read one."""
    from matplotlib.figure import Figure

    model = tuned.model.backbone
    assert isinstance(model, EncoderDecoder)
    special = tuned.tokenizer.special_ids
    end = special["sep"]
    ids = tuned.tokenizer.backend.encode(text, add_special_tokens=False).ids
    streams = {
        SOURCE: make_stream(torch.tensor([*ids, end]), torch.tensor([len(ids) + 1])),
        TARGET: make_stream(torch.tensor([end, *ids[::-1]]), torch.tensor([len(ids) + 1])),
    }
    kept: list[torch.Tensor] = []
    last = model.layers[-1].cross_attention
    last.register_forward_pre_hook(lambda _, inputs: kept.extend([inputs[0], inputs[2].hidden]))
    with torch.inference_mode():
        model(batch_of(streams))
        queries, hidden = kept
        q = last.queries(queries).view(len(queries), 4, -1)
        k, _ = last.project(hidden)
        weights = torch.einsum("qhk,thk->hqt", q, k / q.shape[-1] ** 0.5).softmax(-1).mean(0)
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(weights.numpy(), cmap="Blues", vmin=0)
    axes.set(xlabel="read", ylabel="written", title="attention to the source, last layer")
    figure.savefig(path, dpi=100)


def compare_beams(folder: Path, num_sources: int) -> list[dict[str, Any]]:
    """Return the tokens a second of both, and whether they wrote the same."""
    import transformers

    shape = ModelConfig(family="t5", size="mini", vocab_size=8000, initializer_range=2.0)
    model = build_model(shape, seed=1).eval()
    assert isinstance(model, EncoderDecoder)
    tokenizer = number_tokenizer()
    export_model(model, tokenizer, folder / "stock")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder / "stock").eval()
    draws = np.random.default_rng(0)
    sources = [draws.integers(5, 8000, draws.integers(5, 40)) for _ in range(num_sources)]
    start, end = tokenizer.special_ids["pad"], tokenizer.special_ids["sep"]
    assert start is not None
    assert end is not None
    rows, written = [], {}
    for num_beams in (1, 4):
        began = time.perf_counter()
        config = WritingConfig(num_beams=num_beams, max_new_tokens=32)
        found = write(model, sources, start, end, config)
        ours_s = time.perf_counter() - began
        written = {"lmmodel": [own[0].ids for own in found]}
        began = time.perf_counter()
        written["transformers"] = stock_targets(theirs, sources, num_beams, end)
        theirs_s = time.perf_counter() - began
        same = sum(a == b for a, b in zip(*written.values(), strict=True))
        for name, seconds in (("lmmodel", ours_s), ("transformers", theirs_s)):
            count = sum(map(len, written[name]))
            rows.append({"beams": num_beams, "what": name, "tokens/s": count / seconds,
                         "same targets": f"{same} of {num_sources}"})  # fmt: skip
    return rows


def stock_targets(
    theirs: Any, sources: list[np.ndarray], num_beams: int, end: int, size: int = 32
) -> list[list[int]]:
    """Return what transformers writes, in batches of like lengths."""
    found: dict[int, list[int]] = {}
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
    for first in range(0, len(order), size):
        group = order[first : first + size]
        longest = max(len(sources[index]) for index in group)
        ids = torch.zeros(len(group), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(group):
            ids[row, : len(sources[index])] = torch.from_numpy(sources[index])
            mask[row, : len(sources[index])] = 1
        output = theirs.generate(
            input_ids=ids, attention_mask=mask, num_beams=num_beams, max_new_tokens=32,
            do_sample=False,
        )  # fmt: skip
        for index, row in zip(group, output[:, 1:].tolist(), strict=True):
            cut = row[: row.index(end)] if end in row else row
            found[index] = cut
    return [found[index] for index in range(len(sources))]
