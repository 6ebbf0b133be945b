"""A note in place of a file that was left out is told from a model, and from a damaged one."""

from pathlib import Path

from shared.files.artifacts import BY_CHOICE, NOTE, find_artifacts, is_left_out, why_left_out, write_left_out

import pytest


@pytest.mark.parametrize("name", ["classifier-fp32.onnx", "classifier-fp32.mlpackage"])
def test_a_format_that_is_left_out_has_no_artifacts(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_left_out(path)
    write_left_out(path)
    assert is_left_out(path)
    assert why_left_out(path) == BY_CHOICE
    write_left_out(path, "another reason")
    assert why_left_out(path) == "another reason"
    assert find_artifacts(tmp_path) == {}


WORDS = NOTE.format(BY_CHOICE).encode()


@pytest.mark.parametrize("content", [b"", WORDS[:-1], WORDS + b"\x08", b"\xff" * len(WORDS)])
def test_a_damaged_file_is_not_taken_for_a_note(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "classifier-fp32.onnx"
    path.write_bytes(content)
    assert list(find_artifacts(tmp_path)) == ["fp32"]


def test_an_empty_package_is_not_taken_for_a_note(tmp_path: Path) -> None:
    (tmp_path / "classifier-fp32.mlpackage").mkdir()
    assert list(find_artifacts(tmp_path)) == ["fp32"]
