"""Folders as others publish them, and as nobody should: read as their classes do, or refused.

A published model's `config.json` keeps its text here, but for its sizes: small random weights of
the same form make the test.
"""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

from lmdata.tokenizer import load_tokenizer
from lmmodel.errors import HuggingFaceError
from lmmodel.handover.settings import check_described, from_their_config, read_tokenizer
from lmmodel.handover.stock import import_model
from lmmodel.handover.stock_weights import from_their_weights
from lmmodel.importing import import_checkpoint

transformers = pytest.importorskip("transformers")

CASES = Path(__file__).parents[2] / ".." / "shared" / "cases"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "the", "##s", "."]
IDS = {"pad": 0, "cls": 2, "sep": 3}

# What their config.json says, without what is small here; "sizes" are set below.
BERT = {
    "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02, "layer_norm_eps": 1e-12, "model_type": "bert", "pad_token_id": 0,
    "position_embedding_type": "absolute", "transformers_version": "4.6.0.dev0",
    "type_vocab_size": 2, "use_cache": True,
}  # fmt: skip
MULTILINGUAL = BERT | {
    "directionality": "bidi", "pooler_fc_size": 768, "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3, "pooler_size_per_head": 128, "pooler_type": "first_token_transform",
}  # fmt: skip
OLD_BERT = {  # of the first small checkpoints: no model_type, and null where others say nothing
    "architectures": ["BertForPreTraining"], "hidden_act": "gelu", "initializer_range": 0.02,
    "attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1, "type_vocab_size": 2,
}  # fmt: skip
GPT2 = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
    "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "resid_pdrop": 0.1,
    "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}  # fmt: skip
