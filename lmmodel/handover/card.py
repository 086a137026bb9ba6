"""The model card: YAML that the Hub reads, and a page of Markdown for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MARK = "lmmodel"
"""The tag by which a folder that was exported is told from others."""

Table = Mapping[str, Any]
"""Names and values; a value that is a sequence has a column for each item."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model card tells."""

    title: str
    class_name: str  # of transformers
    pipeline_tag: str
    tags: Sequence[str]
    summary: str
    example: Sequence[str]  # lines of Python
    tables: Mapping[str, Table]  # by section
    notes: Sequence[str] = field(default=())


def render(card: Card) -> str:
    """Return the README.

    Example:
        >>> card = Card(title="x", class_name="BertForMaskedLM", pipeline_tag="fill-mask",
        ...             tags=["bert"], summary="A model.", example=["1 + 1"],
        ...             tables={"Figures": {"loss": 2.5}})
        >>> render(card).splitlines()[1:6]
        ['library_name: transformers', 'pipeline_tag: fill-mask', 'tags:', '- bert', '- lmmodel']
    """
    front = ["library_name: transformers", f"pipeline_tag: {card.pipeline_tag}", "tags:"]
    lines = ["---", *front, *[f"- {tag}" for tag in (*card.tags, MARK)], "---", ""]
    lines += [f"# {card.title}", "", card.summary, "", "## How to open it", ""]
    lines += ["```python", *card.example, "```"]
    for title, table in card.tables.items():
        if table:
            lines += ["", f"## {title}", "", *table_lines(table)]
    if card.notes:
        lines += ["", "## Notes", "", *[f"- {note}" for note in card.notes]]
    return "\n".join(lines) + "\n"


def is_our_card(text: str) -> bool:
    r"""Whether a README is one that `render` wrote.

    Example:
        >>> is_our_card("---\ntags:\n- bert\n- lmmodel\n---\n# bert\n")
        True
        >>> is_our_card("---\ntags:\n- bert\n---\n- lmmodel\n")
        False
    """
    front = text.partition("---\n")[2].partition("---\n")[0]
    return f"- {MARK}" in front.splitlines()


def table_lines(table: Table) -> list[str]:
    r"""Return a Markdown table; its head is the row named "". Values that are None are left out.

    Example:
        >>> table_lines({"loss": 0.123456, "labels": ("a|b", 7), "rate": None})
        ['| | | |', '| --- | --- | --- |', '| loss | 0.1235 | |', '| labels | a\\|b | 7 |']
    """
    rows = [
        [name, *([value] if isinstance(value, str) or not isinstance(value, Sequence) else value)]
        for name, value in table.items()
        if value is not None
    ]
    width = max(map(len, rows))
    cells = [[cell(value) for value in row] + [""] * (width - len(row)) for row in rows]
    head = cells.pop(0) if cells[0][0] == "" else [""] * width
    lines = [head, ["---"] * width, *cells]
    return ["|" + "|".join(f" {text} " if text else " " for text in line) + "|" for line in lines]


def cell(value: Any) -> str:
    """Return a value as text that does not end a cell of a table.

    Example:
        >>> cell(12345), cell(0.00001), cell(0.5), cell(True)
        ('12,345', '1e-05', '0.5', 'yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def pipeline_example(tag: str, folder: str, text: str) -> list[str]:
    """Return three lines that open a folder with a pipeline of transformers."""
    name = {"fill-mask": "fill", "text-generation": "generate", "text-classification": "classify",
            "token-classification": "tag", "feature-extraction": "embed"}[tag]  # fmt: skip
    return [
        "from transformers import pipeline",
        "",
        f'{name} = pipeline("{tag}", model={json.dumps(folder)})',
        f"{name}({json.dumps(text, ensure_ascii=False)})",
    ]


def writing_example(folder: str) -> list[str]:
    """Return lines that write about a text."""
    return [
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(folder)})",
        f"model = AutoModelForSeq2SeqLM.from_pretrained({json.dumps(folder)})",
        'inputs = tokenizer("A text to try it on.", return_tensors="pt")',
        "output = model.generate(**inputs, num_beams=4)",
        "tokenizer.decode(output[0], skip_special_tokens=True)",
    ]


def answering_example(folder: str) -> list[str]:
    """Return lines that answer a question: transformers 5 has no pipeline for that."""
    return [
        "from transformers import AutoModelForQuestionAnswering, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(folder)})",
        f"model = AutoModelForQuestionAnswering.from_pretrained({json.dumps(folder)})",
        'inputs = tokenizer("Who came?", "Ada came home.", return_tensors="pt")',
        "output = model(**inputs)",
        "start, end = output.start_logits.argmax(), output.end_logits.argmax()",
        'tokenizer.decode(inputs["input_ids"][0][start : end + 1])',
    ]
