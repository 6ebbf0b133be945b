"""The verifiers in the languages of apps: right on what was released and on nothing else; what is missing is named."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands.on_device as on_device
import export_onnx
from commands.on_device import Check, MissingError, WrongError
from release import RELEASE, write_golden
from shared.data.sequences import Prepared, SplitArrays
from shared.network.model import Checkpoint
from shared.release.golden import ask, choose_vectors
from shared.release.signature import signature_of
from tests.support import EXPORT_NAMES, classifier, or_skip, write_prepared

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

FILE = "classifier-fp32.onnx"
Verifier = Callable[[Path], str]
"""Runs one verifier on a bundle; raises `WrongError`."""


def write_bundle(folder: Path, *, ragged: bool) -> Path:
    """What verifiers read of a bundle: two features, three classes, tensors with names of a team's own."""
    random = np.random.default_rng(0)
    lengths = (1 + np.arange(30) % 5).astype(np.int32) if ragged else None
    rows = SplitArrays(random.normal(size=(30, 5, 2)).astype(np.float32), np.arange(30) % 3, lengths)
    write_prepared(folder / "prepared", {"train": rows, "validation": rows, "test": rows}, ["x", "y"], ["a", "b", "c"])
    data = Prepared(folder / "prepared")
    bundle = folder / "release"
    bundle.mkdir()
    net = classifier("gru", ragged=ragged)
    (bundle / FILE).write_bytes(export_onnx.export_onnx(Checkpoint(net, {}), EXPORT_NAMES, 20).lean)
    vectors = choose_vectors(data, random.normal(size=(30, 3)).astype(np.float32), seed=0)
    asked = ask(bundle / FILE, vectors)
    write_golden(bundle, vectors, [asked])
    write(bundle / "labels.json", data.schema.classes)
    write(bundle / "signature.json", {FILE: signature_of(asked.runtime.interface, data.schema)})
    write(bundle / "release.json", {"models": {FILE: {"format": "onnx", "tolerance": 1e-5}}})
    shutil.copytree(RELEASE / "verifiers", bundle / "verifiers")
    return bundle


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("plain"), ragged=False)


@pytest.fixture(scope="module")
def ragged_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("ragged"), ragged=True)