DISTILGPT2 = GPT2 | {"_num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
MODERN = {
    "architectures": ["ModernBertForMaskedLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 2, "classifier_activation": "gelu", "classifier_bias": False,
    "classifier_dropout": 0.0, "classifier_pooling": "mean", "cls_token_id": 2,
    "decoder_bias": True, "deterministic_flash_attn": False, "embedding_dropout": 0.0,
    "eos_token_id": 3, "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0,
    "gradient_checkpointing": False, "hidden_activation": "gelu",
    "initializer_cutoff_factor": 2.0, "initializer_range": 0.02, "layer_norm_eps": 1e-05,
    "local_attention": 10, "local_rope_theta": 10000.0, "mlp_bias": False, "mlp_dropout": 0.0,
    "model_type": "modernbert", "norm_bias": False, "norm_eps": 1e-05, "pad_token_id": 0,
    "position_embedding_type": "absolute", "reference_compile": True, "sep_token_id": 3,
    "sparse_pred_ignore_index": -100, "sparse_prediction": False, "tie_word_embeddings": True,
    "torch_dtype": "float32", "transformers_version": "4.48.0.dev0",
}  # fmt: skip
ROBERTA = {
    "architectures": ["RobertaForMaskedLM"], "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 2, "eos_token_id": 3, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02, "layer_norm_eps": 1e-05, "model_type": "roberta",
    "pad_token_id": 1, "type_vocab_size": 1,
}  # fmt: skip
ALBERT = {
    "architectures": ["AlbertForMaskedLM"], "attention_probs_dropout_prob": 0, "bos_token_id": 2,
    "classifier_dropout_prob": 0.1, "down_scale_factor": 1, "embedding_size": 8, "eos_token_id": 3,
    "gap_size": 0, "hidden_act": "gelu_new", "hidden_dropout_prob": 0, "initializer_range": 0.02,
    "inner_group_num": 1, "layer_norm_eps": 1e-12, "model_type": "albert",
    "net_structure_type": 0, "num_hidden_groups": 1, "num_memory_blocks": 0, "pad_token_id": 0,
    "type_vocab_size": 2,
}  # fmt: skip
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-base-uncased": ("BertForPreTraining", BERT),
    "bert-base-cased": ("BertForPreTraining", BERT),
    "bert-base-multilingual-cased": ("BertForPreTraining", MULTILINGUAL),
    "an old small bert": ("BertForPreTraining", OLD_BERT),
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2-medium": ("GPT2LMHeadModel", GPT2 | {"n_special": 0, "predict_special_tokens": True}),
    "distilgpt2": ("GPT2LMHeadModel", DISTILGPT2),
    "roberta-base": ("RobertaForMaskedLM", ROBERTA),
    "a roberta with two segments": ("RobertaForMaskedLM", ROBERTA | {"type_vocab_size": 2}),
    "albert-base-v2": ("AlbertForMaskedLM", ALBERT),
    "an albert with pairs": ("AlbertForPreTraining", ALBERT | {"num_hidden_groups": 2}),
    "ModernBERT-base": ("ModernBertForMaskedLM", MODERN),
    "ModernBERT-large": ("ModernBertForMaskedLM", MODERN),
    "ModernBERT of version 5": ("ModernBertForMaskedLM", {
        **{name: value for name, value in MODERN.items() if "rope_theta" not in name},
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_theta": 160000.0, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
    }),
}  # fmt: skip
SIZES = {
    "vocab_size": 17, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3,
    "intermediate_size": 20, "max_position_embeddings": 37,
}  # fmt: skip
GPT2_SIZES = {
    "vocab_size": 17, "n_embd": 24, "n_layer": 3, "n_head": 3, "n_ctx": 37, "n_positions": 37,
}  # fmt: skip


def write_checkpoint(folder: Path, class_name: str, described: dict[str, Any]) -> Path:
    """Write a folder of small random weights, beside the config.json that is published."""
    content = described | (GPT2_SIZES if class_name.startswith("GPT2") else SIZES)
    cls = getattr(transformers, class_name)
    torch.manual_seed(3)
    known = set(cls.config_class().to_dict()) - {"transformers_version", "torch_dtype"}
    model = cls(cls.config_class(**{k: v for k, v in content.items() if k in known}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something looked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_checkpoint_is_imported_with_the_same_logits(name: str, tmp_path: Path) -> None:
    class_name, described = PUBLISHED[name]
    found = import_checkpoint(write_checkpoint(tmp_path / "hf", class_name, described),
                              tmp_path / "run")  # fmt: skip
    assert found.architecture == class_name
    assert found.max_logit_difference is not None
    assert found.max_logit_difference < 1e-4
    assert found.fresh == found.unused == ()


@pytest.mark.parametrize("model_type", ["mpnet", "deberta-v2", "llama", "xlm"])
def test_a_family_of_others_is_refused_by_name(model_type: str) -> None:
    with pytest.raises(
        HuggingFaceError,
        match=f"^model_type '{model_type}' is not supported: import takes bert, modernbert, gpt2, ",
    ):
        from_their_config({"model_type": model_type})


def test_a_folder_that_says_nothing_is_told_what_to_say() -> None:
    with pytest.raises(HuggingFaceError, match='give it a line like "model_type": "bert"'):
        from_their_config({"hidden_size": 128})


# ---- Hostile and damaged folders: one line, at once


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    names = {"bert": "bert-base-cased", "gpt2": "gpt2", "modern": "ModernBERT-base"}
    return {
        family: write_checkpoint(folder / family, *PUBLISHED[name])
        for family, name in names.items()
    }


@pytest.fixture
def changed(checkpoints: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    def change(family: str, **changes: Any) -> Path:
        folder = tmp_path / family
        shutil.copytree(checkpoints[family], folder)
        content = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
        return folder

    return change


def refuse(folder: Path, match: str) -> None:
    before = time.process_time()
    with pytest.raises(HuggingFaceError, match=match) as caught:
        import_model(folder)
    assert time.process_time() - before < 1
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(folder))


NUMBERS = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
           "max_position_embeddings", "vocab_size", "type_vocab_size"]  # fmt: skip


@pytest.mark.parametrize("value", [0, -1, 10**12, 2**64, 6000.5, True, "x", [1], {}, None, 1e999])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_size_that_can_not_be_is_refused(name: str, value: Any, changed) -> None:
    refuse(changed("bert", **{name: value}), f"config.json says {name}=.*a whole number from 1 to")


@pytest.mark.parametrize("value", [-1, "x", [0.1], None, True, float("nan"), 1e9])
@pytest.mark.parametrize("name", ["layer_norm_eps", "initializer_range", "hidden_dropout_prob"])
def test_a_number_that_can_not_be_is_refused(name: str, value: Any, changed) -> None:
    refuse(changed("bert", **{name: value}), f"config.json says {name}=.*a number from 0 to")


@pytest.mark.parametrize(
    ("family", "changes", "match"),
    [
        ("bert", {"hidden_size": 65538}, r"has shape \(17, 24\) in .*, config.json says \(17, 6"),
        ("bert", {"vocab_size": 5_000_000}, r"config.json says \(5000000, 24\)"),
        ("bert", {"max_position_embeddings": 1 << 24}, r"config.json says \(16777216, 24\)"),
        ("bert", {"num_hidden_layers": 900}, r"config.json says 900 layers, .* holds \d+ weigh"),
        ("bert", {"pad_token_id": -1}, "pad_token_id=-1: an id from 0 to 16 is needed"),
        ("bert", {"pad_token_id": 10**9}, "pad_token_id=1000000000: an id from 0 to 16"),
        ("bert", {"pad_token_id": "x"}, 'pad_token_id="x": an id is needed, or null'),
        ("gpt2", {"pad_token_id": [1]}, r"pad_token_id=\[1\]: an id is needed, or null"),
        ("gpt2", {"eos_token_id": [1, "x"]}, r'eos_token_id=\[1, "x"\]: an id is needed'),
        ("gpt2", {"n_embd": 16_800}, r"config.json says \(17, 16800\)"),
        ("gpt2", {"n_inner": "wide"}, 'n_inner="wide": a whole number'),
        ("bert", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "not quantized"),
        ("bert", {"quantization_config": "x"}, "not quantized"),
        ("bert", {"hidden_act": ["gelu"]}, r"hidden_act=\['gelu'\] is not supported"),
        ("bert", {"model_type": ["bert"]}, r"model_type \['bert'\] is not supported"),
        ("modern", {"max_position_embeddings": 1 << 24}, "that table would be larger than the mo"),
        ("modern", {"global_attn_every_n_layers": 0}, "global_attn_every_n_layers=0: a whole num"),
        ("modern", {"layer_types": "full_attention"}, "a list of 3 layers is needed"),
        ("modern", {"layer_types": ["full_attention"]}, "a list of 3 layers is needed"),
        ("modern", {"layer_types": [1, 2, 3]}, "a list of 3 layers is needed"),
        ("modern", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling=.*null"),
        ("modern", {"rope_parameters": {"rope_theta": 5000.0}}, "a table of two tables is needed"),
        ("modern", {"rope_parameters": {"full_attention": 5.0}}, "a table of two tables is needed"),
        ("modern", {"rope_parameters": [1]}, "a table of two tables is needed"),
        ("modern", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, '"yarn"'),
        ("modern", {"rope_parameters": {"full_attention": {"rope_theta": "x"}}}, "a number from"),
        ("modern", {"global_rope_theta": -1}, "global_rope_theta=-1: a number from"),
        ("modern", {"local_attention": 7}, "local_window must be even"),
    ],
)
def test_a_config_that_can_not_be_is_refused_by_arithmetic(
    family: str, changes: dict[str, Any], match: str, changed
) -> None:
    refuse(changed(family, **changes), match)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation": "evil-org/evil-kernel"},
        {"attn_implementation": "evil-org/evil-kernel"},
        {"attn_implementation": "flash_attention_2"},
        {"auto_map": {"AutoModel": "evil-org/evil--modeling.Model"}},
        {"use_kernels": True, "kernel_config": {"GeLU": "evil-org/evil-kernel"}},
        {"return_dict": False, "output_attentions": True},
        {"dtype": "evil", "torch_dtype": 7},
    ],
)
@pytest.mark.parametrize("family", ["bert", "gpt2", "modern"])
def test_nothing_is_fetched_or_run_by_a_name_in_a_config(family, changes, changed, tmp_path):
    folder = changed(family, **changes)
    (folder / "modeling.py").write_text("raise SystemExit('executed')")
    assert import_checkpoint(folder, tmp_path / "run").max_logit_difference < 1e-4


@pytest.mark.parametrize(
    ("places", "match"),
    [
        ({"a": 7}, "says that a lies in 7: only a .safetensors file beside it is opened"),
        ({"a": "../other.safetensors"}, "only a .safetensors file beside it"),
        ({"a": "/etc/passwd"}, "only a .safetensors file beside it"),
        ({"a": "pytorch_model.bin"}, "only a .safetensors file beside it"),
        ({"a": "gone.safetensors"}, "gone.safetensors can't be read"),
        ({}, "says nothing of where weights lie"),
        (["model.safetensors"], "says nothing of where weights lie"),
    ],
)
def test_an_index_names_files_beside_it_or_is_refused(places, match, changed) -> None:
    folder = changed("bert")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    refuse(folder, match)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ("{", "is not valid JSON"),
        ('{"vocab_size": ' + "9" * 10_000 + "}", "is not valid JSON"),
        (" " * (1 << 24) + "{}", "has 16,777,218 bytes, such a file has at most 16,777,216"),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:ab\n",
            "Git LFS pointer, .*lfs p",
        ),
    ],
)
def test_a_json_file_that_is_none_is_told_in_one_line(name, text, match, changed) -> None:
    folder = changed("bert")
    (folder / name).write_text(text)
    refuse(folder, match)


