"""ORT files: the model that the converter wrote, in bytes that depend on it alone, and what they are held to."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import export_onnx
import shared.release.ort_format as ort_format
from shared.kit.stage import StageError
from shared.network.model import Checkpoint
from shared.release.golden import Asked, Vector, ask
from shared.release.ort_format import ask_in_ort_format, convert, in_one_order
from tests.support import EXPORT_NAMES, ROOT, classifier, clean_environment

import numpy as np
import pytest

RANDOM = np.random.default_rng(0)
VECTORS = [Vector("random", RANDOM.normal(size=(5, 2)).astype(np.float32), 1 + step) for step in range(5)]


def exported(net: str, folder: Path, *, ragged: bool = False) -> Path:
    path = folder / f"{net}.onnx"
    path.write_bytes(export_onnx.export_onnx(Checkpoint(classifier(net, ragged=ragged), {}), EXPORT_NAMES, 20).lean)
    return path


def types(content: bytes) -> list[Any]:
    """The table of types, in words."""
    import onnxruntime.tools.ort_format_model  # noqa: F401 - makes the next one importable
    from ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    resolver = InferenceSession.GetRootAs(content, 0).KernelTypeStrResolver()
    found: list[Any] = []
    for operator in map(resolver.OpKernelTypeStrArgs, range(resolver.OpKernelTypeStrArgsLength())):
        for name in map(operator.KernelTypeStrArgs, range(operator.KernelTypeStrArgsLength())):
            args = [(arg.ArgType(), arg.Index()) for arg in map(name.Args, range(name.ArgsLength()))]
            found.append((operator.OpId(), name.KernelTypeStr(), args))
    return found


def test_equal_models_are_equal_bytes_whatever_the_folder_and_the_process(tmp_path: Path) -> None:
    """Each process has another order of its hash tables: their seed is an address."""
    script = "import sys; from pathlib import Path; from shared.release.ort_format import convert; "
    script += "convert(Path(sys.argv[1]), Path(sys.argv[2]))"
    source = exported("transformer", tmp_path, ragged=True)
    folders = [tmp_path / name for name in ("one", "an other")]
    for folder in folders:
        folder.mkdir()
    convert(source, folders[0])
    command = [sys.executable, "-c", script, str(source), str(folders[1])]
    subprocess.run(command, env=clean_environment() | {"PYTHONPATH": str(ROOT / "stages")}, check=True)
    for name in ("transformer.ort", "transformer.required_operators.config"):
        one, other = ((folder / name).read_bytes() for folder in folders)
        assert one == other
        assert str(tmp_path).encode() not in one


def test_nothing_of_the_model_or_of_the_table_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_format, "in_one_order", lambda content: content)
    raw = convert(exported("gru", tmp_path, ragged=True), tmp_path).read_bytes()
    ordered = in_one_order(raw)
    assert in_one_order(ordered) == ordered
    assert len(types(raw)) > 8
    assert types(ordered) == types(raw)
    assert ordered.endswith(raw[-30_000:])
    operators = (tmp_path / "gru.required_operators.config").read_text()
    assert "# - gru.ort\n" in operators
    assert "ai.onnx;14;GRU" in operators


@pytest.mark.parametrize(("net", "ragged"), [("cnn", False), ("gru", True)])
def test_an_ort_file_is_called_as_its_source_and_gives_its_logits(net: str, ragged: bool, tmp_path: Path) -> None:
    asked = ask(exported(net, tmp_path, ragged=ragged), VECTORS)
    found = ask_in_ort_format(asked, tmp_path, VECTORS)
    assert found.path == tmp_path / f"{net}.ort"
    assert found.runtime.interface == asked.runtime.interface
    np.testing.assert_allclose(found.logits, asked.logits, rtol=0, atol=1e-6)


def test_an_ort_file_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    asked = ask(exported("mlp", tmp_path), VECTORS)
    other = Asked(asked.path, asked.runtime, asked.logits + np.float32(1e-3))
    with pytest.raises(StageError, match=r"^mlp\.ort: its logits are .* off those of mlp\.onnx; allowed: 1e-05$"):
        ask_in_ort_format(other, tmp_path, VECTORS)


def test_a_file_that_cannot_be_converted_is_one_line(tmp_path: Path) -> None:
    source = tmp_path / "odd.onnx"
    source.write_bytes(b"no graph")
    with pytest.raises(StageError, match=r"^odd\.onnx: not converted to ORT format: ") as error:
        convert(source, tmp_path)
    assert "\n" not in str(error.value)
