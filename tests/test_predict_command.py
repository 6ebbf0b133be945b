"""One-line predictions, from any file that the pipeline writes."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import export_coreml
import export_onnx
from commands import predict
from shared.files.artifacts import find_artifacts
from shared.kit.stage import run
from shared.network.model import Checkpoint, save_checkpoint
from tests.support import (
    EXPORT_NAMES,
    EXPORT_PARAMS,
    ROOT,
    SMALL,
    call_stages,
    classifier,
    clean_environment,
    commands,
    set_params,
    write_params,
)

import numpy as np
import onnx
import pytest
import torch
from coremltools.proto.Model_pb2 import Model

TUTORIAL = ["5", "1", "2", "3", "2", "1"]
ONNX = ["fp16", "int8", "int8_weights"]
COREML = ["int8", "int4", "palette6", "palette4", "sparse50", "sparse50_palette4"]
FILES = [
    "pytorch/classifier.pt",
    *(f"onnx/classifier-{variant}.onnx" for variant in ("fp32", *ONNX)),
    *(f"coreml/classifier-{variant}.mlpackage" for variant in ("fp32", "fp16", *COREML)),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models of the tutorial's task that have learned something, in many variants."""
    folder = tmp_path_factory.mktemp("trained")
    write_params(folder)
    training = {"train.epochs": 60, "train.batch_size": 20, "train.learning_rate": 0.005}
    set_params(folder, SMALL | training | {"compress_onnx.variants": ONNX, "compress_coreml.variants": COREML})
    call_stages(folder, [name for name in commands(folder) if name.partition("@")[0] not in AFTER_THE_MODELS])
    return folder / "models"


AFTER_THE_MODELS = {"predict", "evaluate", "verify", "benchmark", "report", "release", "accept"}


def ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object, stdin: str | None = None
) -> str:
    """Call the command in this process; what it printed."""
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, args)])
    if stdin is not None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    run(predict.main)
    return capsys.readouterr().out


