"""The real pipeline under DVC, in a temporary copy of the project: what runs, and DVC as its users use it."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from release import RELEASE
from tests.support import IN_EVERY_BUNDLE, Project, stages_that_ran

import pytest

ONNX = ["fp32", "fp16", "int8"]
COREML = ["fp32", "fp16", "palette6", "sparse50_palette4"]
EXPORTERS = ["export_onnx", "export_coreml", "export_coreai", "export_executorch"]  # the last two are left out
COMPRESS_ONNX = ["compress_onnx@fp16", "compress_onnx@int8"]
COMPRESS_COREML = ["compress_coreml@palette6", "compress_coreml@sparse50_palette4"]
PREDICT_ONNX = ["predict@onnx", "predict@web", "predict@onnx_reference"]
PREDICT_EXPORTED = [*PREDICT_ONNX, "predict@coreml", "predict@coreai", "predict@executorch"]
SHOWN = ["report", "release", "accept"]  # who reads the verdict
AFTER_TRAIN = [
    *EXPORTERS,
    *COMPRESS_ONNX,
    *COMPRESS_COREML,
    "predict@pytorch",
    *PREDICT_EXPORTED,
    "evaluate",
    "verify",
    "benchmark",
    *SHOWN,
]
EVERY_STAGE = ["generate", "list_variants", "prepare", "train", *AFTER_TRAIN]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def contents(path: Path) -> dict[str, bytes]:
    """Every file at or below a path."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_from_nothing_every_stage_runs_once_and_every_file_is_verified(
    first_repro: tuple[Project, list[str]],
) -> None:
    project, ran = first_repro
    assert sorted(ran) == sorted(EVERY_STAGE)
    verified = read_json(project.folder / "metrics" / "verify.json")
    found = {(file_format, precision) for file_format in verified for precision in verified[file_format]}
    assert found == {
        ("pytorch", "fp32"),
        *(("onnx", variant) for variant in ONNX),
        *(("coreml", variant) for variant in COREML),
    }
    assert all(verified[file_format][precision]["passed"] for file_format, precision in found)
    evaluated = read_json(project.folder / "metrics" / "evaluate.json")
    assert list(evaluated) == ["pytorch", "onnx", "coreml"]
    assert evaluated["onnx"]["fp32"]["accuracy"] == evaluated["pytorch"]["fp32"]["accuracy"]


def test_a_run_leaves_exactly_its_outputs(first_repro: tuple[Project, list[str]]) -> None:
    project, _ = first_repro
    assert set(project.git("status", "--short").splitlines()) == set()
    written = {
        str(path.relative_to(project.folder))
        for folder in ("data", "models", "metrics")
        for path in (project.folder / folder).rglob("*")
        if path.is_file() and not {".mlpackage", ".aimodel"} & {parent.suffix for parent in path.parents}
    }
    folders = [*(project.folder / "models").rglob("*.mlpackage"), *(project.folder / "models").rglob("*.aimodel")]
    packages = {str(path.relative_to(project.folder)) for path in folders}
    splits = ("train", "validation", "test")
    shipped = {
        target["file"] for target in read_json(project.folder / "models" / "release" / "release.json")["targets"]
    }
    assert {Path(name).suffix for name in shipped} == {".onnx", ".mlpackage"}
    converted = {
        Path(name).with_suffix(suffix).name
        for name in shipped
        if name.endswith(".onnx")
        for suffix in (".ort", ".required_operators.config")
    }
    assert written | packages == {
        "data/.gitkeep",
        "data/sequences.csv",
        "data/stock.onnx",
        "data/prepared/schema.json",
        *(f"data/prepared/{split}{kind}.npy" for split in splits for kind in ("", "_labels")),
        *(f"data/predictions/pytorch/fp32.{suffix}" for suffix in ("json", "npy")),
        *(f"data/predictions/onnx/{variant}.{suffix}" for variant in ONNX for suffix in ("json", "npy")),
        *(f"data/predictions/web/{variant}.json" for variant in ONNX),  # not installed in a copy
        *(f"data/predictions/onnx_reference/{variant}.json" for variant in ONNX),
        *(f"data/predictions/onnx_reference/{variant}.npy" for variant in ONNX if variant != "int8"),
        *(f"data/predictions/coreml/{variant}.{suffix}" for variant in COREML for suffix in ("json", "npy")),
        "models/.gitkeep",
        "models/pytorch/classifier.pt",
        *(f"models/onnx/classifier-{variant}.onnx" for variant in ONNX),
        *(f"models/coreml/classifier-{variant}.mlpackage" for variant in COREML),
        *(f"models/coreai/classifier-{variant}.aimodel" for variant in ("fp32", "fp16")),
        "models/executorch/classifier-fp32.pte",
        *(f"models/{file_format}/variants.json" for file_format in ("onnx", "coreml", "coreai")),
        *(f"models/release/{name}" for name in (IN_EVERY_BUNDLE | shipped | converted) - {"verifiers"}),
        *(f"models/release/{file.relative_to(RELEASE)}" for file in RELEASE.glob("verifiers/**/*") if file.is_file()),
        *(f"metrics/{name}.json" for name in ("train", "evaluate", "verify", "size", "benchmark")),
        *(f"metrics/{name}.csv" for name in ("loss", "confusion", "parity", "flips", "size_accuracy")),
        *(f"metrics/{name}.png" for name in ("loss", "confusion", "size_accuracy", "parity")),
        *(f"metrics/report.{suffix}" for suffix in ("html", "md")),
    }


