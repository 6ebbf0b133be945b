"""Text from outside (names in a table, a model or a path) as it may be shown: it steers nothing that shows it."""

import json
import re
import unicodedata
from typing import Any

STEERING = {
    "Cc",  # control characters: a terminal's escapes, tabs, line breaks
    "Cf",  # marks that turn the direction of reading or are invisible
    "Cs",  # halves of surrogate pairs, which no encoding can write
    "Zl",  # line separators
    "Zp",
}
"""Categories of characters that act instead of being seen."""

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
FORMULA = re.compile(r"(^|;)(?=\s*[=+\-@＝＋－＠])")  # noqa: RUF001 - Excel takes the wide ones too


def printable(text: str) -> str:
    r"""Escape the characters that act instead of being seen, as Python writes them: `\x1b`, `\n`, `\u202e`."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in STEERING else character
        for character in text
    )


def printable_json(data: Any) -> str:
    r"""JSON on one line, equal in content, that steers nothing: what acts is written `\u202e`, as JSON escapes it."""
    return "".join(
        json.dumps(character)[1:-1] if unicodedata.category(character) in STEERING else character
        for character in json.dumps(data, ensure_ascii=False)
    )


def as_cell(text: str) -> str:
    """A printable text for a CSV file: one that a spreadsheet would compute gets an apostrophe in front.

    Semicolons count as the beginning of a cell, because some countries' spreadsheets split there.
    """
    text = printable(text)
    return text if NUMBER.fullmatch(text) else FORMULA.sub(r"\1'", text)
