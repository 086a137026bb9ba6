import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmdata.tokenizer import Tokenizer, load_tokenizer
from lmmodel.batch import make_batch
from lmmodel.errors import HuggingFaceError
from lmmodel.huggingface import (
    check_parity,
    export_model,
    import_model,
    stock_logits,
    vocabulary_logits,
)
from lmmodel.model import ModelConfig, make_model

transformers = pytest.importorskip("transformers")

FAMILIES = ["bert", "modern", "gpt2"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "the", "##s", "."]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return load_tokenizer(folder)


def tiny_model(family: str, **changes):
    own = {"local_window": 10, "global_every": 2} if family == "modern" else {}
    settings = {
        "vocab_size": 17, "hidden_size": 42, "num_hidden_layers": 3, "num_attention_heads": 3,
        "intermediate_size": 29, "max_position_embeddings": 37, "initializer_range": 0.2,
    }  # fmt: skip
    model = make_model(ModelConfig(family=family, **(settings | own | changes)), seed=2)
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
]


@pytest.mark.parametrize(("family", "changes", "class_name"), CASES)
def test_a_stock_class_opens_an_export_and_gives_the_same_logits(
    family, changes, class_name, tokenizer, tmp_path
) -> None:
    model = tiny_model(family, **changes)
    export_model(model, tokenizer, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [class_name]
    difference = check_parity(model, tmp_path)
    assert difference is not None
    assert difference < 1e-4


@pytest.mark.parametrize(("family", "changes", "class_name"), CASES)
def test_no_weight_is_missing_or_unknown_to_the_stock_class(
    family, changes, class_name, tokenizer, tmp_path
) -> None:
    export_model(tiny_model(family, **changes), tokenizer, tmp_path)
    _, info = getattr(transformers, class_name).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]


def test_the_auto_classes_open_an_export(tokenizer, tmp_path) -> None:
    for family in FAMILIES:
        folder = tmp_path / family
        export_model(tiny_model(family), tokenizer, folder)
        transformers.AutoModel.from_pretrained(folder)
        opened = transformers.AutoTokenizer.from_pretrained(folder)
        assert opened.convert_ids_to_tokens(opened("the cats", add_special_tokens=False).input_ids)
    auto = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "modern")
    assert type(auto).__name__ == "ModernBertForSequenceClassification"


def test_the_fill_mask_pipeline_opens_an_export(tokenizer, tmp_path) -> None:
    export_model(tiny_model("bert", vocab_size=len(WORDS)), tokenizer, tmp_path)
    fill = transformers.pipeline("fill-mask", model=str(tmp_path))
    best = fill("the [MASK].")
    assert len(best) == 5
    assert all(item["token_str"] in WORDS for item in best)


@pytest.mark.parametrize(("family", "changes", "class_name"), CASES)
def test_import_of_an_export_is_the_model_itself(
    family, changes, class_name, tokenizer, tmp_path
) -> None:
    model = tiny_model(family, **changes)
    export_model(model, tokenizer, tmp_path)
    back, fresh = import_model(tmp_path)
    assert not fresh
    if changes.get("positions") != "sinusoidal":  # comes back as a learned table
        assert back.config == model.config
        state = back.state_dict()
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(state[name], w) for name, w in model.state_dict().items())
    batch = make_batch(torch.arange(1, 15), torch.tensor([5, 9]))
    assert torch.equal(vocabulary_logits(back, batch), vocabulary_logits(model, batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saves_can_be_imported(family, tokenizer, tmp_path) -> None:
    model = tiny_model(family)
    export_model(model, tokenizer, tmp_path / "ours")
    class_name = {c[0]: c[2] for c in CASES}[family]
    theirs = getattr(transformers, class_name).from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    back, fresh = import_model(tmp_path / "theirs")
    assert not fresh
    input_ids = torch.arange(1, 15).view(2, 7)
    logits = vocabulary_logits(back, make_batch(input_ids.flatten(), torch.tensor([7, 7])))
    expected = stock_logits(tmp_path / "theirs", class_name, input_ids)
    torch.testing.assert_close(logits.view(2, 7, -1), expected, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_of_the_base_model_gets_a_fresh_head(tokenizer, tmp_path) -> None:
    export_model(tiny_model("bert"), tokenizer, tmp_path / "ours")
    base = transformers.BertModel.from_pretrained(tmp_path / "ours", add_pooling_layer=False)
    base.save_pretrained(tmp_path / "base")
    back, fresh = import_model(tmp_path / "base")
    heads = {name for name, _ in back.named_parameters() if name.startswith("head.")}
    assert set(fresh) == heads


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
    back, fresh = import_model(tmp_path)
    assert not fresh
    assert all(torch.equal(back.state_dict()[n], w) for n, w in model.state_dict().items())


def edit_config(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("bert", {"model_type": "t5"}, "model_type 't5' is not supported: import takes bert, mod"),
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


def test_the_model_card_tells_figures_and_what_opens_it(tokenizer, tmp_path) -> None:
    figures = {"loss": 2.5, "Recipe": {"mask rate": 0.15, "steps": 1000}}
    export_model(tiny_model("gpt2"), tokenizer, tmp_path, figures=figures)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n")
    assert "`transformers.GPT2LMHeadModel`, without remote code" in card
    assert "| loss | 2.5 |" in card
    assert "## Recipe" in card
    assert "| mask rate | 0.15 |" in card