@pytest.fixture(scope="module")
def kotlin(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the verifier in Kotlin, short of a jar of ONNX Runtime."""
    return or_skip(lambda: on_device.build_kotlin(bundle, tmp_path_factory.mktemp("kotlin")))


@pytest.fixture(scope="module", params=["c", "kotlin", "node"])
def verifier(request: pytest.FixtureRequest, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Verifier:
    """A verifier, built once."""
    scratch = tmp_path_factory.mktemp(request.param)
    if request.param == "node":
        node = or_skip(lambda: on_device.build_node(bundle, scratch))
        return lambda at: on_device.execute(*node, at)
    if request.param == "c":
        program = or_skip(lambda: on_device.build_c(bundle, scratch))
        return lambda at: on_device.execute(program, at)
    jar = on_device.desktop_jar()
    if jar is None:
        pytest.skip("no jar of ONNX Runtime for desktops is in CLASSPATH")
    java, option, classes = request.getfixturevalue("kotlin")
    return lambda at: on_device.execute(java, option, f"{classes}{os.pathsep}{jar}", "VerifyKt", at)


def changed(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle, to be changed."""
    return Path(shutil.copytree(bundle, folder / "changed"))


def test_each_finds_what_was_released_right(verifier: Verifier, bundle: Path) -> None:
    assert verifier(bundle).startswith(f"{FILE}  right: error ")


def test_each_passes_lengths_where_sequences_have_them(verifier: Verifier, ragged_bundle: Path, tmp_path: Path) -> None:
    assert verifier(ragged_bundle).startswith(f"{FILE}  right: error ")
    other = changed(ragged_bundle, tmp_path)
    golden = json.loads((other / "golden.json").read_text())
    short = next(vector for vector in golden["vectors"] if vector["kind"] == "short")
    short["length"] += 1
    write(other / "golden.json", golden)
    with pytest.raises(WrongError, match=f"{FILE}  WRONG: error "):
        verifier(other)


def test_each_finds_one_logit_that_is_off(verifier: Verifier, bundle: Path, tmp_path: Path) -> None:
    other = changed(bundle, tmp_path)
    golden = json.loads((other / "golden.json").read_text())
    largest = max(abs(logit) for vector in golden["vectors"] for logit in vector["logits"][FILE])
    golden["vectors"][3]["logits"][FILE][1] += 3e-5 * largest
    write(other / "golden.json", golden)
    with pytest.raises(WrongError, match=f"{FILE}  WRONG: error 3.0e-0?5, allowed "):
        verifier(other)


def test_each_finds_a_logit_that_is_no_number(verifier: Verifier, bundle: Path, tmp_path: Path) -> None:
    """Of one vector alone, the one of zeros; all after it are right."""
    other = changed(bundle, tmp_path)
    model = onnx.load(other / FILE)
    [output] = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["sums" if name == output.name else name for name in node.output]
    constants = {"zero": np.zeros(1, np.float32), "axes": np.array([1, 2]), "last": np.array([2])}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    for operation, inputs, result in (
        ("ReduceSumSquare", [model.graph.input[0].name, "axes"], "squares"),  # (batch, 1, 1)
        ("Squeeze", ["squares", "last"], "column"),
        ("Div", ["zero", "column"], "nothing"),
        ("Add", ["sums", "nothing"], output.name),
    ):
        model.graph.node.append(helper.make_node(operation, inputs, [result]))
    onnx.save(model, other / FILE)
    with pytest.raises(WrongError, match=f"(?i){FILE}  WRONG: error nan, allowed "):
        verifier(other)


def test_a_folder_that_is_no_bundle_is_one_line(verifier: Verifier, tmp_path: Path) -> None:
    with pytest.raises(WrongError, match=r"^verify: error: .*release\.json") as error:
        verifier(tmp_path)
    assert "\n" not in str(error.value)


def test_the_verifier_in_kotlin_compiles_against_onnx_runtime_for_android(kotlin: list[str]) -> None:
    built = Path(kotlin[-1].split(os.pathsep)[0])
    assert "VerifyKt.class" in zipfile.ZipFile(built).namelist()


def test_the_verifier_in_swift_is_swift_and_says_that_it_was_not_run(bundle: Path, tmp_path: Path) -> None:
    folder = bundle / "verifiers" / "swift"
    for file in folder.glob("*.swift"):
        on_device.parse_swift(file)
        assert "Not run here" in "".join(file.read_text().splitlines(keepends=True)[:2])
    broken = tmp_path / "Broken.swift"
    broken.write_text((folder / "GoldenVectorTests.swift").read_text().replace("guard", "").replace("-> [Float] {", ""))
    with pytest.raises(WrongError, match=r"^Broken\.swift, line \d+: not Swift$"):
        on_device.parse_swift(broken)


def missing(bundle: Path, scratch: Path) -> str:
    raise MissingError("cc is not installed")


def wrong(bundle: Path, scratch: Path) -> str:
    raise WrongError("classifier.onnx  WRONG: error \x1b")


@pytest.mark.parametrize(
    ("checks", "code", "summary"),
    [
        ([lambda *_: "fine", missing], 0, "2 checks: 1 right, 0 wrong, 1 not run"),
        ([lambda *_: "fine", wrong], 1, "2 checks: 1 right, 1 wrong, 0 not run"),
        ([missing], 2, "1 checks: 0 right, 0 wrong, 1 not run"),
    ],
)
def test_what_cannot_be_had_is_named_and_what_is_wrong_fails(
    checks: list[Callable[[Path, Path], str]], code: int, summary: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(on_device, "CHECKS", [Check("C", "ONNX Runtime", check) for check in checks])
    assert on_device.check_bundle(tmp_path) == code
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == summary
    assert ("    cc is not installed" in printed) == (missing in checks)
    assert "\x1b" not in printed


def test_a_machine_without_any_of_it_is_told_what_is_missing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(on_device, "PROJECT", tmp_path)
    monkeypatch.setattr(on_device, "CHECKS", [check for check in on_device.CHECKS if check.language != "Python"])
    assert on_device.check_bundle(bundle) == 2
    printed = capsys.readouterr().out
    for words in ("`make web` installs it", "cc is not installed", "java is not installed"):
        assert words in printed
