"""A section of params.yaml becomes an object, or one line that says what is wrong with it."""

from pathlib import Path

from shared.params import Count, Size, StageParams, read_params
from shared.stage import StageError

import pytest
from pydantic import Field, ValidationError


class Params(StageParams):
    rows: Count
    share: Size
    rate: float = Field(gt=0, le=1)
    note: str | None


GOOD = "section: {rows: 3, share: 0.5, rate: 1e-3, note: null}"


def read(folder: Path, text: str, patch: pytest.MonkeyPatch) -> Params:
    (folder / "params.yaml").write_text(text)
    patch.chdir(folder)
    return read_params("section", Params)


def test_a_section_is_read_as_dvc_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = read(tmp_path, GOOD, monkeypatch)
    assert params == Params(rows=3, share=0.5, rate=0.001, note=None)


def test_what_was_read_does_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = read(tmp_path, GOOD, monkeypatch)
    with pytest.raises(ValidationError):
        setattr(params, "rows", 4)  # noqa: B010 - the attribute is frozen for the type checker too


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rows: 3", "row: 3", "unknown key section.row (did you mean 'rows'?); allowed: rows, share, rate, note"),
        ("rows: 3", "row: 3", "key section.rows is missing"),
        ("rows: 3", "rows: '3'", "section.rows = '3': input should be a valid integer"),
        ("rows: 3", "rows: 3.0", "section.rows = 3.0: input should be a valid integer"),
        ("rows: 3", "rows: yes", "section.rows = 'yes': input should be a valid integer"),
        ("rows: 3", "rows: 0", "section.rows = 0: input should be greater than 0"),
        ("share: 0.5", "share: 1.0", "section.share = 1.0: should be a number of rows (an int above 0) or a share"),
        ("share: 0.5", "share: 0", "section.share = 0: should be a number of rows (an int above 0) or a share"),
        ("share: 0.5", "share: true", "section.share = True: should be a number of rows (an int above 0) or a share"),
        ("rate: 1e-3", "rate: 2", "section.rate = 2: input should be less than or equal to 1"),
        ("rate: 1e-3", "rate: .nan", "section.rate = nan: input should be"),
        ("rate: 1e-3", "rate: .inf", "section.rate = inf: input should be"),
        ("rate: 1e-3", "rate: fast", "section.rate = 'fast': input should be a valid number"),
        ("note: null", "note: 1", "section.note = 1: input should be a valid string"),
        ("section:", "sections:", "section 'section' is missing (did you mean 'sections'?); found ['sections']"),
        (GOOD, "section: 3", "section 'section' is missing"),
        (GOOD, "", "section 'section' is missing; found None"),
        (GOOD, "section: [", "not valid YAML: "),
        (GOOD, f"{GOOD}\n{GOOD}", "not valid YAML: "),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
) -> None:
    with pytest.raises(StageError) as error:
        read(tmp_path, GOOD.replace(old, new), monkeypatch)
    assert str(error.value).startswith("params.yaml: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match=r"section\.rows = 0: .*; section\.rate = 5: "):
        read(tmp_path, "section: {rows: 0, share: 0.5, rate: 5, note: null}", monkeypatch)


def test_a_size_keeps_its_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row is not the share 1.0."""
    assert type(read(tmp_path, GOOD.replace("0.5", "1"), monkeypatch).share) is int
    assert type(read(tmp_path, GOOD, monkeypatch).share) is float