@pytest.fixture
def ran_after(reproduced: Project) -> Callable[..., list[str]]:
    """Change a parameter and reproduce: the stages that ran.

    A fresh value each time: set back to an old one, DVC would restore the result from its run cache.
    """

    def run(key: str, value: Any, *targets: str) -> list[str]:
        reproduced.set(key, value)
        return reproduced.repro(*targets)

    return run


def test_a_changed_parameter_of_the_verdict_reruns_what_it_affects_and_nothing_else(
    reproduced: Project, ran_after: Callable[..., list[str]]
) -> None:
    assert reproduced.repro() == []

    # What a file may cost changes no figure that another stage reads, but the verdict and the page.
    assert ran_after("verify.accuracy_loss", 0.006) == ["verify", "report", "accept"]

    # Other devices may be recommended another file.
    targets = [
        {"name": "iPhone", "format": "coreml", "ios": 18},
        {"name": "PC", "format": "onnx", "onnxruntime": "1.20"},
    ]
    assert sorted(ran_after("report.targets", targets)) == sorted(SHOWN)

    # The logits stay, the records of how the files were run change: they are judged anew, with the same result.
    assert sorted(ran_after("predict.probe_batches", [1, 3])) == sorted(
        ["predict@pytorch", *PREDICT_EXPORTED, "evaluate", "verify", *SHOWN]
    )


def test_a_changed_parameter_of_an_export_reruns_what_it_affects_and_nothing_else(
    reproduced: Project, ran_after: Callable[..., list[str]]
) -> None:
    """Asked for no more than shows it: that what comes after follows is seen once, when training has changed."""
    ran = ran_after("export_onnx.opset", 21, "predict@onnx")
    assert sorted(ran) == sorted(["export_onnx", *COMPRESS_ONNX, "predict@onnx"])

    # One variant instead of another reruns none of the rest, and the file that no stage writes any more is gone.
    ran = ran_after("compress_onnx.variants", ["int8_weights", "int8"], "predict@onnx")
    assert sorted(ran) == sorted(["compress_onnx@int8_weights", "list_variants", "predict@onnx"])
    assert not (reproduced.folder / "models" / "onnx" / "classifier-fp16.onnx").exists()

    # Core ML's range of batches is in its record.
    ran = ran_after("export_coreml.largest_batch", 48, "predict@coreml")
    assert sorted(ran) == sorted(["export_coreml", *COMPRESS_COREML, "predict@coreml"])

    # The version is in every exported file.
    assert sorted(ran_after("export.version", "1.0.1", *EXPORTERS)) == sorted(EXPORTERS)


