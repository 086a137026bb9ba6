"""Fine-tuning that writes: what examples become, how they are scored, all of it from nothing."""

import json

import numpy as np
import pytest
import tokenizers
import torch

from lmdata.tokenizer import Tokenizer
from lmmodel.batch import SOURCE, TARGET
from lmmodel.errors import FitError, TaskError
from lmmodel.exporting import export_run
from lmmodel.families import ModelConfig
from lmmodel.finetuner import finetune
from lmmodel.finetuning.data import FinetuneConfig, read_data
from lmmodel.finetuning.folder import load_fine_tuned
from lmmodel.tasks.known import TASKS, read_task_file
from lmmodel.tasks.model import make_task_model, pack, pack_labels
from lmmodel.tasks.sequence_to_sequence import score_texts
from lmmodel.tasks.task_files import TaskFormat
from lmmodel.writing import WritingConfig

SHAPE = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}
PAIRS = [("the cat sat", "sat cat the"), ("a dog", "dog a"), ("", "no source"), ("no target", "")]


def make_tokenizer() -> Tokenizer:
    """Return one of whole words."""
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    words = sorted({word for pair in PAIRS for text in pair for word in text.split()})
    pieces = {piece: index for index, piece in enumerate([*special.values(), *words])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(pieces, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(list(special.values()))
    return Tokenizer(backend, special)


def write_pairs(path, pairs=PAIRS, header="source\ttarget"):
    path.write_text("\n".join([header, *("\t".join(pair) for pair in pairs)]) + "\n")
    return path


def config_of(family: str = "transformer", **changes) -> FinetuneConfig:
    settings = {
        "task": "sequence-to-sequence", "num_seeds": 1, "num_epochs": 1, "max_seq_length": 32,
        "model": ModelConfig(family=family, **SHAPE), "dropout": 0.0, "device": "cpu",
        "precision": "fp32",
    }  # fmt: skip
    return FinetuneConfig(**(settings | changes))


def shape_of(config: FinetuneConfig, tokenizer) -> ModelConfig:
    assert config.model is not None
    return ModelConfig(family=config.model.family, **SHAPE, vocab_size=tokenizer.vocab_size)


def test_examples_are_a_source_and_a_target_with_their_ends(tmp_path) -> None:
    tokenizer, path = make_tokenizer(), write_pairs(tmp_path / "pairs.tsv")
    config = config_of("t5")
    data = read_data(config, tokenizer, path, path, shape_of(config, tokenizer))
    examples = data.train
    assert len(examples) == 2  # nothing is learned from what is empty
    assert examples.counts == {"left out: empty source or target": 2}
    pad, end = tokenizer.special_ids["pad"], tokenizer.special_ids["sep"]
    ids = tokenizer.backend.encode("sat cat the", add_special_tokens=False).ids
    assert examples.targets is not None
    assert examples.targets.row(0).tolist() == [pad, *ids, end]
    batch = pack(examples, np.array([1, 0]))
    target = batch.streams[TARGET]
    lengths = target.cu_seqlens.diff().tolist()
    assert target.input_ids[-lengths[1] :].tolist() == [pad, *ids]
    assert pack_labels(examples, np.array([1, 0]))[-lengths[1] :].tolist() == [*ids, end]
    assert batch.streams[SOURCE].num_sequences == 2
    assert len(data.validation) == 4  # what is scored has every row


def test_the_loss_is_that_of_the_targets_tokens(tmp_path) -> None:
    tokenizer, path = make_tokenizer(), write_pairs(tmp_path / "pairs.tsv")
    config = config_of(label_smoothing=0.1)
    shape = shape_of(config, tokenizer)
    data = read_data(config, tokenizer, path, path, shape)
    model = make_task_model(shape, data.task, 0, seed=1).eval()
    rows = np.arange(2)
    batch, labels = pack(data.train, rows), pack_labels(data.train, rows)
    logits = model(batch)
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    found = data.task.sum_loss(logits, labels, batch) / data.task.count_labels(labels)
    assert torch.allclose(found, expected)
    assert logits.shape == (len(labels), tokenizer.vocab_size)


def test_two_files_whose_lines_belong_together(tmp_path) -> None:
    (tmp_path / "mini.en").write_text("one\ntwo\n")
    (tmp_path / "mini.de").write_text("eins\nzwei\n")
    columns = TaskFormat(text="en", label="de")
    rows = read_task_file(tmp_path / "mini", "sequence-to-sequence", columns)
    assert list(rows.texts) == ["one", "two"]
    assert list(rows.labels) == [("eins",), ("zwei",)]
    (tmp_path / "mini.de").write_text("eins\n")
    with pytest.raises(TaskError, match=r"mini\.en has 2 lines, .*mini\.de has 1 lines: line i"):
        read_task_file(tmp_path / "mini", "sequence-to-sequence", columns)


def test_several_references_are_a_list(tmp_path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"source": "a", "target": ["b", "c"]}, {"source": "d", "target": "e"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_task_file(path, "sequence-to-sequence", TaskFormat())
    assert TASKS["sequence-to-sequence"].references(found, ()) == [("b", "c"), ("e",)]
    assert score_texts(["c", "x"], [("b", "c"), ("e",)])["exact_match"] == 0.5


def test_scores_are_those_of_sacrebleu_and_rouge() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    found = ["the cat sat on the mat", "a dog barks"]
    references = [("the cat sat on a mat",), ("a dog barked", "the dog barks")]
    scores = score_texts(found, references)
    streams = [["the cat sat on a mat", "a dog barked"], [None, "the dog barks"]]
    assert scores["bleu"] == sacrebleu.corpus_bleu(found, streams).score
    assert scores["chrf"] == sacrebleu.corpus_chrf(found, streams).score
    assert 0.5 < scores["rougeL"] < 1


@pytest.mark.parametrize("family", ["transformer", "t5", "bart"])
def test_from_nothing_to_a_folder_that_writes(family: str, tmp_path) -> None:
    path = write_pairs(tmp_path / "pairs.tsv", PAIRS[:2] * 8)
    config = config_of(family, score="exact_match", num_epochs=30, patience=None, lr=0.01)
    result = finetune(None, config, path, path, tmp_path / "out", tokenizer=make_tokenizer())
    assert result.mean["exact_match"] == 1.0
    tuned = load_fine_tuned(tmp_path / "out", "cpu")
    task = tuned.task
    found = task.ask(tuned.model.backbone, ["a dog"], WritingConfig(max_new_tokens=8), 32)  # type: ignore[attr-defined]
    assert found[0].target == "dog a"
    again = tmp_path / "again"
    finetune(None, config, path, path, again, tokenizer=make_tokenizer())
    assert (again / "model.safetensors").read_bytes() == (
        tmp_path / "out" / "model.safetensors"
    ).read_bytes()


def test_what_can_not_be_learned_is_told(tmp_path) -> None:
    path = write_pairs(tmp_path / "pairs.tsv")
    with pytest.raises(FitError, match="there is nothing to begin with: name a run"):
        finetune(None, config_of(model=None), path, None, tmp_path / "out")
    bert = config_of("bert")
    with pytest.raises(FitError, match="learned by an encoder beside a decoder, and family bert"):
        finetune(None, bert, path, path, tmp_path / "out", tokenizer=make_tokenizer())
    labels = write_pairs(tmp_path / "labels.tsv", [("a dog", "x"), ("a cat", "y")], "text\tlabel")
    smooth = config_of("bert", task="sequence-classification", label_smoothing=0.1)
    with pytest.raises(FitError, match="label_smoothing has no effect on sequence-classification"):
        finetune(None, smooth, labels, labels, tmp_path / "out", tokenizer=make_tokenizer())
    other = config_of(task="sequence-classification")
    with pytest.raises(FitError, match="of an encoder-decoder, family transformer, take --task"):
        finetune(None, other, labels, labels, tmp_path / "out", tokenizer=make_tokenizer())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["t5", "t5-v1.0", "bart"])
def test_transformers_opens_what_was_fine_tuned_and_writes_the_same(family: str, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    path = write_pairs(tmp_path / "pairs.tsv", PAIRS[:2] * 8)
    config = config_of(family, score="exact_match", num_epochs=2)
    finetune(None, config, path, path, tmp_path / "out", tokenizer=make_tokenizer())
    export_run(tmp_path / "out", tmp_path / "stock")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "stock").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "stock")
    inputs = tokenizer("the cat sat", return_tensors="pt")
    found = theirs.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], num_beams=3,
        max_new_tokens=7,
    )  # fmt: skip
    tuned = load_fine_tuned(tmp_path / "out", "cpu")
    settings = WritingConfig(num_beams=3, max_new_tokens=7)
    (own,) = tuned.task.ask(tuned.model.backbone, ["the cat sat"], settings, 32)  # type: ignore[attr-defined]
    assert own.target == tokenizer.decode(found[0], skip_special_tokens=True).strip()
