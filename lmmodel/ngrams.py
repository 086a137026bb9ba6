"""An n-gram model: counted in seconds, asked like any other, the yardstick of the others.

tokens/ --count--> runs/5gram/ --evaluate, score, generate, export--> figures, answers, an ARPA file

    lmmodel.load("runs/5gram").score(["A cat sleeps."])

Interpolated modified Kneser-Ney over the ids of a token store, each document a line between a begin
and an end. Every piece has a probability: those that no line had share what is taken from the
others with the uniform guess, as `lmplz --vocab_pad` has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmdata.dataset import TokenStore, open_store
from lmdata.errors import OutputError
from lmdata.files import lease, writing_file, writing_folder
from lmdata.ragged import offsets_of
from lmdata.rng import draw, stream_key
from lmdata.tokenizer import Tokenizer, load_tokenizer
from lmmodel.counting.folder import (
    NGRAMS,
    NgramRecord,
    arpa_words,
    open_trie,
    read_ngram_record,
    write_arpa,
    write_arrays,
    write_record,
)
from lmmodel.counting.keys import Lines, lines_of_store
from lmmodel.counting.labels import distribution, find_places, score_places
from lmmodel.counting.smoothing import smooth
from lmmodel.counting.sorting import find_levels, num_usable_cores
from lmmodel.counting.trie import Trie, score_lines
from lmmodel.data import open_data
from lmmodel.errors import FitError
from lmmodel.record import WEIGHTS_NAME

if TYPE_CHECKING:  # counting needs no torch, which takes a third of a GiB
    from lmmodel.evaluation import Evaluation
    from lmmodel.predicting.generation import Generation, GenerationConfig, Stop
    from lmmodel.predicting.likelihood import Likelihoods
    from lmmodel.texts import TextIds

MOST_ORDER = 12


@dataclass(frozen=True, kw_only=True)
class Count:
    """What was counted, and where it lies."""

    output: Path
    record: NgramRecord


def count_store(
    store_path: Path, output: Path, *, order: int = 5, num_threads: int | None = None,
    overwrite: bool = False,
) -> Count:  # fmt: skip
    """Count the training split of a token store into the folder of an n-gram model.

    Args:
        store_path: a token store
        output: the folder, which appears whole or not at all
        order: tokens of the longest n-grams, 1 to `MOST_ORDER`
        num_threads: None: one a core; the bytes do not depend on it
        overwrite: replace the n-gram model that is there

    Raises:
        FitError: frozen examples, no document, or an order outside the range
        OutputError: `output` can't be written, or something else is there
        MemoryLimitError: there are more n-grams than a model holds
    """
    if not 1 <= order <= MOST_ORDER:
        raise FitError(f"order must be in [1, {MOST_ORDER}], got {order}")
    store = _open_counted(store_path)
    threads = num_threads or num_usable_cores()
    with writing_folder(output, NGRAMS, overwrite=overwrite) as folder:
        record = count_lines(folder, lines_of_store(store), store, store_path, order, threads)
    return Count(output=output, record=record)


def count_lines(
    folder: Path, lines: Lines, store: TokenStore, store_path: Path, order: int, num_threads: int
) -> NgramRecord:
    """Write the n-gram model of some lines of a store into an empty folder."""
    smoothed, discounts = smooth(find_levels(lines, order, num_threads), num_threads)
    weights = write_arrays(folder / WEIGHTS_NAME, smoothed)
    num_documents = int((lines.ids == lines.begin).sum())
    record = NgramRecord(
        sizes=tuple(len(level.words) for level in smoothed),
        discounts=discounts,
        num_documents=num_documents,
        num_tokens=len(lines.ids) - 2 * num_documents,
        data_path=str(store_path.resolve()),
        data_hash=store.manifest.hash,
        tokenizer_hash=store.tokenizer.hash,
        weights_bytes=weights.size_bytes,
        weights_xxh3=weights.xxh3,
    )
    write_record(folder, record, store.tokenizer)
    return record


def _open_counted(path: Path) -> TokenStore:
    data = open_data(path)
    if data.is_frozen:
        raise FitError(
            f"{path} holds frozen examples, which repeat and leave out: count the token store "
            "that they were made from"
        )
    return open_store(path, "train")


@dataclass(frozen=True)
class NgramModel:
    """An n-gram model, ready to answer."""

    path: Path
    record: NgramRecord
    trie: Trie
    tokenizer: Tokenizer

    @cached_property
    def unigrams(self) -> np.ndarray:
        """Probability of each id whatever is before it: float64 (num_ids,)."""
        return np.exp(self.trie.log_p[: self.trie.sizes[0]].astype(np.float64))

    def score(self, texts: Sequence[str] | str) -> Likelihoods:
        """Return the log-likelihood of each text, from its first token on, without its end.

        Raises:
            FitError: a text has no token in it
        """
        from lmmodel.predicting.likelihood import Likelihoods
        from lmmodel.trained import encode_given

        texts = [texts] if isinstance(texts, str) else texts
        encoded = encode_given(self.tokenizer, texts)
        text = np.repeat(np.arange(len(encoded)), encoded.lengths)
        return Likelihoods(
            total=np.bincount(text, self.score_ids(encoded), minlength=len(encoded)),
            num_tokens=encoded.lengths,
            num_bytes=np.array([len(t.encode("utf-8", "surrogatepass")) for t in texts], np.int64),
            num_windowed=0,
        )

    def score_ids(self, texts: TextIds) -> np.ndarray:
        """Return the log-probability of each token of some texts, nats: float64 (T,)."""
        return self.score_rows(texts.ids, texts.lengths)

    def score_rows(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return the log-probability of each id of some rows, nats: float64 (T,).

        Args:
            ids: integers (T,), of all rows
            lengths: integers (R,), ids of each row
        """
        starts = offsets_of(lengths + 1)
        lines = np.full(starts[-1], self.trie.num_pieces + 1, np.int64)
        is_scored = np.ones(len(lines), bool)
        is_scored[starts[:-1]] = False
        lines[is_scored] = ids
        return score_lines(self.trie, lines, starts)[is_scored]

    def generate(
        self, prompts: Sequence[str] | str, config: GenerationConfig | None = None
    ) -> list[Generation]:
        """Return a continuation of each prompt, up to the end of a line; "" begins one.

        The draws have the addresses that those of a Transformer have.
        """
        from lmmodel.predicting.generation import GenerationConfig

        prompts = [prompts] if isinstance(prompts, str) else prompts
        config = config or GenerationConfig()
        return [self._go_on(prompt, index, config) for index, prompt in enumerate(prompts)]

    def _go_on(self, prompt: str, index: int, config: GenerationConfig) -> Generation:
        import torch

        from lmmodel.predicting.generation import Generation
        from lmmodel.texts import encode_texts
        from lmmodel.writing import sample

        encoded = encode_texts(self.tokenizer.backend, [prompt])
        end, begin = self.trie.num_pieces, self.trie.num_pieces + 1
        ids = [begin, *encoded.ids.tolist()]
        num_given = len(ids)
        stopped_by: Stop = "max_new_tokens"
        words = draw(
            stream_key(config.seed, "generate"), np.full(config.max_new_tokens, index),
            np.arange(config.max_new_tokens),
        )  # fmt: skip
        for point in ((words + 0.5) / 2**32).tolist():
            p = distribution(self.trie, self.unigrams, np.array(ids[1 - self.trie.order :]))
            logits = torch.from_numpy(np.log(p[:begin]))[None]
            if config.temperature == 0:
                token = int(logits.argmax())
            else:
                token = int(sample(logits, torch.tensor([point]).double(), config))
            if token == end:
                stopped_by = "end of text"
                break
            ids.append(token)
        added = ids[num_given:]
        return Generation(
            prompt=prompt,
            text=self.tokenizer.decode(ids[1:], skip_special_tokens=True),
            continuation=self.tokenizer.decode(added, skip_special_tokens=True),
            ids=added,
            stopped_by=stopped_by,
        )


