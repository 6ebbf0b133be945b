"""Text from outside, as a terminal, a page and a spreadsheet get it."""

import json

from shared.kit.text import as_cell, printable, printable_json

import pytest


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("walk", "walk"),
        ("", ""),
        ("Größe 歩く 🚶 a\u3000b", "Größe 歩く 🚶 a\u3000b"),
        ("a\\b", "a\\b"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("a\r\n\tb\x7f\0", r"a\r\n\tb\x7f\x00"),
        ("a\u202egpj.exe", r"a\u202egpj.exe"),
        ("\u2066a\u2069\u200f\u061c", r"\u2066a\u2069\u200f\u061c"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("\u200b\ufeff\xad", r"\u200b\ufeff\xad"),
        ("name\udcff", r"name\udcff"),
        ("tag\U000e0041", r"tag\U000e0041"),
    ],
)
def test_what_acts_instead_of_being_seen_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("walk", "walk"),
        ("a=b", "a=b"),
        ("=cmd|'/C calc'!A0", "'=cmd|'/C calc'!A0"),
        ("@SUM(1)", "'@SUM(1)"),
        ("+walk", "'+walk"),
        ("-", "'-"),
        (" =1+1", "' =1+1"),
        ("\t=1+1", "\\t=1+1"),
        ("walk;=1+1", "walk;'=1+1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("-1", "-1"),
        ("+0.5e-3", "+0.5e-3"),
        ("-1+cmd", "'-1+cmd"),
    ],
)
def test_a_spreadsheet_computes_nothing(text: str, cell: str) -> None:
    assert as_cell(text) == cell


@pytest.mark.parametrize(
    "name", ["walk", "Größe 歩く 🚶", "\x1b[2J\x9b2J\x7f", "a\u202e\u2028b", "tag\U000e0041", "half\ud800"]
)
def test_json_is_equal_in_content_and_steers_nothing(name: str) -> None:
    written = printable_json({name: [name, 0.5]})
    assert json.loads(written) == {name: [name, 0.5]}
    assert printable(written) == written
    written.encode()
    assert name in written or name != printable(name)