# ---- Weights


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, Any]]) -> None:
    path = folder / "model.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, path)


TIED = {
    "bert": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "gpt2": ("transformer.wte.weight", "lm_head.weight"),
    "modern": ("model.embeddings.tok_embeddings.weight", "decoder.weight"),
}


@pytest.mark.parametrize("family", TIED)
def test_a_tied_weight_may_lie_under_its_other_name(family, changed, tmp_path) -> None:
    name, other = TIED[family]
    folder = changed(family)
    rewrite(folder, lambda weights: {other if key == name else key: value
                                     for key, value in weights.items()})  # fmt: skip
    found = import_checkpoint(folder, tmp_path / "run")
    assert found.fresh == found.unused == ()
    assert found.max_logit_difference < 1e-4


@pytest.mark.parametrize("family", TIED)
def test_a_copy_that_is_none_is_a_head_that_is_not_supported(family, changed) -> None:
    name, other = TIED[family]
    folder = changed(family)
    rewrite(folder, lambda weights: weights | {other: weights[name].clone()})
    assert not import_model(folder).unused
    rewrite(folder, lambda weights: weights | {other: weights[name] + 1e-3})
    refuse(folder, f"{other} differs from {name}, of which it is a copy")


def test_weights_that_are_no_numbers_are_named(changed) -> None:
    folder = changed("bert")
    name = "bert.encoder.layer.1.output.dense.bias"
    rewrite(folder, lambda weights: weights | {name: weights[name] * float("nan")})
    refuse(folder, "layers.1.mlp.output.bias in .* holds values that are no numbers")


