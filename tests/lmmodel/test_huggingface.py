"""Folders that stock transformers classes open, written and read."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmdata.tokenizer import Tokenizer, load_tokenizer
from lmmodel.batch import make_batch
from lmmodel.encoder_decoder import build_model
from lmmodel.errors import HuggingFaceError
from lmmodel.families import ModelConfig
from lmmodel.handover.parity import check_parity, make_sample, our_logits, stock_logits
from lmmodel.handover.settings import read_tokenizer
from lmmodel.handover.stock import export_model, import_model
from lmmodel.handover.stock_families import stock_family
from lmmodel.handover.written import architecture
from lmmodel.tasks.known import TASKS as KNOWN
from lmmodel.tasks.model import TaskModel, make_task_model

transformers = pytest.importorskip("transformers")

FAMILIES = ["bert", "modern", "gpt2", "roberta", "albert", "electra", "distilbert", "xlnet"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "the", "##s", "."]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return load_tokenizer(folder)


def tiny_model(family: str, **changes):
    own = {
        "modern": {"local_window": 10, "global_every": 2},
        "electra": {"embedding_size": 11},
        "albert": {"embedding_size": 11, "num_hidden_groups": 2},
    }.get(family, {})
    settings = {
        "vocab_size": 17, "hidden_size": 42, "num_hidden_layers": 3, "num_attention_heads": 3,
        "intermediate_size": 29, "max_position_embeddings": 37, "initializer_range": 0.2,
    }  # fmt: skip
    model = build_model(ModelConfig(family=family, **(settings | own | changes)), seed=2)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(generator=generator), alpha=0.1)
    return model.eval()


CASES = [
    ("bert", {"has_nsp_head": True}, "BertForPreTraining"),
    ("bert", {}, "BertForMaskedLM"),
    ("bert", {"positions": "sinusoidal"}, "BertForMaskedLM"),
    ("modern", {}, "ModernBertForMaskedLM"),
    ("gpt2", {}, "GPT2LMHeadModel"),
    ("roberta", {}, "RobertaForMaskedLM"),
    ("electra", {}, "ElectraForMaskedLM"),
    ("xlnet", {}, "XLNetLMHeadModel"),
    ("distilbert", {}, "DistilBertForMaskedLM"),
    ("albert", {}, "AlbertForMaskedLM"),
    ("albert", {"has_nsp_head": True, "embedding_size": 42}, "AlbertForPreTraining"),
]


TASKS = ["sequence-classification", "regression", "token-classification", "question-answering"]
LABELS = ("bad", "good", "so|so")


def tiny_task_model(family: str, task: str) -> TaskModel:
    num_labels = {"regression": 1, "question-answering": 2}.get(task, len(LABELS))
    model = make_task_model(tiny_model(family).config, KNOWN[task], num_labels, seed=3)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(generator=generator), alpha=0.1)
    return model.eval()


def open_whole(folder, class_name: str):
    """Open a folder by a stock class; no weight may be missing, unknown or of another shape."""
    cls = getattr(transformers, class_name)
    theirs, info = cls.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return theirs.eval()


@pytest.mark.parametrize(("family", "changes", "class_name"), CASES)
def test_a_stock_class_opens_an_export_and_gives_the_same_logits(
    family, changes, class_name, tokenizer, tmp_path
) -> None:
    model = tiny_model(family, **changes)
    theirs = export_model(model, tokenizer, tmp_path)
    assert theirs["architectures"] == [class_name]
    difference = check_parity(model, tmp_path, class_name, theirs["pad_token_id"])
    assert difference is not None
    assert difference < 1e-4
    open_whole(tmp_path, class_name)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fine_tuned_export_opens_stock_with_the_same_logits(
    family, task, tokenizer, tmp_path
) -> None:
    model = tiny_task_model(family, task)
    labels = LABELS if model.num_outputs == len(LABELS) else ()
    theirs = export_model(model, tokenizer, tmp_path, labels)
    class_name = architecture(model.config, KNOWN[task])
    assert check_parity(model, tmp_path, class_name, theirs["pad_token_id"]) < 1e-4
    opened = open_whole(tmp_path, class_name)
    auto = {"sequence-classification": "SequenceClassification",
            "regression": "SequenceClassification",
            "token-classification": "TokenClassification",
            "question-answering": "QuestionAnswering"}[task]  # fmt: skip
    cls = getattr(transformers, f"AutoModelFor{auto}")
    assert type(cls.from_pretrained(tmp_path)).__name__ == class_name
    if labels:
        assert opened.config.id2label == dict(enumerate(LABELS))
        assert opened.config.label2id == {name: index for index, name in enumerate(LABELS)}
    if auto == "SequenceClassification":
        expected = "regression" if task == "regression" else "single_label_classification"
        assert opened.config.problem_type == expected
    if family == "modern":
        assert opened.config.classifier_pooling == "mean"


def test_parity_notices_a_weight_that_is_off(tokenizer, tmp_path) -> None:
    model = tiny_model("bert", has_nsp_head=True)
    export_model(model, tokenizer, tmp_path)
    with torch.no_grad():
        model.nsp_head.classifier.bias[1] += 0.01
    with pytest.raises(HuggingFaceError, match=r"other logits from .*, by up to 0.01 \(allowed"):
        check_parity(model, tmp_path, "BertForPreTraining", 0)


def test_a_class_that_does_not_open_a_folder_is_named(tokenizer, tmp_path) -> None:
    model = tiny_model("bert")
    export_model(model, tokenizer, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(HuggingFaceError, match="BertForMaskedLM does not open"):
        check_parity(model, tmp_path, "BertForMaskedLM", 0)


def test_the_auto_classes_open_an_export(tokenizer, tmp_path) -> None:
    for family in FAMILIES:
        folder = tmp_path / family
        export_model(tiny_model(family), tokenizer, folder)
        transformers.AutoModel.from_pretrained(folder)
        opened = transformers.AutoTokenizer.from_pretrained(folder)
        assert opened.model_max_length == 37
        inputs = opened("the cats")
        assert opened.convert_ids_to_tokens(inputs.input_ids)
        # GPT-2 would take segments for tokens and add their embeddings.
        assert ("token_type_ids" in inputs) == (family in ("bert", "albert", "electra", "xlnet"))
    auto = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "modern")
    assert type(auto).__name__ == "ModernBertForSequenceClassification"


def test_the_fill_mask_pipeline_opens_an_export(tokenizer, tmp_path) -> None:
    export_model(tiny_model("bert", vocab_size=len(WORDS)), tokenizer, tmp_path)
    fill = transformers.pipeline("fill-mask", model=str(tmp_path))
    best = fill("the [MASK].")
    assert len(best) == 5
    assert all(item["token_str"] in WORDS for item in best)


def logits_of(model, input_ids) -> torch.Tensor:
    lengths = torch.full((len(input_ids),), input_ids.shape[1])
    return our_logits(model, make_batch(input_ids.flatten(), lengths))[0]


@pytest.mark.parametrize(("family", "changes", "class_name"), CASES)
def test_export_import_export_gives_the_same_files(
    family, changes, class_name, tokenizer, tmp_path
) -> None:
    model = tiny_model(family, **changes)
    export_model(model, tokenizer, tmp_path / "first")
    back = import_model(tmp_path / "first")
    assert not back.fresh
    assert not back.unused
    if changes.get("positions") != "sinusoidal":  # comes back as a learned table
        assert back.model.config == model.config
        state = back.model.state_dict()
        assert all(torch.equal(state[name], w) for name, w in model.state_dict().items())
    export_model(back.model, tokenizer, tmp_path / "second")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    input_ids = torch.arange(1, 15).view(2, 7)
    assert torch.equal(logits_of(back.model, input_ids), logits_of(model, input_ids))


STOCK_CONFIGS = {
    "bert": transformers.BertConfig, "modern": transformers.ModernBertConfig,
    "gpt2": transformers.GPT2Config, "roberta": transformers.RobertaConfig,
    "albert": transformers.AlbertConfig, "electra": transformers.ElectraConfig,
    "xlnet": transformers.XLNetConfig,
    "distilbert": transformers.DistilBertConfig,
}  # fmt: skip


def stock_config(family: str):
    if family == "gpt2":
        return transformers.GPT2Config(
            vocab_size=17, n_embd=42, n_layer=2, n_head=3, n_positions=37, bos_token_id=2,
            eos_token_id=3,
        )  # fmt: skip
    if family == "xlnet":
        return transformers.XLNetConfig(
            vocab_size=17, d_model=42, n_layer=3, n_head=3, d_inner=29, pad_token_id=0
        )
    if family == "distilbert":
        return transformers.DistilBertConfig(
            vocab_size=17, dim=42, n_layers=3, n_heads=3, hidden_dim=29, max_position_embeddings=37,
        )  # fmt: skip
    own = {"layer_types": None, "local_attention": 10, "global_attn_every_n_layers": 2}
    cls = STOCK_CONFIGS[family]
    return cls(
        vocab_size=17, hidden_size=42, num_hidden_layers=3, num_attention_heads=3,
        intermediate_size=29, max_position_embeddings=37,
        pad_token_id=15 if family == "roberta" else 0,
        **({**own, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
           if family == "modern" else {}),
    )  # fmt: skip


@pytest.mark.parametrize("shard", ["20KB", "5GB"])
@pytest.mark.parametrize(
    "class_name", ["BertForPreTraining", "BertForMaskedLM", "ModernBertForMaskedLM",
                   "GPT2LMHeadModel", "RobertaForMaskedLM", "AlbertForPreTraining",
                   "ElectraForMaskedLM", "DistilBertForMaskedLM",
                   "XLNetLMHeadModel"],
)  # fmt: skip
def test_a_random_stock_model_gives_equal_logits(class_name, shard, tmp_path) -> None:
    family = next(
        f for f in FAMILIES if class_name.lower().startswith(f.replace("modern", "modernbert"))
    )
    torch.manual_seed(11)
    theirs = getattr(transformers, class_name)(stock_config(family)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    if family != "albert":  # whose one layer is small
        assert (tmp_path / "model.safetensors.index.json").is_file() == (shard == "20KB")
    back = import_model(tmp_path)
    assert not back.fresh
    assert not back.unused
    assert architecture(back.model.config) == class_name
    pad_id = stock_config(family).pad_token_id or 0
    sample = make_sample(back.model.config, pad_id)
    expected = stock_logits(tmp_path, class_name, sample, pad_id)
    for ours, stock in zip(our_logits(back.model, sample.packed()), expected, strict=True):
        torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("class_name", "heads"),
    [
        ("BertModel", {"head.", "nsp_head.classifier."}),
        ("ModernBertModel", {"head."}),
        ("GPT2Model", set()),
        ("RobertaModel", {"head."}),
        ("ElectraModel", {"head."}),
        ("XLNetModel", {"head."}),
        ("AlbertModel", {"head.", "nsp_head.classifier."}),
    ],
)
def test_a_checkpoint_of_the_base_model_gets_fresh_heads(class_name, heads, tmp_path) -> None:
    family = next(
        f for f in FAMILIES if class_name.lower().startswith(f.replace("modern", "modernbert"))
    )
    theirs = getattr(transformers, class_name)(stock_config(family)).eval()
    theirs.save_pretrained(tmp_path)
    back = import_model(tmp_path)
    names = {name for name, _ in back.model.named_parameters() if name.startswith(tuple(heads))}
    assert set(back.fresh) == (names if heads else set())
    input_ids = torch.arange(1, 15).view(2, 7)
    with torch.no_grad():
        expected = theirs(input_ids=input_ids).last_hidden_state
        found = back.model(make_batch(input_ids.flatten(), torch.tensor([7, 7])))
    torch.testing.assert_close(found.view(2, 7, -1), expected, atol=1e-5, rtol=1e-5)


def test_what_a_fine_tuned_checkpoint_has_besides_is_told(tokenizer, tmp_path) -> None:
    export_model(tiny_task_model("bert", "regression"), tokenizer, tmp_path)
    back = import_model(tmp_path)
    assert sorted(back.unused) == ["classifier.bias", "classifier.weight"]
    assert "head.dense.weight" in back.fresh


@pytest.mark.parametrize("family", FAMILIES)
def test_a_silent_config_means_what_transformers_takes_it_to_mean(family) -> None:
    stock = STOCK_CONFIGS[family]()
    defaults = dict(stock_family(family).settings.values())
    if family == "xlnet":  # whose distances have no end: the setting is ours
        assert defaults.pop("max_seq_length") == 512
    assert {name: getattr(stock, name) for name in defaults} == defaults


def test_half_precision_weights_become_float32(tokenizer, tmp_path) -> None:
    model = tiny_model("gpt2")
    export_model(model, tokenizer, tmp_path)
    halved = {n: w.bfloat16() for n, w in load_file(tmp_path / "model.safetensors").items()}
    save_file(halved, tmp_path / "model.safetensors")
    state = import_model(tmp_path).model.state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(state[name], weight.bfloat16().float())


def test_old_names_of_norms_are_known(tokenizer, tmp_path) -> None:
    model = tiny_model("bert")
    export_model(model, tokenizer, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): weight
        for name, weight in weights.items()
    }
    save_file(old, tmp_path / "model.safetensors")
    back = import_model(tmp_path)
    assert not back.fresh
    assert all(torch.equal(back.model.state_dict()[n], w) for n, w in model.state_dict().items())


def edit_config(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        (
            "bert",
            {"model_type": "mt5"},
            "model_type 'mt5' is not supported: import takes bert, mod",
        ),
        (
            "bert",
            {"hidden_act": "relu"},
            "hidden_act='relu' is not supported for bert, only 'g",
        ),
        ("bert", {"position_embedding_type": "relative_key"}, "can't be imported"),
        ("modern", {"norm_bias": True}, "norm_bias=True is not supported for modern, only False"),
        (
            "modern",
            {"layer_types": ["sliding_attention", "full_attention", "full_attention"]},
            r"full attention in layers \[1, 2\]: only every n-th layer",
        ),
        ("gpt2", {"activation_function": "relu"}, "activation_function='relu' is not supported"),
        (
            "roberta",
            {"pad_token_id": None},
            "pad_token_id=null: positions follow it, so an id from",
        ),
        (
            "roberta",
            {"pad_token_id": 37},
            "from 0 to 36 is needed, below max_position_embeddings=38",
        ),
        ("albert", {"inner_group_num": 2}, "inner_group_num=2 is not supported for albert, only 1"),
        ("albert", {"num_hidden_groups": 9}, "num_hidden_groups must be at most num_hidden_layers"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True is not supported"),
        ("bert", {"hidden_size": "wide"}, 'hidden_size="wide": a whole number from 1 to 131,072'),
        ("gpt2", {"n_head": 5}, "config.json describes no model that works: hidden_size must be"),
        ("gpt2", {"n_layer": 4}, "lacks 12 weights .* first layers.3.attention_norm.weight"),
        ("gpt2", {"n_embd": 45}, r"has shape \(17, 42\) in .*, config.json says \(17, 45\)"),
    ],
)
def test_what_this_model_is_not_is_refused(family, changes, message, tokenizer, tmp_path) -> None:
    export_model(tiny_model(family), tokenizer, tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(HuggingFaceError, match=message):
        import_model(tmp_path)


def test_a_pickle_is_refused_with_what_to_do(tokenizer, tmp_path) -> None:
    export_model(tiny_model("bert"), tokenizer, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(HuggingFaceError, match=r"pytorch_model.bin only, .* convert it with"):
        import_model(tmp_path)


def test_missing_and_broken_files_are_named(tokenizer, tmp_path) -> None:
    with pytest.raises(HuggingFaceError, match=r"holds no config.json"):
        import_model(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(HuggingFaceError, match=r"config.json is not valid JSON"):
        import_model(tmp_path)
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(HuggingFaceError, match="must hold a table, it holds a list"):
        import_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(HuggingFaceError, match=r"holds no model.safetensors"):
        import_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04 no safetensors")
    with pytest.raises(HuggingFaceError, match=r"model.safetensors can't be read"):
        import_model(tmp_path)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(tokenizer, tmp_path) -> None:
    with pytest.raises(HuggingFaceError, match="the tokenizer has 11 ids, the model only 7"):
        export_model(tiny_model("bert", vocab_size=7), tokenizer, tmp_path)


def test_a_named_token_beyond_the_weights_is_left_out_and_said(tokenizer, tmp_path) -> None:
    export_model(tiny_model("bert"), tokenizer, tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "</end>"}))
    edit_config(tmp_path, vocab_size=tokenizer.vocab_size)
    imported = read_tokenizer(tmp_path)
    assert imported.vocab_size == tokenizer.vocab_size
    assert "</end>" not in imported.special_tokens.values()
    assert "left out, as the model has no row for it" in " ".join(imported.notes)
    assert load_tokenizer(tmp_path).special_tokens["eos"] == "</end>"