@pytest.mark.parametrize("file", FILES)
def test_the_tutorial_s_sequence_is_of_class_0_in_every_file(
    models: Path, file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = json.loads(ask(monkeypatch, capsys, *TUTORIAL, "--json", "--model", models / file))
    assert answer["class"] == "0"
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert max(answer["probabilities"], key=answer["probabilities"].get) == "0"


def test_every_file_that_is_written_is_asked(models: Path) -> None:
    written = {str(path.relative_to(models)) for folder in models.iterdir() for path in find_artifacts(folder).values()}
    assert written == set(FILES)


def test_as_a_user_types_it(models: Path) -> None:
    """With the default model, from another folder, as a table for people."""
    project = models.parent
    (project / "commands").mkdir(exist_ok=True)
    (project / "commands" / "predict.py").write_bytes((ROOT / "commands" / "predict.py").read_bytes())
    (project / "stages").symlink_to(ROOT / "stages")
    command = [sys.executable, "../commands/predict.py", *TUTORIAL]
    printed = subprocess.run(
        command, cwd=models, env=clean_environment(), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert printed[0].split() == ["class", "0", "1", "2"]
    assert printed[1].split()[0] == "0"


@pytest.mark.parametrize(
    "table",
    [
        "5,1,2,3,2,1\n9,9,9,9,9,9\n",
        "x0,x1,x2,x3,x4,x5\n5,1,2,3,2,1\n9,9,9,9,9,9\n",
        "label,x5,x4,x3,x2,x1,x0\n0,1,2,3,2,1,5\n2,9,9,9,9,9,9\n",
    ],
    ids=["bare", "named", "in another order, with a label"],
)
def test_a_table_gives_an_answer_a_row(
    models: Path, tmp_path: Path, table: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.csv").write_text(table)
    model = models / "onnx" / "classifier-fp32.onnx"
    printed = ask(monkeypatch, capsys, "--csv", tmp_path / "table.csv", "--json", "--model", model)
    assert ask(monkeypatch, capsys, "--json", "--model", model, stdin=table) == printed
    answers = [json.loads(line) for line in printed.splitlines()]
    assert [answer["class"] for answer in answers] == ["0", "2"]
    alone = json.loads(ask(monkeypatch, capsys, *TUTORIAL, "--json", "--model", model))
    assert answers[0]["logits"] == pytest.approx(alone["logits"], rel=1e-5)


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net of two features and up to five steps, as a checkpoint, in ONNX and in Core ML."""
    folder = tmp_path_factory.mktemp("ragged")
    checkpoint = Checkpoint(classifier("gru", ragged=True), {})
    save_checkpoint(folder / "model.pt", checkpoint)
    (folder / "model.onnx").write_bytes(export_onnx.export_onnx(checkpoint, EXPORT_NAMES, 20).lean)
    package = export_coreml.export_coreml(checkpoint, EXPORT_NAMES, EXPORT_PARAMS, "fp32")
    export_coreml.save(package, folder / "model.mlpackage")
    return folder


@pytest.mark.parametrize("suffix", ["pt", "onnx", "mlpackage"])
def test_shorter_sequences_are_padded_and_carry_their_lengths(
    ragged: Path, suffix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = "1,2,3,4\n1,2,3,4,5,6,7,8,9,10\n1,2,3,4,,,,,,\n"
    printed = ask(monkeypatch, capsys, "--json", "--model", ragged / f"model.{suffix}", stdin=table)
    first, longest, with_empty_cells = (json.loads(line)["logits"] for line in printed.splitlines())
    assert first == with_empty_cells
    with torch.inference_mode():
        for logits, steps in ((first, 2), (longest, 5)):
            sequence = torch.zeros(1, 5, 2)
            sequence[0, :steps] = torch.arange(1.0, 2 * steps + 1).reshape(steps, 2)
            expected = classifier("gru", ragged=True)(sequence, torch.tensor([steps], dtype=torch.int32))
            np.testing.assert_allclose(list(logits.values()), expected[0].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("args", "stdin", "message"),
    [
        (["1", "2", "3"], None, "the sequence: 3 time steps; the model takes 6"),
        (["1", "2", "x", "4", "5", "6"], None, "the sequence: value 3 is 'x'; expected a number within float32's"),
        (["1", "2", "nan", "4", "5", "6"], None, "the sequence: value 3 is 'nan'; expected a number within float32's"),
        (["1", "2", "1e39", "4", "5", "6"], None, "the sequence: value 3 is '1e39'; expected a number within float32"),
        ([], "1,2,3,4,5,6\n1,2,3,4,5,6,7\n", "standard input, line 2: 7 time steps; the model takes 6"),
        ([], "x0,x1,x2\n1,2,3\n", "standard input, line 2: 3 time steps; the model takes 6"),
        ([], "a,b\n1,2\n", "standard input: no column is named <feature>.<step>, as in x.0"),
        ([], "x0,x1,x2,x3,x4,x5\n1,2\n", "standard input, line 2: 2 cells; the first row names 6"),
        (["--csv", "absent.csv"], None, "absent.csv: No such file or directory"),
    ],
)
def test_what_does_not_fit_costs_one_line(
    models: Path,
    args: list[str],
    stdin: str | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = models / "onnx" / "classifier-fp32.onnx"
    with pytest.raises(SystemExit) as stopped:
        ask(monkeypatch, capsys, *args, "--model", model, stdin=stdin)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(f"predict: error: {message}")
    assert error.count("\n") == 1


def test_a_model_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        ask(monkeypatch, capsys, *TUTORIAL, "--model", tmp_path / "absent.onnx")
    assert "absent.onnx: no such file; `dvc repro` or `dvc pull` brings it" in capsys.readouterr().err


@pytest.mark.parametrize("file_format", ["onnx", "coreml"])
@pytest.mark.parametrize(
    ("key", "names"),
    [("classes", []), ("classes", ["a", "a", "b"]), ("classes", ["a"] * 10), ("classes", list("abcdefgh")),
     ("features", []), ("features", ["p", "q"])],
)  # fmt: skip
def test_a_file_that_names_others_than_it_has_costs_one_line(
    models: Path, tmp_path: Path, file_format: str, key: str, names: list[str],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if file_format == "onnx":
        file = tmp_path / "classifier.onnx"
        model = onnx.load(models / "onnx" / "classifier-fp32.onnx")
        next(entry for entry in model.metadata_props if entry.key == key).value = json.dumps(names)
        onnx.save(model, file)
    else:
        file = tmp_path / "classifier.mlpackage"
        shutil.copytree(models / "coreml" / "classifier-fp32.mlpackage", file)
        saved = next(file.rglob("*.mlmodel"))
        content = saved.read_bytes()
        specification = Model()
        specification.ParseFromString(content)
        specification.description.metadata.userDefined[key] = json.dumps(names)
        saved.unlink()
        saved.write_bytes(specification.SerializeToString())
    with pytest.raises(SystemExit) as stopped:
        ask(monkeypatch, capsys, *TUTORIAL, "--model", file)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert re.fullmatch(rf"predict: error: .*metadata name {len(names)} {key}.*\n", error)