def test_weights_that_are_quantized_are_named(changed) -> None:
    folder = changed("bert")
    name = "bert.encoder.layer.1.output.dense.weight"
    rewrite(folder, lambda weights: weights | {name: weights[name].to(torch.int8)})
    refuse(folder, f"{name} in .* holds I8: weights are read as F32, F16, BF16, F64")


def test_parts_of_a_weight_that_do_not_fit_together_are_told(changed) -> None:
    folder = changed("bert")
    name = "bert.encoder.layer.1.attention.self.key.weight"
    rewrite(folder, lambda weights: weights | {name: weights[name][:, :5]})
    refuse(folder, "the weights in .* do not fit together")


def test_a_pointer_is_not_called_damaged(changed) -> None:
    folder = changed("bert")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"
    (folder / "model.safetensors").write_text(pointer)
    refuse(folder, "is a Git LFS pointer, not the weights .*git lfs pull")


def test_another_model_is_the_folders_fault(changed, tmp_path) -> None:
    """A setting that changes the numbers and that this model does not know."""
    folder = changed("gpt2", reorder_and_upcast_attn=False, attn_pdrop=0.0)
    stock = transformers.GPT2LMHeadModel.from_pretrained
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.GPT2LMHeadModel, "from_pretrained",
                      lambda *args, **kwargs: doubled(stock(*args, **kwargs)))  # fmt: skip
        with pytest.raises(HuggingFaceError, match=r"computes other logits .*asks for some"):
            import_checkpoint(folder, tmp_path / "run")


