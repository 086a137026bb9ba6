"""The proof of an export or import: the stock class gives the same logits."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lmmodel.batch import SOURCE, TARGET, Batch, batch_of, make_batch, make_stream
from lmmodel.errors import HuggingFaceError
from lmmodel.families import ModelConfig
from lmmodel.handover.settings import (
    HEAD_SETTINGS,
    ROTARY_SETTINGS,
    from_their_config,
    padding_id,
    read_config,
)
from lmmodel.handover.stock import read_weights
from lmmodel.handover.stock_families import stock_family
from lmmodel.handover.written import their_settings
from lmmodel.model import Transformer
from lmmodel.tasks.model import TaskModel
from lmmodel.two_stream import with_queries

# Both sides are float32: what they may differ by, for logits up to 10; in proportion above.
MAX_LOGIT_DIFFERENCE = 1e-4
USUAL_LOGIT = 10.0

REPORT = "please report this"
"""What to do where the folder is one that this project wrote."""

LONGEST_SAMPLE = 1031  # tokens: beyond it attention over all of them takes long


@dataclass(frozen=True)
class Sample:
    """Sequences of random ids, of different lengths."""

    ids: tuple[Tensor, ...]  # int64 (L,) each
    segments: tuple[Tensor, ...]  # int64 (L,) each: 0, then 1 where the model has segments
    targets: tuple[Tensor, ...] = ()  # int64 (L',) each, of an encoder-decoder
    ranks: tuple[Tensor, ...] = ()
    """int64 (L,) each, of two streams: an order of tokens that are asked for, 0 of the others."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence that logits are computed of."""
        if self.ranks:
            return [int((row > 0).sum()) for row in self.ranks]
        return [len(row) for row in self.targets or self.ids]

    def packed(self) -> Batch:
        """Return the sequences end to end."""
        if self.targets:
            streams = {
                name: make_stream(torch.cat(rows), torch.tensor([len(row) for row in rows]))
                for name, rows in ((SOURCE, self.ids), (TARGET, self.targets))
            }
            return batch_of(streams)
        lengths = torch.tensor([len(row) for row in self.ids])
        batch = make_batch(torch.cat(self.ids), lengths, token_type_ids=torch.cat(self.segments))
        return with_queries(batch, ranks=torch.cat(self.ranks)) if self.ranks else batch

    def padded(self, pad_id: int) -> dict[str, Tensor]:
        """Return the sequences as rows of equal length: int64 (B, L) each."""
        mask = [torch.ones_like(row) for row in self.ids]
        targets = {
            "decoder_input_ids": pad_sequence(
                list(self.targets), batch_first=True, padding_value=pad_id
            )
        } if self.targets else {}  # fmt: skip
        if self.ranks:
            targets = _permuted(pad_sequence(list(self.ranks), batch_first=True))
        return {
            **targets,
            "input_ids": pad_sequence(list(self.ids), batch_first=True, padding_value=pad_id),
            "attention_mask": pad_sequence(mask, batch_first=True),
            "token_type_ids": pad_sequence(list(self.segments), batch_first=True),
        }


def _permuted(ranks: Tensor) -> dict[str, Tensor]:
    """Return what a stock class takes for orders, int64 (B, L): what is hidden, who is asked."""
    hides = (ranks[:, None, :] >= ranks[:, :, None]) & (ranks[:, None, :] > 0)
    asked = pad_sequence([row.nonzero()[:, 0] for row in ranks], batch_first=True)
    mapping = torch.nn.functional.one_hot(asked, ranks.shape[1])
    return {"perm_mask": hides.float(), "target_mapping": mapping.float()}


