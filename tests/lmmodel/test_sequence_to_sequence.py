"""Fine-tuning that writes: what examples become, how they are scored, all of it from nothing."""

import json

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmdata.tokenizer import Tokenizer
from lmmodel.batch import SOURCE, TARGET, batch_of, make_stream
from lmmodel.errors import FitError, TaskError
from lmmodel.exporting import export_run
from lmmodel.families import ModelConfig
from lmmodel.finetuner import finetune
from lmmodel.finetuning.data import FinetuneConfig, read_data
from lmmodel.finetuning.fit import TaskLearner
from lmmodel.finetuning.folder import load_fine_tuned
from lmmodel.predicting.written import load_writer
from lmmodel.tasks.known import TASKS, read_task_file
from lmmodel.tasks.model import make_task_model, pack, pack_labels
from lmmodel.tasks.task_files import TaskFormat
from lmmodel.tasks.text_scores import RowScores, score_texts
from lmmodel.writing import WritingConfig

SHAPE = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}
SPOKEN = st.lists(st.sampled_from(["a", "the", "cat", "cats.", "Sat"]), min_size=1).map(" ".join)
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
    usual = {
        "task": "sequence-to-sequence", "num_seeds": 1, "num_epochs": 1, "max_seq_length": 32,
        "model": ModelConfig(family=family, **SHAPE), "dropout": 0.0, "device": "cpu",
        "precision": "fp32",
    }  # fmt: skip
    return FinetuneConfig(**(usual | changes))


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
    assert scores["ter"] == sacrebleu.corpus_ter(found, streams).score
    assert 0.5 < scores["rougeL"] < 1


@given(st.lists(st.tuples(SPOKEN, st.lists(SPOKEN, min_size=1, max_size=3)), min_size=1), st.data())
@settings(max_examples=50, deadline=None)
def test_rows_compared_once_have_the_scores_of_any_choice_of_them(rows, data) -> None:
    found, references = zip(*rows, strict=True)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=9))
    scores = RowScores(found, references).of(np.array(chosen))
    wanted = score_texts([found[row] for row in chosen], [references[row] for row in chosen])
    assert scores == pytest.approx(wanted, rel=1e-12)


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


def test_targets_are_scored_given_their_sources(tmp_path) -> None:
    path = write_pairs(tmp_path / "pairs.tsv", PAIRS[:2] * 8)
    config = config_of("t5", score="exact_match", num_epochs=2)
    finetune(None, config, path, path, tmp_path / "out", tokenizer=make_tokenizer())
    writer = load_writer(tmp_path / "out", "cpu")
    sources, targets = ["the cat sat", "a dog", "a dog"], ["sat cat the", "dog a", ""]
    found, counts = writer.score(sources, targets)
    assert found.num_tokens.tolist() == [4, 3, 1]  # the end is a token of each
    assert counts == {}
    frame, backend = writer.task.frame, writer.task.tokenizer.backend
    for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
        asked, wanted = ([*backend.encode(text, add_special_tokens=False).ids, frame.end]
                         for text in (source, target))  # fmt: skip
        streams = {
            SOURCE: make_stream(torch.tensor(asked), torch.tensor([len(asked)])),
            TARGET: make_stream(
                torch.tensor([frame.start, *wanted[:-1]]), torch.tensor([len(wanted)])
            ),
        }
        with torch.no_grad():
            logits = writer.model.lm_logits(writer.model(batch_of(streams)))
        each = logits.log_softmax(dim=1)[torch.arange(len(wanted)), wanted]
        assert found.total[number] == pytest.approx(float(each.sum()), abs=1e-5)
    _, counts = writer.score(["a dog " * 40], ["dog a " * 40])
    assert counts == {"sources truncated": 1, "targets truncated": 1}


def test_the_mean_of_the_last_weights_is_kept_where_it_is_better(tmp_path, monkeypatch) -> None:
    """Scores are made up: the fifth, that of the mean, is the best."""
    values = iter([0.1, 0.4, 0.2, 0.3, 0.9])
    monkeypatch.setattr(
        "lmmodel.finetuning.data.TaskData.score", lambda self, logits: {"bleu": next(values, 0.0)}
    )
    monkeypatch.setattr("lmmodel.finetuner.best_score", lambda config, data: "bleu")
    path = write_pairs(tmp_path / "pairs.tsv", PAIRS[:2] * 8)
    config = config_of(score="bleu", num_epochs=4, num_averaged=3, patience=None)
    kept: list[dict[str, torch.Tensor]] = []
    copy_weights = TaskLearner.copy_weights

    def keep(self: TaskLearner) -> dict[str, torch.Tensor]:
        kept.append(copy_weights(self))
        return kept[-1]

    monkeypatch.setattr(TaskLearner, "copy_weights", keep)
    result = finetune(None, config, path, path, tmp_path / "out", tokenizer=make_tokenizer())
    (seed,) = result.seeds
    assert (seed.num_averaged, seed.scores["bleu"]) == (3, 0.9)
    weights = load_fine_tuned(tmp_path / "out", "cpu").model.state_dict()
    for name, weight in kept[-1].items():
        mean = torch.stack([own[name] for own in kept[1:]]).mean(dim=0)
        assert torch.equal(weights[name], mean)
        assert not torch.equal(weights[name], weight) or weight.unique().numel() == 1
    last = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["num_averaged"], last["bleu"]) == (3, 0.9)


def test_padded_batches_would_waste_what_packed_ones_do_not(tmp_path) -> None:
    path = write_pairs(tmp_path / "pairs.tsv", [("the cat sat", "a dog"), ("a", "dog a dog")] * 4)
    config = config_of(score="exact_match", batch_size=2)
    result = finetune(None, config, path, path, tmp_path / "out", tokenizer=make_tokenizer())
    assert result.padding.ratio == 0
    sources, targets = np.array([[4, 2]] * 4), np.array([[3, 4]] * 4)  # with what is around them
    assert 0 <= result.padding.padded_ratio <= 1 - (sources.sum() + targets.sum()) / (8 * 8)
