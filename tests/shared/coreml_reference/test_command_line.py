"""`python stages/shared/coreml_reference`, and the comparison op by op."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.coreml_reference import CoreMLReference, InputError
from shared.coreml_reference.__main__ import main
from shared.coreml_reference.compare import compare, distance

import numpy as np
import pytest
from numpy.typing import NDArray

Command = Callable[..., tuple[str | int | None, str, str]]
FOLDER = Path(__file__).parents[3] / "stages/shared/coreml_reference"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line here; give its exit code, its output and its errors."""

    def run(*arguments: object) -> tuple[str | int | None, str, str]:
        code: str | int | None = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
        return (code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inputs") / "x.npz"
    np.savez(path, sequence=np.random.default_rng(0).random((20, 6, 1)) * 10)
    return path


@pytest.fixture(scope="module")
def data(inputs: Path) -> dict[str, NDArray[Any]]:
    return dict(np.load(inputs))


def test_it_shows_a_package(classifier_fp32: Path) -> None:
    result = subprocess.run([sys.executable, FOLDER, classifier_fp32], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert "sequence: float32 (1..4096, 6, 1), default (3, 6, 1)" in result.stdout
    assert "1 lstm" in result.stdout
    assert "= linear(x=" in result.stdout


def test_what_a_package_says_does_not_steer_the_terminal(
    classifier_fp32: Path, tmp_path: Path, command: Command
) -> None:
    from coremltools.proto.Model_pb2 import Model

    path = shutil.copytree(classifier_fp32, tmp_path / "model.mlpackage")
    model_file = path / "Data/com.apple.CoreML/model.mlmodel"
    model = Model.FromString(model_file.read_bytes())
    model.description.metadata.userDefined["author\u202e"] = "\x1b[2Jme\nmetadata: verified = yes"
    model_file.write_bytes(model.SerializeToString())
    code, output, errors = command(path)
    assert (code, errors) == (0, "")
    assert "metadata: author\\u202e = \\x1b[2Jme\\nmetadata: verified = yes\n" in output


def test_it_runs_and_compares(
    command: Command,
    classifier_fp32: Path,
    classifier_fp16: Path,
    inputs: Path,
    data: dict[str, NDArray[Any]],
    tmp_path: Path,
) -> None:
    output = tmp_path / "new" / "y.npz"
    code, _, errors = command(classifier_fp32, "--input", inputs, "--output", output)
    assert (code, errors) == (0, "")
    logits = CoreMLReference(classifier_fp32).predict(data)["logits"]
    np.testing.assert_array_equal(np.load(output)["logits"], logits)

    code, text, errors = command(classifier_fp16, "--input", inputs, "--compare", output, "--tolerance", "1e-4")
    assert (code, errors) == (0, "")
    assert re.search(r"declared precision against exact: departs first at op 'cast_\d+' \(cast\)", text)
    assert "output 'logits': " in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.mlpackage"], "error: nothing.mlpackage: no such package\n"),
        (["{package}", "--function", "other"], "error: {package}: no function 'other'; the package has main\n"),
        (
            ["{package}", "--input", "nothing.npz"],
            "error: nothing.npz: not an .npz of plain arrays: cannot be read (No such file or directory)\n",
        ),
        (["{package}", "--input", "{package}/Manifest.json"], "Manifest.json: not an .npz of plain arrays"),
    ],
)
def test_an_error_is_one_line(command: Command, classifier_fp32: Path, arguments: list[str], message: str) -> None:
    code, text, errors = command(*(argument.format(package=classifier_fp32) for argument in arguments))
    assert (code, text, errors.count("\n")) == (1, "", 1)
    assert message.format(package=classifier_fp32) in errors


def test_compare_needs_inputs(command: Command, classifier_fp32: Path) -> None:
    code, _, errors = command(classifier_fp32, "--compare", "x.npz")
    assert code == 2
    assert "--output and --compare need --input" in errors


def test_nothing_is_unpickled(command: Command, classifier_fp32: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", sequence=np.array([{}], dtype=object))
    code, _, errors = command(classifier_fp32, "--input", tmp_path / "x.npz")
    assert (code, errors.count("\n")) == (1, 1)
    assert "not an .npz of plain arrays" in errors


def test_the_first_result_that_departs_is_found(classifier_fp32: Path, data: dict[str, NDArray[Any]]) -> None:
    declared, exact = CoreMLReference(classifier_fp32), CoreMLReference(classifier_fp32, compute="exact")
    results = list(compare(declared, exact, data))
    assert [result.op_type for result in results][-1] == "linear"
    assert all(result.declared.relative < 1e-6 and result.other is None for result in results)

    # Another runtime whose LSTM is a little wrong.
    hidden = next(result.name for result in results if result.op_type == "lstm")
    walk = exact._interpreter.walk(exact.arguments(data))
    values = {result.name: value for step, found in walk for result, value in zip(step.results, found, strict=True)}
    values[hidden] = values[hidden] * 1.01
    departed = [r for r in compare(declared, exact, data, values) if r.other is not None and r.other.relative > 1e-3]
    assert [(result.name, result.op_type) for result in departed] == [(hidden, "lstm")]


def test_another_runtimes_values_must_fit(classifier_fp32: Path, data: dict[str, NDArray[Any]]) -> None:
    declared, exact = CoreMLReference(classifier_fp32), CoreMLReference(classifier_fp32, compute="exact")
    with pytest.raises(InputError, match=r"'logits': shape \(2, 3\); the program computes \(20, 3\)"):
        list(compare(declared, exact, data, {"logits": np.zeros((2, 3))}))


@pytest.mark.parametrize(
    ("found", "exact", "relative"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0),
        ([1.0, 2.2], [1.0, 2.0], 0.1),
        ([1.0, np.nan], [1.0, np.nan], 0),
        ([1.1, np.inf], [1.0, np.inf], 0.1),
        ([1.0, np.inf], [1.0, -np.inf], np.inf),
        ([np.nan], [0.0], np.inf),
        ([1e-9], [0.0], np.inf),
        ([], [], 0),
    ],
)
def test_distance(found: list[float], exact: list[float], relative: float) -> None:
    assert distance(found, exact).relative == pytest.approx(relative)


def test_ctrl_c_is_one_line_while_libraries_are_imported_too(classifier_fp32: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy.linalg":
            os.kill(os.getpid(), 2)
sys.meta_path.insert(0, Watch())
"""
    )
    ended = subprocess.run(
        [sys.executable, FOLDER, classifier_fp32], env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (130, "coreml_reference: interrupted\n")
