"""The verbs that answer: what they print, where their texts come from, and what they refuse."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmcli.inputs import _note_table
from lmcli.lmmodel import main
from lmdata.tokenizer import load_tokenizer
from tests.cli.commands import TRAIN_FAST, Road, as_json, invoke, succeed
from tests.lmmodel.fine_tuned_folders import write_fine_tuned


@pytest.fixture(scope="module")
def gpt(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("gpt") / "gpt"
    succeed("lmmodel", "train", road.tokens, "--output", run, "--num-steps", "2", "--set",
            "model.family=gpt2", "--set", "objective.name=clm", *TRAIN_FAST)  # fmt: skip
    return run


@pytest.fixture(scope="module")
def tuned(road: Road, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each task; they know nothing."""
    folder, tokenizer = tmp_path_factory.mktemp("tuned"), load_tokenizer(road.tokenizer)
    labels: dict[str, tuple[str, ...]] = {
        "sequence-classification": ("bad", "good"), "sentence-pair": ("no", "yes"),
        "regression": (), "token-classification": ("NOUN", "VERB"), "question-answering": (),
    }  # fmt: skip
    return {
        **{task: write_fine_tuned(folder / task, task, tokenizer, own)
           for task, own in labels.items()},
        "regression of pairs": write_fine_tuned(
            folder / "regression of pairs", "regression", tokenizer, has_pairs=True
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def translator(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder-decoder that knows nothing."""
    folder = tmp_path_factory.mktemp("translator") / "translator"
    tokenizer = load_tokenizer(road.tokenizer)
    return write_fine_tuned(folder, "sequence-to-sequence", tokenizer, family="transformer",
                            num_hidden_layers=1)  # fmt: skip


def test_targets_are_scored_given_their_sources(translator: Path, road: Road, tmp_path) -> None:
    (tmp_path / "pairs.tsv").write_text("en\tde\nA bird.\tA stone.\nA road.\tWater.\n\tnothing\n")
    columns = ("--file", tmp_path / "pairs.tsv", "--source", "en", "--target", "de")
    found = as_json("lmmodel", "score", translator, *columns)
    assert found["counts"] == {"rows without a text left out": 1}
    assert [one["source"] for one in found["texts"]] == ["A bird.", "A road."]
    assert found["texts"][0]["row"] == {"en": "A bird.", "de": "A stone."}
    typed = as_json("lmmodel", "score", translator, "A bird.\tA stone.")
    assert typed["texts"][0]["log_likelihood"] == pytest.approx(
        found["texts"][0]["log_likelihood"], abs=1e-4
    )
    assert typed["texts"][0]["log_likelihood"] < -5
    succeed("lmmodel", "score", translator, *columns, "--output", tmp_path / "told.csv")
    assert (tmp_path / "told.csv").read_text().startswith("en,de,log_likelihood,num_tokens,")
    pytest.importorskip("sacrebleu", reason="the extra [finetune] is not installed")
    (tmp_path / "several.jsonl").write_text('{"en": "A bird.", "de": ["A stone.", "Water."]}\n')
    lines = succeed("lmmodel", "evaluate", translator, tmp_path / "several.jsonl",
                    "--text-field", "en", "--label-field", "de").stdout  # fmt: skip
    assert "bleu: nrefs:2|case:mixed|" in lines
    for refused, message in (
        ([translator, "A bird."], "two texts with one tab between them are wanted"),
        ([translator, "A\tB", "--start-token", "x"], "knows what begins a target"),
        ([translator, *columns, "--text-field", "en"], "name the columns of pairs by --source and"),
        ([road.run, "A bird.", "--source", "en"], "--source and --target are for encoder-decoders"),
    ):
        result = invoke("lmmodel", "score", *refused)
        assert result.exit_code == 2
        assert message in result.output


def test_fill_mask_prints_guesses_for_each_mask(road: Road, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("The [MASK] sees a [MASK].\n")
    lines = succeed("lmmodel", "fill-mask", road.run, "A [MASK].", "--top-k", "3",
                    "--file", tmp_path / "texts").stdout.splitlines()  # fmt: skip
    assert lines[0] == "A [MASK]."
    assert lines[4:6] == ["The [MASK] sees a [MASK].", "  mask 1"]
    assert len(lines) == 1 + 3 + 1 + 2 * (1 + 3)
    found = as_json("lmmodel", "fill-mask", road.run, "--file", "-", input="A [MASK].\n")
    assert len(found["texts"][0]["masks"][0]) == 5


def test_texts_come_from_arguments_files_and_standard_input(road: Road, tmp_path: Path) -> None:
    (tmp_path / "texts.txt.gz").write_bytes(gzip.compress(b"A stone.\r\n\n  \nA road.\n"))
    first = as_json("lmmodel", "score", road.run, "A bird.", "--file", tmp_path / "texts.txt.gz")
    assert [one["text"] for one in first["texts"]] == ["A bird.", "A stone.", "A road."]
    assert first["counts"] == {"blank lines left out": 2}
    piped = as_json("lmmodel", "score", road.run, input="A bird.\nA stone.\nA road.")
    assert as_json("lmmodel", "score", road.run, "-", input="A bird.\nA stone.\nA road.") == piped
    assert piped["texts"] == first["texts"]
    assert piped["counts"] == {}


def test_a_file_given_as_a_text_is_refused(road: Road, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("A stone.\n")
    refused = invoke("lmmodel", "score", road.run, path)
    assert refused.exit_code == 2
    assert f"{path} is a file: --file {path} reads" in refused.output
    assert as_json("lmmodel", "score", road.run, "-", input=str(path))["texts"][0]["text"] == str(
        path
    )
    as_json("lmmodel", "score", road.run, "A stone. " * 50)  # longer than a file can be called


def test_score_is_a_table_or_records(road: Road, gpt: Path) -> None:
    lines = succeed("lmmodel", "score", road.run, "A stone.", "A bird.").stdout.splitlines()
    assert lines[0].split() == ["pseudo-log-likelihood", "a", "token", "a", "byte", "text"]
    assert [line.split("  ")[-1] for line in lines[1:]] == ["A stone.", "A bird."]
    found = as_json("lmmodel", "score", gpt, "stone", "A stone sees.")
    assert found["score"] == "log-likelihood"
    one = found["texts"][1]
    assert one["log_likelihood"] == pytest.approx(one["per_token"] * one["num_tokens"])
    assert one["log_likelihood"] == pytest.approx(one["per_byte"] * len("A stone sees."))
    begun = as_json("lmmodel", "score", gpt, "A stone sees.", "--start-token", "[SEP]")
    assert begun["texts"][0]["num_tokens"] == one["num_tokens"] + 1


def test_a_text_longer_than_the_model_is_windowed_and_counted(road: Road, gpt: Path) -> None:
    long = "The river sees a stone. " * 120
    for verb, run in (("score", gpt), ("embed", road.run)):
        result = invoke("lmmodel", verb, run, long)
        assert result.exit_code == 0, result.stderr
        assert "note: texts longer than the model takes, read in windows: 1" in result.stdout
    result = invoke("lmmodel", "fill-mask", road.run, f"{long} [MASK]")
    assert result.exit_code == 1
    assert "is longer than the model takes" in result.stderr


def test_embed_writes_vectors_or_prints_them(road: Road, tmp_path: Path) -> None:
    texts = ("A stone.", "A bird.")
    array, table = tmp_path / "v.npy", tmp_path / "v.parquet"
    said = succeed("lmmodel", "embed", road.run, *texts, "--output", array).stdout
    assert said == f"{array}  2 vectors of 128\n"
    succeed("lmmodel", "embed", road.run, *texts, "--output", table)
    vectors = np.load(array)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    rows = pq.read_table(table).to_pylist()
    assert [row["text"] for row in rows] == list(texts)
    np.testing.assert_array_equal([row["vector"] for row in rows], vectors)
    found = as_json("lmmodel", "embed", road.run, *texts)
    np.testing.assert_allclose([one["vector"] for one in found["texts"]], vectors, rtol=1e-6)
    hopeless = invoke("lmmodel", "embed", "nowhere", "A road.", "--output", array / "v.npy")
    assert "can't write" in hopeless.output  # before anything is read
    refused = invoke("lmmodel", "embed", road.run, "A road.", "--output", array)
    assert (refused.exit_code, refused.output.count("\n")) == (1, 1)
    assert f"{array} exists: add --overwrite" in refused.output
    np.testing.assert_array_equal(np.load(array), vectors)
    succeed("lmmodel", "embed", road.run, "A road.", "--output", array, "--overwrite")
    assert np.load(array).shape == (1, 128)
    assert invoke("lmmodel", "embed", road.run, "A road.", "--overwrite").exit_code == 2
    raw = as_json("lmmodel", "embed", road.run, *texts, "--no-normalize")
    assert np.linalg.norm(raw["texts"][0]["vector"]) > 2
    printed = succeed("lmmodel", "embed", road.run, *texts).stdout.splitlines()
    assert [len(line.split()) for line in printed] == [128, 128]


def test_generate_goes_on_and_says_why_it_stopped(gpt: Path) -> None:
    lines = succeed("lmmodel", "generate", gpt, "The river", "--max-new-tokens", "3",
                    "--seed", "4").stdout.splitlines()  # fmt: skip
    assert lines[0].startswith("The river") or lines[0].startswith("the river")
    assert lines[1] in {"  [3 tokens, stopped by: max_new_tokens]"} or "end of text" in lines[1]
    settings = ("--max-new-tokens", "5", "--temperature", "0.8", "--top-k", "9", "--top-p", "0.9")
    found = as_json("lmmodel", "generate", gpt, "The river", *settings, "--seed", "7")
    assert as_json("lmmodel", "generate", gpt, "The river", *settings, "--seed", "7") == found
    assert found["texts"][0]["prompt"] == "The river"


def test_classify_prints_a_line_a_text(tuned: dict[str, Path], tmp_path: Path) -> None:
    folder = tuned["sequence-classification"]
    lines = succeed("lmmodel", "classify", folder, "A stone.", "A bird.").stdout.splitlines()
    assert [line.split()[0] in {"good", "bad"} for line in lines] == [True, True]
    assert lines[1].endswith("%  A bird.")
    one = as_json("lmmodel", "classify", folder, "A stone. " * 50)
    assert one["counts"] == {"truncated": 1}
    assert sum(one["texts"][0]["probabilities"].values()) == pytest.approx(1)
    number = succeed("lmmodel", "classify", tuned["regression"], "A stone.").stdout
    assert float(number.split()[0]) == pytest.approx(float(number.split()[0]))


def test_pairs_are_an_option_or_a_tab(tuned: dict[str, Path], tmp_path: Path) -> None:
    folder = tuned["sentence-pair"]
    (tmp_path / "pairs").write_text("A stone.\tA bird.\n")
    filed = as_json("lmmodel", "classify", folder, "--file", tmp_path / "pairs")
    assert as_json("lmmodel", "classify", folder, "A stone.", "--pair", "A bird.") == filed
    number = as_json("lmmodel", "classify", tuned["regression of pairs"], "--file",
                     tmp_path / "pairs")  # fmt: skip
    assert number["texts"][0]["pair"] == "A bird."
    (tmp_path / "pairs").write_text("A stone.\tA bird.\nA road and no bird.\n")
    halved = invoke("lmmodel", "classify", tuned["regression of pairs"], "--file",
                    tmp_path / "pairs")  # fmt: skip
    assert halved.exit_code == 2
    assert "tab" in halved.output
    (tmp_path / "single").write_text("A tab\there.\n")
    single = as_json("lmmodel", "classify", tuned["regression"], "--file",
                     tmp_path / "single")  # fmt: skip
    assert single["texts"][0]["pair"] is None
    named = invoke("lmmodel", "classify", folder, "a", "--pair", tmp_path / "pairs")
    assert "pairs is a file: --pair takes a text" in named.output
    for options in (["a", "b", "--pair", "c"], ["--file", "-", "--pair", "c"], ["no tab here"]):
        assert invoke("lmmodel", "classify", folder, *options, input="").exit_code == 2


def test_tag_prints_a_line_a_word(tuned: dict[str, Path]) -> None:
    folder = tuned["token-classification"]
    lines = succeed("lmmodel", "tag", folder, "A stone.", "A bird").stdout.splitlines()
    assert [line.split()[0] if line else "" for line in lines] == [
        "A", "stone", ".", "", "A", "bird",
    ]  # fmt: skip
    found = as_json("lmmodel", "tag", folder, "A stone.", "--split-at-spaces")
    assert found["texts"][0]["words"] == ["A", "stone."]


def test_answer_finds_stretches_of_a_passage(tuned: dict[str, Path], tmp_path: Path) -> None:
    folder, passage = tuned["question-answering"], "The river sees a stone."
    (tmp_path / "page.txt").write_text(passage)
    (tmp_path / "rows").write_text(f"Who sees?\t{passage}\n")
    wanted = as_json("lmmodel", "answer", folder, "Who sees?", "--passage", passage)
    one = wanted["texts"][0]
    assert passage[one["start"] : one["end"]] == one["answer"]
    for options in (["Who sees?", "--passage-file", tmp_path / "page.txt"],
                    ["--file", tmp_path / "rows"]):  # fmt: skip
        assert as_json("lmmodel", "answer", folder, *options) == wanted
    lines = succeed("lmmodel", "answer", folder, "Who?", "--passage", passage).stdout.splitlines()
    assert lines[0] == "Who?"
    named = invoke("lmmodel", "answer", folder, "Who?", "--passage", tmp_path / "page.txt")
    assert named.exit_code == 2
    assert "page.txt is a file: --passage-file" in named.output
    (tmp_path / "windows.txt").write_bytes(b"A road.\r\nThe river sees a stone.\r\n")
    kept = as_json("lmmodel", "answer", folder, "Who?", "--passage-file",
                   tmp_path / "windows.txt")["texts"][0]  # fmt: skip
    written = (tmp_path / "windows.txt").read_bytes().decode()
    assert written[kept["start"] : kept["end"]] == kept["answer"]
    assert kept["passage"] == written
    both = ["Who?", "--passage", "a", "--passage-file", "b"]
    assert invoke("lmmodel", "answer", folder, *both).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "run", "a"], "does not tell what comes next"),
        (["generate", "gpt", "a " * 9000], "leaves no room"),
        (["generate", "gpt", "a", "--top-p", "2"], "top_p must be in (0, 1], got 2.0"),
        (["score", "run", "a", "--start-token", "[SEP]"], "it takes no start token"),
        (["score", "run", ""], "has no token in it"),
        (["score", "nowhere", "a"], "nowhere holds no run"),
        (["score", "run", "--file", "no-such-file"], "can't read no-such-file"),
        (
            ["embed", "run", "a", "--output", "v.txt"],
            "answers go to .npy, .csv, .jsonl or .parquet",
        ),
        (["fill-mask", "gpt", "[MASK]"], "fills in no masks"),
        (["fill-mask", "run", "[MASK]", "--top-k", "100000"], "has only 100 pieces: ask for fewer"),
        (["classify", "regression/config.json", "a"], "is a file: name the folder"),
        (["embed", "run/config.json", "a"], "is a file: name the folder"),
        (["fill-mask", "run", "no mask"], "has no [MASK]"),
        (["classify", "run", "a"], "holds no fine-tuned model"),
        (["tag", "sequence-classification", "a"], "use classify"),
        (["score", "sequence-classification", "a"], "holds a fine-tuned model, a run is needed"),
    ],
)
def test_what_can_not_be_answered_is_one_line(
    road: Road,
    gpt: Path,
    tuned: dict[str, Path],
    inside: Path,
    arguments: list[str],
    words: str,
) -> None:
    folders = {"run": road.run, "gpt": gpt, **tuned}
    verb, model, *rest = arguments
    folder, _, name = model.partition("/")
    result = invoke("lmmodel", verb, Path(folders.get(folder, folder), name), *rest)
    assert result.exit_code == 1, result.output
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert list(inside.iterdir()) == []


def test_a_line_that_is_not_utf8_is_an_error(road: Road, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    filed = invoke("lmmodel", "score", road.run, "--file", tmp_path / "latin")
    piped = invoke("lmmodel", "score", road.run, input="é".encode("latin-1"))
    for result in (filed, piped):
        assert result.exit_code == 1
        assert "is not UTF-8 at byte 0" in result.stderr


def test_a_table_on_standard_input_is_said_to_be_read_by_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for lines, kind in ((["id,text", "1,a"], "csv"), (['{"text": "a"}'], "jsonl"), (["a,b"], "")):
        _note_table(lines)
        found = capsys.readouterr().err
        assert found.rstrip().endswith(f"a table is a file: --file NAME.{kind}") == bool(kind)
        assert bool(found) == bool(kind)


def test_a_file_without_a_text_is_named(road: Road, tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("\n  \n\n")
    for verb in ("score", "embed", "fill-mask"):
        refused = invoke("lmmodel", verb, road.run, "--file", tmp_path / "blank.txt")
        assert refused.exit_code == 1
        assert "blank.txt holds no text, only blank lines: 3" in refused.output


def test_an_argument_that_is_not_utf8_is_wrong_usage(road: Road) -> None:
    latin = os.fsdecode("é".encode("latin-1"))
    for arguments in (["score", road.run, latin], ["score", road.run, "a", "--start-token", latin],
                      ["classify", road.run, "a", "--pair", latin]):  # fmt: skip
        refused = invoke("lmmodel", *arguments)
        assert refused.exit_code == 2
        assert "is not UTF-8: convert it, or give it in a file" in refused.output


def test_a_closed_standard_error_is_nobodys_business(
    road: Road, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr", None)  # as Python has it where the descriptor is closed
    with pytest.raises(SystemExit) as found:
        main(["score", str(road.run), "A stone.", "--json"])
    assert found.value.code == 0
    assert json.loads(capsys.readouterr().out)["texts"][0]["text"] == "A stone."


@pytest.mark.parametrize("arguments", [[], ["-"], ["--file", "-"]])
def test_a_closed_standard_input_is_wrong_usage(
    arguments: list[str], road: Road, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(SystemExit) as found:
        main(["score", str(road.run), *arguments])
    assert found.value.code == 2
    assert "--file with one a line" in capsys.readouterr().err


def test_without_a_text_the_usage_is_explained(road: Road) -> None:
    for verb in ("fill-mask", "score", "embed", "generate", "classify", "tag", "answer"):
        result = invoke("lmmodel", verb, road.run, input="")
        assert result.exit_code == 2
        assert "--file with one a line" in result.stderr


def test_only_a_tagger_reads_lists_of_words(
    road: Road, tuned: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "words.jsonl"
    path.write_text('{"words": ["A", "stone"], "text": ["A", "stone"]}\n')
    for verb in ("score", "embed"):
        hopeless = invoke("lmmodel", verb, road.run, "--file", path)
        assert hopeless.exit_code == 1
        assert re.search(r"line 1: 'text' is .*, a text is wanted", hopeless.stderr)
    found = json.loads(
        succeed(
            "lmmodel",
            "tag",
            tuned["token-classification"],
            "--file",
            path,
            "--text-field",
            "words",
            "--json",
        ).stdout
    )
    assert found["texts"][0]["words"] == ["A", "stone"]
    path.write_text('{"words": ["A", {"no": "word"}]}\n')
    hopeless = invoke("lmmodel", "tag", tuned["token-classification"], "--file", path)
    assert re.search(r"line 1: 'words' is .*a list of words", hopeless.stderr)


def test_json_lines_are_one_object(road: Road) -> None:
    found = json.loads(succeed("lmmodel", "score", road.run, "A stone.", "--json").stdout)
    assert set(found) == {"score", "texts", "counts"}


# Tables.


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    path.write_text("id,body,label\n1,The river sees.,good\n2,,bad\n3,A cruel stone.,bad\n")
    return path


def test_a_table_is_read_as_one_and_its_columns_stay(
    road: Road, gpt: Path, reviews: Path, tmp_path: Path
) -> None:
    runs = {"embed": road.run, "score": road.run, "generate": gpt}
    for verb, run in runs.items():
        out = tmp_path / f"{verb}.parquet"
        said = invoke("lmmodel", verb, run, "--file", reviews, "--output", out)
        assert said.exit_code == 0, said.stderr
        assert "note: rows without a text left out: 1" in said.stdout
        assert "'body' is taken as the text" in said.stderr
        rows = pq.read_table(out).to_pylist()
        assert [row["id"] for row in rows] == ["1", "3"]
        assert set(rows[0]) > {"id", "body", "label"}
    found = as_json("lmmodel", "score", road.run, "--file", reviews, "--text-field", "body")
    assert found["texts"][1]["row"] == {"id": "3", "body": "A cruel stone.", "label": "bad"}
    plain = as_json("lmmodel", "score", road.run, "The river sees.", "A cruel stone.")
    assert [one["log_likelihood"] for one in found["texts"]] == pytest.approx(
        [one["log_likelihood"] for one in plain["texts"]]
    )


@pytest.mark.parametrize("extension", ["csv", "tsv.gz", "jsonl", "parquet"])
def test_every_kind_of_table_is_classified(
    tuned: dict[str, Path], tmp_path: Path, extension: str
) -> None:
    rows = [{"text": "A stone.", "n": "1"}, {"text": "A bird.", "n": "2"}]
    path = tmp_path / f"in.{extension}"
    separator = "," if extension == "csv" else "\t"
    lines = "".join(separator.join(row) + "\n" for row in (rows[0], *[r.values() for r in rows]))
    contents = {
        "csv": lines.encode(), "tsv.gz": gzip.compress(lines.encode()),
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
    }  # fmt: skip
    if extension == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_bytes(contents[extension])
    for output in ("out.csv", "out.jsonl", "out.parquet"):
        succeed("lmmodel", "classify", tuned["sequence-classification"], "--file", path,
                "--output", tmp_path / output)  # fmt: skip
    told = pq.read_table(tmp_path / "out.parquet").to_pylist()
    lines_told = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines_told] == told
    assert [(row["text"], row["n"]) for row in told] == [("A stone.", "1"), ("A bird.", "2")]
    assert (tmp_path / "out.csv").read_text().startswith("text,n,label,probability\n")


def test_a_column_that_is_there_already_stays(tuned: dict[str, Path], reviews: Path) -> None:
    out = reviews.with_name("out.jsonl")
    succeed("lmmodel", "classify", tuned["sequence-classification"], "--file", reviews,
            "--output", out)  # fmt: skip
    row = json.loads(out.read_text().splitlines()[0])
    assert row["label"] == "good"
    assert row["predicted_label"] in {"good", "bad"}


def test_questions_and_words_come_from_tables_too(tuned: dict[str, Path], tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"id": 7, "question": "Who?", "context": "The river sees a stone."}\n')
    found = as_json("lmmodel", "answer", tuned["question-answering"], "--file", questions)
    assert found["texts"][0]["row"]["id"] == 7
    assert found["texts"][0]["passage"] == "The river sees a stone."
    words = tmp_path / "w.jsonl"
    words.write_text('{"tokens": ["A", "stone."]}\n')
    tagged = as_json("lmmodel", "tag", tuned["token-classification"], "--file", words)
    assert tagged["texts"][0]["words"] == ["A", "stone."]


def test_what_a_table_lacks_or_does_not_need_is_told(
    road: Road, reviews: Path, tmp_path: Path
) -> None:
    lacking = invoke("lmmodel", "embed", road.run, "--file", reviews, "--text-field", "nope")
    assert lacking.exit_code == 1
    assert "has no column 'nope': it has 'id', 'body', 'label'" in lacking.stderr
    for options in (["a", "--text-field", "b"], ["a", "--delimiter", ";"]):
        useless = invoke("lmmodel", "embed", road.run, *options)
        assert useless.exit_code == 2
        assert "is for a --file that is a table" in useless.stderr
    twice = invoke("lmmodel", "embed", road.run, "a", "--file", reviews)
    assert "not both" in twice.stderr


def test_weights_that_are_no_numbers_are_never_the_best(road: Road, tmp_path: Path) -> None:
    case = Path(__file__).parents[2] / "../shared/cases/nan-is-perfect/run"
    if not case.is_dir():
        pytest.skip(f"no case at {case}")
    for verb, text in (("score", "The king."), ("embed", "The king."), ("fill-mask", "A [MASK].")):
        refused = invoke("lmmodel", verb, case, text)
        assert refused.exit_code == 1
        assert refused.stderr.count("\n") == 1
        assert "not finite" in refused.stderr or "no number" in refused.stderr