@dataclass(frozen=True)
class NgramScorer:
    """An n-gram model that goes to other processes by its path, where it is opened anew."""

    path: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return NgramScorer, (self.path,)

    @cached_property
    def model(self) -> NgramModel:
        """The model.

        Raises:
            RunError, CheckpointError: as `load_ngrams`
        """
        return load_ngrams(self.path)

    @property
    def version(self) -> str:
        """What it is."""
        record = self.model.record
        return f"kneser-ney-{record.order}-{record.weights_xxh3[:12]}"

    @property
    def tokenizer(self) -> Tokenizer:
        """Of its ids."""
        return self.model.tokenizer

    def score(self, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Return the log-likelihood of documents, without their ends, nats: float64 (D,).

        Args:
            ids: integers (T,), of all documents
            offsets: int64 (D + 1,), where documents begin among them
        """
        lengths = np.diff(offsets)
        document = np.repeat(np.arange(len(lengths)), lengths)
        return np.bincount(document, self.model.score_rows(ids, lengths), minlength=len(lengths))


def load_ngrams(path: Path | str) -> NgramModel:
    """Return the n-gram model in a folder, its arrays memory-mapped.

    Raises:
        RunError: no n-gram model there, or of another version
        CheckpointError: its arrays are missing or damaged
    """
    path = Path(path)
    record = read_ngram_record(path)
    return NgramModel(path, record, open_trie(path, record), load_tokenizer(path))


@dataclass(frozen=True, kw_only=True)
class ArpaExport:
    """What was written."""

    output: Path
    order: int
    num_ngrams: int


def export_arpa(path: Path, output: Path, *, overwrite: bool = False) -> ArpaExport:
    """Write an n-gram model as a file in the ARPA format, whole or not at all.

    Args:
        path: folder of the model
        output: the file
        overwrite: replace the file that is there

    Raises:
        RunError, CheckpointError: as `load_ngrams`
        OutputError: the file is there, or can't be written
    """
    if output.is_dir() or (output.exists() and not overwrite):
        raise OutputError(f"{output} exists: add --overwrite to replace a file, or choose another")
    model = load_ngrams(path)
    words = arpa_words(model.tokenizer.pieces, model.tokenizer.special_ids["unk"])
    with (
        lease(output),
        writing_file(output) as partial,
        partial.open("w", encoding="utf-8") as file,
    ):
        num_ngrams = write_arpa(model.trie, words, file)
    return ArpaExport(output=output, order=model.trie.order, num_ngrams=num_ngrams)


def evaluate_ngrams(
    path: Path, data_path: Path | None = None, *, split: str = "validation",
    num_examples: int | None = None,
) -> Evaluation:  # fmt: skip
    """Return the held-out figures of an n-gram model: of the tokens that a causal run would get.

    Contexts reach back to the beginning of a segment. The ends of segments, which a document has
    fewer of, are guessed as often as they are among the labels, as the gates do.

    Args:
        path: folder of the model
        data_path: token store or shards; None: what it was counted from
        split: of the data
        num_examples: None: 256

    Raises:
        RunError: no n-gram model there
        FitError: the split is empty, or the data was made with another tokenizer
    """
    from lmmodel.evaluation import Evaluation, vocabulary_of
    from lmmodel.gates import find_gates
    from lmmodel.objectives import ObjectiveConfig, make_objective
    from lmmodel.trained import check_tokenizer

    model = load_ngrams(path)
    data = open_data(data_path or Path(model.record.data_path))
    check_tokenizer(model.tokenizer, data)
    objective = make_objective(ObjectiveConfig(name="clm"))
    recipe = objective.definition.hold_out(objective.definition.recipe)
    part, examples = objective.parts[0], data.held_out(recipe, num_examples or 256, split)
    labelled, vocabulary = part.label(examples), vocabulary_of(data)
    found = find_places(labelled, vocabulary.is_special, is_causal=True)
    losses, ranks = score_places(model.trie, model.unigrams, found, with_ranks=True)
    scores = {"labels": found.labels, "losses": losses, "ranks": ranks}
    figures: dict[str, Any] = dict(part.terms[0].figures(scores, vocabulary))
    gates = find_gates(data, labelled, vocabulary, is_causal=True)
    return Evaluation(num_examples=len(examples), gates=gates, **figures)