def doubled(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(2)
    return model


# ---- Activations and special tokens


@pytest.mark.parametrize(
    ("family", "name", "same"),
    [
        ("bert", "hidden_act", ["gelu_python"]),
        ("gpt2", "activation_function",
         ["gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"]),
    ],
)  # fmt: skip
def test_one_function_has_several_names(family, name, same, changed, tmp_path) -> None:
    for number, value in enumerate(same):
        folder = changed(family, **{name: value})
        found = import_checkpoint(folder, tmp_path / f"run-{number}")
        assert found.max_logit_difference < 1e-4
        shutil.rmtree(folder)


@pytest.mark.parametrize("value", ["gelu_new", "gelu_10", "quick_gelu", "silu"])
def test_another_function_is_refused(value, changed) -> None:
    refuse(changed("bert", hidden_act=value), f"hidden_act='{value}' is not supported")


@pytest.mark.parametrize(("value", "expected"), [(10, "."), ([7, 8], "dog"), (50256, None)])
def test_where_a_text_ends_is_kept_from_the_configuration(
    value, expected, changed, tmp_path
) -> None:
    folder = changed("gpt2", eos_token_id=value)
    assert "eos" not in read_tokenizer(folder).special_tokens
    import_checkpoint(folder, tmp_path / "run")
    assert load_tokenizer(tmp_path / "run").special_tokens.get("eos") == expected


def test_what_was_changed_of_the_tokenizer_is_told(changed, tmp_path) -> None:
    folder = changed("gpt2")
    vocabulary = {piece: number for number, piece in enumerate("abcdefgh")} | {"ab": 8}
    model = tokenizers.models.BPE(vocab=vocabulary, merges=[("a", "b")], dropout=0.5)
    tokenizers.Tokenizer(model).save(str(folder / "tokenizer.json"))
    found = import_checkpoint(folder, tmp_path / "run")
    assert any("dropout" in note for note in found.notes)
    assert load_tokenizer(tmp_path / "run").backend.encode("ab").ids == [8]


@pytest.mark.parametrize(
    "name", ["tied-weight-other-name", "same-activation-refused", "added-tokens-lost"]
)
def test_the_folders_that_failed_are_imported(name: str, tmp_path: Path) -> None:
    if not (CASES / name).is_dir():
        pytest.skip("the examples that failed are not beside this checkout")
    for folder in sorted(path for path in (CASES / name).iterdir() if path.is_dir()):
        found = import_checkpoint(folder, tmp_path / folder.name)
        assert found.max_logit_difference is not None
        assert found.max_logit_difference < 1e-4


@pytest.mark.parametrize("name", ["added-tokens-lost", "tokenizer-config-overrides"])
def test_an_import_gives_the_ids_of_the_folder(name: str, tmp_path: Path) -> None:
    if not (CASES / name).is_dir():
        pytest.skip("the examples that failed are not beside this checkout")
    for folder in sorted(path for path in (CASES / name).iterdir() if path.is_dir()):
        import_checkpoint(folder, tmp_path / folder.name)
        ours = load_tokenizer(tmp_path / folder.name)
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        assert ours.vocab_size == len(theirs)
        assert ours.special_tokens.get("eos") == theirs.eos_token
        for text in ("The King naïve", "a river, and more"):
            expected = theirs(text, add_special_tokens=False).input_ids
            assert ours.backend.encode(text, add_special_tokens=False).ids == expected


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("foreign-tokenizer-class/japanese", "BertJapaneseTokenizer"),
        ("lfs-pointer/lfs-tokenizer", "Git LFS pointer"),
        ("lfs-pointer/lfs", "Git LFS pointer"),
        ("please-report-this/nan", "holds values that are no numbers"),
        ("please-report-this/untied", "a head with a vocabulary of its own is not supported"),
    ],
)
def test_the_folders_that_failed_are_refused_by_what_is_wrong(name, match, tmp_path) -> None:
    if not (CASES / name).is_dir():
        pytest.skip("the examples that failed are not beside this checkout")
    with pytest.raises(HuggingFaceError, match=match) as caught:
        import_checkpoint(CASES / name, tmp_path / "run")
    assert "please report" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", '"x"', " " * (1 << 25)])
@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_a_tokenizer_file_that_is_no_object_is_told_in_one_line(name, text, changed) -> None:
    folder = changed("bert")
    (folder / name).write_text(text)
    with pytest.raises(HuggingFaceError, match=name) as caught:
        check_described(folder)  # before PyTorch is loaded and weights are read
    assert "\n" not in str(caught.value)
    assert "save_pretrained" not in str(caught.value)  # the files are there


@pytest.mark.parametrize("path", sorted(CASES.glob("hostile-hf-config-*")), ids=lambda p: p.name)
def test_the_configurations_that_failed_are_refused_at_once(path: Path, changed) -> None:
    content = json.loads((path / "config.json").read_text())
    folder = changed("bert", **content)
    refuse(folder, "config.json|holds|lacks|shape")


def test_names_of_weights_are_translated_without_their_numbers() -> None:
    config = from_their_config(BERT | SIZES)
    outline = {"bert.pooler.dense.weight": torch.empty(24, 24, device="meta")}
    assert "embeddings.tokens.weight" in from_their_weights(outline, config).missing
