"""A section of params.yaml becomes an object, or one line that says what is wrong with it."""

import time
from itertools import pairwise
from pathlib import Path

from shared.kit.params import Count, Size, StageParams, read_params
from shared.kit.stage import StageError

import pytest
from pydantic import Field, ValidationError, field_validator


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
        (GOOD, "section: 3", "section = 3: expected a section of keys"),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("5", "section 'section' is missing; found 5"),
        ("[]", "section 'section' is missing; found []"),
        ("# é".encode("latin-1"), "line 1 is not UTF-8"),
        (f"a: 1\nb: ü\n{GOOD}".encode("latin-1"), "line 2 is not UTF-8"),
        (GOOD.encode("utf-16"), "line 1 is not UTF-8"),
        (f"%YAML 1.3\n---\n{GOOD}", "not valid YAML: "),
        (GOOD.replace("3", "9" * 30, 1), "section.rows = 999999999999999999999999999999: input should be less than"),
        (GOOD.replace("3", "9" * 5000, 1), "not valid YAML: Exceeds the limit (4300 digits)"),
        (GOOD.replace("3", "[" * 3000 + "]" * 3000, 1), "values are nested too deep"),
        (f"section: {'- ' * 3000}", "values are nested too deep"),
        ("section: &a {rows: *a}", "found over 100,000 values, aliases written out"),
        (
            "a: &a 1\n" + "".join(f"{new}: &{new} [{f'*{old}, ' * 10}]\n" for old, new in pairwise("abcdefgh")),
            "found over 100,000 values, aliases written out",
        ),
        (GOOD.replace("3", "2020-99-99", 1), "not valid YAML: month must be in 1..12"),
        (GOOD.replace("3", "!!python/object:os.system x", 1), "not valid YAML: could not determine a constructor"),
        (GOOD.replace("rows", "? [1, 2]", 1), "keys should be strings"),
        (GOOD.replace("rows", "y" * 5000, 1), "not valid YAML: "),
        (GOOD.replace("3", "y" * 5000, 1), "yyy': input should be a valid integer"),
        ("#" * 2_000_000, "found 2,000,000 bytes; expected at most 1,000,000"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_parameters_is_one_short_line_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | bytes, message: str
) -> None:
    (tmp_path / "params.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    with pytest.raises(StageError) as error:
        read_params("section", Params)
    assert time.monotonic() - started < 5
    assert str(error.value).startswith("params.yaml: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_file_that_may_not_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match=r"^params\.yaml: cannot be read: Is a directory$"):
        read_params("section", Params)


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match=r"section\.rows = 0: .*; section\.rate = 5: "):
        read(tmp_path, "section: {rows: 0, share: 0.5, rate: 5, note: null}", monkeypatch)


def test_a_size_keeps_its_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row is not the share 1.0."""
    assert type(read(tmp_path, GOOD.replace("0.5", "1"), monkeypatch).share) is int
    assert type(read(tmp_path, GOOD, monkeypatch).share) is float


class Item(StageParams):
    name: str
    size: int


class Listed(StageParams):
    items: list[Item]
    by_name: dict[str, Item]


@pytest.mark.parametrize(
    "text", ["items: [{name: a, sice: 1}], by_name: {}", "items: [], by_name: {a: {name: a, sice: 1}}"]
)
def test_a_key_of_a_listed_item_is_compared_with_the_item_s_keys(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text(f"section: {{{text}}}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match=r"sice \(did you mean 'size'\?\); allowed: name, size"):
        read_params("section", Listed)


def test_however_much_is_wrong_the_line_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lists(StageParams):
        sizes: list[Count]

    (tmp_path / "params.yaml").write_text(f"section: {{sizes: [{', '.join(['null'] * 3_000)}]}}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match=r"section\.sizes\.0 = None: .* and 2995 more$") as error:
        read_params("section", Lists)
    assert len(str(error.value)) < 500


def test_a_long_value_that_a_check_quotes_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Named(StageParams):
        name: str

        @field_validator("name")
        @classmethod
        def _known(cls, name: str) -> str:
            raise ValueError(f"unknown name {name}")

    (tmp_path / "params.yaml").write_text(f"section: {{name: {'x' * 100_000}}}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError) as error:
        read_params("section", Named)
    assert len(str(error.value)) < 1_000