def test_a_changed_parameter_of_the_training_reruns_what_it_affects_and_nothing_else(
    ran_after: Callable[..., list[str]],
) -> None:
    # The net that is not chosen stands by.
    assert ran_after("architecture.cnn.channels", 33, "train") == []
    assert ran_after("architecture.lstm.hidden_size", 49, "train") == ["train"]
    assert ran_after("generate.seed", 1, "train") == ["generate", "prepare", "train"]
    assert ran_after("prepare.seed", 1, "train") == ["prepare", "train"]
    assert sorted(ran_after("train.seed", 1)) == sorted(["train", *AFTER_TRAIN])


def test_an_experiment_with_other_parameters_is_listed_shown_and_compared(reproduced: Project) -> None:
    shown = json.loads(reproduced.dvc("metrics", "show", "--json"))[""]["data"]
    assert set(shown) == {f"metrics/{name}.json" for name in ("train", "evaluate", "verify", "size")}
    assert shown["metrics/verify.json"]["data"]["coreml"]["fp16"]["passed"] is True

    key = "verify.recall_loss"
    ran = reproduced.dvc("exp", "run", "--name", "lenient", "--set-param", f"{key}=0.07")
    assert stages_that_ran(ran) == ["verify", "report", "accept"]
    table = list(csv.DictReader(reproduced.dvc("exp", "show", "--csv").splitlines()))
    [lenient] = [row for row in table if row["Experiment"] == "lenient"]
    assert float(lenient[key]) == 0.07
    difference = {"old": 0.05, "new": 0.07, "diff": pytest.approx(0.02)}
    assert json.loads(reproduced.dvc("params", "diff", "--json")) == {"params.yaml": {key: difference}}

    reproduced.dvc("plots", "diff", "HEAD", "--out", "plots")
    page = (reproduced.folder / "plots" / "index.html").read_text()
    for title in ("Loss of each epoch", "cross-entropy (nats)", "Rows of the test split", "predicted class"):
        assert title in page
    assert "Size on disk against accuracy on the test split" in page
    pictures = {path.name for path in (reproduced.folder / "plots" / "static").iterdir()}
    names = ("loss", "confusion", "size_accuracy", "parity")
    assert pictures == {f"{revision}_metrics_{name}.png" for revision in ("HEAD", "workspace") for name in names}


def test_what_one_clone_pushes_another_pulls(reproduced: Project) -> None:
    reproduced.dvc("push")
    storage = reproduced.folder.parent / "sequence-classifier-storage"
    assert any(path.is_file() for path in storage.rglob("*"))
    clone = Project(reproduced.folder.parent / "a clone")
    reproduced.git("clone", "--quiet", ".", str(clone.folder))
    assert not (clone.folder / "data" / "sequences.csv").exists()

    clone.dvc("pull")

    for path in clone.hashes():
        assert contents(clone.folder / path) == contents(reproduced.folder / path)
    assert clone.repro() == []


def test_a_format_that_is_left_out_takes_nothing_of_the_rest_with_it(reproduced: Project) -> None:
    """Its stages write notes where its models were, which no other stage takes for models."""
    reproduced.set("export.formats", ["onnx"])
    ran = set(reproduced.repro())
    assert {"export_coreml", *COMPRESS_COREML, "predict@coreml", "evaluate", "verify", "benchmark", "report"} <= ran
    for figures in ("evaluate", "verify", "size"):
        assert "coreml" not in read_json(reproduced.folder / "metrics" / f"{figures}.json")
    assert set(read_json(reproduced.folder / "metrics" / "verify.json")["onnx"]) == set(ONNX)
    for package in (reproduced.folder / "models" / "coreml").glob("*.mlpackage"):
        note = (package / "left_out.txt").read_text()
        assert note == "This format is left out: export.formats in params.yaml names those that are written.\n"
        assert list(package.iterdir()) == [package / "left_out.txt"]
    assert reproduced.repro() == []