def make_sample(
    config: ModelConfig, pad_id: int | None, *, seed: int = 0, asks: bool = True
) -> Sample:
    """Return two sequences without padding ids, longer than a local layer of usual width sees.

    Of models of two streams that are asked by queries every third token, in an order.
    """
    seen = 2 * config.local_window + 3
    longest = min(config.max_position_embeddings, seen, LONGEST_SAMPLE)
    generator = torch.Generator().manual_seed(seed)
    lengths = [longest, max(1, longest // 3)]
    ids = [
        torch.randint(0, config.vocab_size, (length,), generator=generator) for length in lengths
    ]
    if pad_id is not None:  # stock classes look for it where rows end
        ids = [torch.where(row == pad_id, (pad_id + 1) % config.vocab_size, row) for row in ids]
    has_segments = config.traits.has_segments and config.type_vocab_size > 1
    segments = [(torch.arange(n) > n // 2).long() * has_segments for n in lengths]
    targets = tuple(ids[::-1]) if config.traits.is_encoder_decoder else ()
    ranks = []
    for row in ids if asks and config.traits.is_two_stream else ():
        order = torch.randperm(len(row) // 3, generator=generator) + 1
        ranks.append(torch.zeros_like(row).index_put((torch.arange(len(order)) * 3 + 1,), order))
    return Sample(tuple(ids), tuple(segments), targets, tuple(ranks))


@torch.no_grad()
def our_logits(
    model: Transformer | TaskModel, batch: Batch, objective: str | None = None
) -> list[Tensor]:
    """Return every head's logits: of tokens (T, C) or (T,), of sequences (B, C)."""
    if isinstance(model, TaskModel):
        return [model(batch)]
    hidden = model(batch)
    if objective in stock_family(model.config.family).of_objectives:
        return [head(hidden) for name, head in model.extras.items() if name == "replaced"]
    logits: list[Tensor] = [model.lm_logits(hidden)]
    if model.config.has_nsp_head and stock_family(model.config.family).paired is not None:
        logits.append(model.nsp_logits(hidden[batch.first_positions]))
    return logits


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep from users what the libraries that a proof asks tell of their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def open_stock(folder: Path, class_name: str) -> Any:
    """Return a folder's model as a stock transformers class makes it, in evaluation mode.

    The class gets the weights and the settings of its architecture, as read here, and nothing else:
    how it computes is not for the folder to say, and no name in it is looked for anywhere.

    Raises:
        HuggingFaceError: the class does not take them
    """
    import transformers

    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    content, weights = read_config(folder), read_weights(folder)
    try:
        cls = getattr(transformers, class_name)
        config = cls.config_class(**_stock_settings(content, cls.config_class))
        theirs = cls.from_pretrained(
            None, config=config, state_dict=weights, dtype=torch.float32,
            attn_implementation="eager",
        )  # fmt: skip
    except Exception as error:  # whatever a third party makes of a folder is told as such
        raise HuggingFaceError(f"{class_name} does not open {folder}: {error}") from error
    return theirs.eval()


def _stock_settings(content: dict[str, Any], config_class: type) -> dict[str, Any]:
    """Return the settings of a folder that are those of an architecture and of its head.

    Raises:
        HuggingFaceError: as `from_their_config`
    """
    from transformers import PretrainedConfig

    config = from_their_config(content)
    names = set(config_class().to_dict()) - set(PretrainedConfig().to_dict())
    names |= {*ROTARY_SETTINGS, *HEAD_SETTINGS}
    pad_id = padding_id(content, config)
    own = {**their_settings(config, pad_id), "pad_token_id": pad_id}
    return {name: value for name, value in content.items() if name in names} | own


@torch.no_grad()
def stock_logits(folder: Path, class_name: str, sample: Sample, pad_id: int | None) -> list[Tensor]:
    """Return what a stock transformers class makes of a folder: as `our_logits`.

    The sequences are padded, as users pad them; one at a time where there is no padding id.

    Raises:
        HuggingFaceError: the class does not open the folder
    """
    opened = open_stock(folder, class_name)
    takes_segments = from_their_config(read_config(folder)).traits.has_segments
    return logits_of(opened, sample, pad_id, takes_segments=takes_segments)


def logits_of(
    theirs: Any, sample: Sample, pad_id: int | None, *, takes_segments: bool
) -> list[Tensor]:
    """Return what an opened stock model makes of a sample; see `stock_logits`."""
    if pad_id is not None:
        return _heads(theirs, sample.padded(pad_id), sample.lengths, takes_segments)
    rows = [
        Sample(
            (sample.ids[i],),
            (sample.segments[i],),
            sample.targets[i : i + 1],
            sample.ranks[i : i + 1],
        )
        for i in range(len(sample.ids))
    ]
    outputs = [_heads(theirs, row.padded(0), row.lengths, takes_segments) for row in rows]
    return [torch.cat(parts) for parts in zip(*outputs, strict=True)]


def _heads(
    theirs: Any, inputs: dict[str, Tensor], lengths: Sequence[int], takes_segments: bool
) -> list[Tensor]:
    """Return a stock model's logits without padding."""
    if not takes_segments:
        inputs = {name: value for name, value in inputs.items() if name != "token_type_ids"}
    output = theirs(**inputs)
    if "start_logits" in output:
        found = [torch.stack([output.start_logits, output.end_logits], dim=-1)]
    elif "prediction_logits" in output:
        pairs = "seq_relationship_logits" if "seq_relationship_logits" in output else "sop_logits"
        found = [output.prediction_logits, output[pairs]]
    else:
        found = [output.logits]
    asked = inputs.get("target_mapping", inputs["input_ids"])
    return [
        torch.cat([row[:n] for row, n in zip(value, lengths, strict=True)])
        if value.shape[:2] == asked.shape[:2]
        else value
        for value in found
    ]


def check_parity(
    model: Transformer | TaskModel,
    folder: Path,
    class_name: str,
    pad_id: int | None,
    *,
    remedy: str = REPORT,
    objective: str | None = None,
) -> float | None:
    """Return the largest difference of logits between a model and a folder, opened stock.

    Both run in float32 on the CPU, on sequences of random ids and two lengths.

    Args:
        model: on the CPU, in evaluation mode
        folder: what the stock class opens
        class_name: of transformers
        pad_id: the folder's padding id
        remedy: what to do about a difference: who wrote the folder decides
        objective: of a run, whose modules the class may have

    Returns:
        The largest absolute difference, or None where transformers is not installed.

    Raises:
        HuggingFaceError: the difference is more than rounding
    """
    if importlib.util.find_spec("transformers") is None:
        return None
    sample = make_sample(model.config, pad_id, asks=isinstance(model, Transformer))
    ours = our_logits(model, sample.packed(), objective)
    theirs = stock_logits(folder, class_name, sample, pad_id)
    complaint = f"transformers computes other logits from {folder}"
    return largest_difference(ours, theirs, complaint, remedy)


def largest_difference(
    ours: Sequence[Tensor], theirs: Sequence[Tensor], complaint: str, remedy: str = REPORT
) -> float:
    """Return the largest absolute difference.

    Raises:
        HuggingFaceError: it is more than rounding; the message begins with `complaint` and ends
            with `remedy`
    """
    pairs = list(zip(ours, theirs, strict=True))
    difference = max(float((a - b).abs().max()) for a, b in pairs)
    scale = max(1.0, max(float(a.abs().max()) for a, _ in pairs) / USUAL_LOGIT)
    if not difference <= MAX_LOGIT_DIFFERENCE * scale:
        raise HuggingFaceError(
            f"{complaint}, by up to {difference:.2g} (allowed {MAX_LOGIT_DIFFERENCE * scale:g}): "
            f"nothing was written; {remedy}"
        )
    return difference
