"""A package's own word for where its parts are is not trusted, whoever reads it."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from shared.files.inspection import inspect_file
from shared.files.mlpackage import model_file, read_model
from shared.files.quiet import import_coremltools
from shared.kit.stage import StageError

import pytest

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture
def package(small_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_run / "models/coreml/classifier-fp16.mlpackage", tmp_path / "model.mlpackage")


def name_model(package: Path, path: Any) -> None:
    file = package / "Manifest.json"
    manifest = json.loads(file.read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = path
    file.write_text(json.dumps(manifest))


def refusal(package: Path) -> str:
    with pytest.raises(StageError) as caught:
        inspect_file(package)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


@pytest.mark.parametrize("where", ["absolute", "climbing"])
def test_a_manifest_that_leads_out_of_the_package(package: Path, tmp_path: Path, where: str) -> None:
    elsewhere = shutil.copy(package / MODEL, tmp_path / "elsewhere.mlmodel")
    name_model(package, str(elsewhere) if where == "absolute" else "../../elsewhere.mlmodel")
    assert "which is none inside the package" in refusal(package)
    with pytest.raises(StageError, match="which is none inside the package"):
        model_file(package)


@pytest.mark.parametrize("path", ["a" * 5000, "\ud800", "\0", "", "\x1b[31m", 5, None, [], "a/" * 3000])
def test_a_manifest_that_names_no_path(package: Path, path: Any) -> None:
    name_model(package, path)
    refusal(package)


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", "[" * 200_000, '{"rootModelIdentifier": [1]}'])
def test_a_manifest_of_another_form(package: Path, content: str) -> None:
    (package / "Manifest.json").write_text(content)
    assert "Manifest.json: not a readable manifest of a package: " in refusal(package)


@pytest.mark.parametrize("name", ["Manifest.json", MODEL, WEIGHTS, "Data", "Data/com.apple.CoreML/weights"])
def test_a_link_that_leads_out_of_the_package(package: Path, tmp_path: Path, name: str) -> None:
    (package / name).rename(tmp_path / "elsewhere")
    (package / name).symlink_to(tmp_path / "elsewhere")
    assert "a symbolic link that leads out of the package" in refusal(package)


def test_a_link_that_leads_nowhere_or_to_itself(package: Path) -> None:
    (package / "extra").symlink_to("extra")
    refusal(package)


@pytest.mark.parametrize("name", ["Manifest.json", MODEL])
def test_a_pipe_in_place_of_a_file(package: Path, name: str) -> None:
    (package / name).unlink()
    os.mkfifo(package / name)
    assert "Not a regular file" in refusal(package)


@pytest.mark.parametrize("name", ["Manifest.json", MODEL])
def test_a_sparse_file_of_more_than_memory(package: Path, name: str) -> None:
    with (package / name).open("r+b") as file:
        file.truncate(200 * 2**30)
    assert "bytes; at most 2147483647 are possible" in refusal(package)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("@model_path/weights/../../secret", "it keeps weights in .*; expected a file in '@model_path/weights/'"),
        ("/etc/passwd", "it keeps weights in '/etc/passwd'; expected a file in '@model_path/weights/'"),
        ("@model_path/weights/..", "which is none inside the package"),
        ("@model_path/weights/" + "x" * 300, "which is none inside the package"),
    ],
)
def test_weights_that_are_kept_out_of_the_package(package: Path, name: str, message: str) -> None:
    import_coremltools()
    from coremltools.proto.Model_pb2 import Model

    model = Model.FromString((package / MODEL).read_bytes())
    function = model.mlProgram.functions["main"]
    for operation in function.block_specializations[function.opset].operations:
        for value in operation.attributes.values():
            if value.WhichOneof("value") == "blobFileValue":
                value.blobFileValue.fileName = name
    (package / MODEL).write_bytes(model.SerializeToString())
    with pytest.raises(StageError, match=message):
        read_model(package)


def test_a_linked_package_is_followed(package: Path, tmp_path: Path) -> None:
    """As a person's own link to a package: only what the package itself says is not trusted."""
    linked = tmp_path / "linked.mlpackage"
    linked.symlink_to(package)
    assert inspect_file(linked).weights == inspect_file(package).weights
