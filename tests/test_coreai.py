"""Core AI from the checkpoint to the verdict: what is exported, compressed, run by Apple's runtime and rejected."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.conversion.coreai_canonical import canonicalize
from shared.execution.runtimes import open_runtime
from shared.files.aimodel import metadata_of
from shared.files.inspection import inspect_file
from shared.files.requirements import requirements_of
from shared.judging.stored import read_weights
from shared.kit.stage import StageError
from tests.core_ai_assets import change_constant, change_metadata, change_text, logits_of
from tests.support import ROOT, Workspace, call_stages, clean_environment, command

import numpy as np
import pytest

FORMS = {
    "fp32": "float32", "fp16": "float16", "int8": "blockwise_shift_scale", "int4": "blockwise_shift_scale",
    "palette4": "lut_to_dense", "sparse50": "sparse_with_bitmask_to_dense",
}  # fmt: skip
"""The variants of the run, and how most of their weights are stored."""


def asset(run: Path, variant: str) -> Path:
    return run / f"models/coreai/classifier-{variant}.aimodel"


def verified(run: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((run / "metrics/verify.json").read_text())
    return figures


def test_every_file_is_executed_by_apple_s_runtime_and_right(coreai_run: Path) -> None:
    found = verified(coreai_run)["coreai"]
    assert found.keys() == FORMS.keys()
    for variant, figures in found.items():
        assert figures["passed"], (variant, figures["problems"])
        assert figures["executor"] == "coreai"
        assert figures["computes_in"] == ("float16" if variant == "fp16" else "float32")
        assert figures["weights"]["stored_as_named"] >= 1
    assert found["fp32"]["relative_error"] < 1e-6
    assert found["fp16"]["relative_error"] < 5e-3


def test_apple_s_runtime_is_a_witness_of_our_core_ml_evaluator(coreai_run: Path) -> None:
    found = verified(coreai_run)["coreml"]
    assert {variant for variant in found if "witness" in found[variant]} == {"fp32", "fp16"}
    for variant, largest in {"fp32": 1e-6, "fp16": 5e-3}.items():
        assert found[variant]["witness"]["executor"] == "coreai"
        assert 0 < found[variant]["witness"]["relative_error"] < largest


@pytest.mark.parametrize("variant", FORMS)
def test_a_file_says_what_it_holds_and_needs(coreai_run: Path, variant: str) -> None:
    path = asset(coreai_run, variant)
    assert inspect_file(path).share(FORMS[variant]) > 0.9
    assert requirements_of(path) == {"compatible_with": "27.0", "ios": 27, "macos": 27}
    metadata = metadata_of(path)
    assert json.loads(metadata["classes"]) == ["0", "1", "2"]
    assert metadata["version"] == "1.0.0"
    assert metadata["description"] == "Which of three classes the sum of six numbers falls in"


@pytest.mark.parametrize(("variant", "bits"), [("int8", 8), ("int4", 4)])
def test_integers_are_read_back_as_the_runtime_restores_them(coreai_run: Path, variant: str, bits: int) -> None:
    """By the logits: `verify` puts what is read back into the float32 graph, which must then compute the same."""
    [stored] = [weight for weight in read_weights(asset(coreai_run, variant)) if weight.form == f"int{bits}"]
    assert stored.scale is not None
    steps = stored.values / stored.scale
    assert np.allclose(steps, np.round(steps), atol=1e-3)
    assert np.abs(steps).max() == pytest.approx(2 ** (bits - 1) - 1)
    assert verified(coreai_run)["coreai"][variant]["graph_error"] < 1e-6


def test_an_equal_checkpoint_gives_equal_bytes_in_another_process(coreai_run: Path, tmp_path: Path) -> None:
    """And an asset that was made canonical stays as it is."""
    shutil.copy(coreai_run / "params.yaml", tmp_path)
    (tmp_path / "models").mkdir()
    shutil.copytree(coreai_run / "models/pytorch", tmp_path / "models/pytorch")
    _, script, *paths = command("export_coreai")
    ended = subprocess.run(
        [sys.executable, ROOT / script, *paths], cwd=tmp_path, env=clean_environment() | {"PYTHONHASHSEED": "7"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ended.stdout + ended.stderr == ""
    for variant in ("fp32", "fp16"):
        written = asset(tmp_path, variant)
        assert hashes(written) == hashes(asset(coreai_run, variant))
        canonicalize(written)
        assert hashes(written) == hashes(asset(coreai_run, variant))


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_any_batch_gives_each_row_the_same(coreai_run: Path) -> None:
    rows = np.random.default_rng(0).uniform(0, 10, (600, 6, 1)).astype(np.float32)
    few, many = logits_of(asset(coreai_run, "fp32"), rows[:3], rows)
    assert np.array_equal(few, many[:3])


@pytest.mark.parametrize("damage", [lambda content: content[:-500], lambda content: b"", lambda content: content[::-1]])
def test_a_damaged_file_is_told_before_apple_s_parser_sees_it(
    coreai_run: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """It would end the process."""
    path = shutil.copytree(asset(coreai_run, "int8"), tmp_path / "a.aimodel")
    (path / "main.mlirb").write_bytes(damage((path / "main.mlirb").read_bytes()))
    for read in (inspect_file, open_runtime, read_weights):
        with pytest.raises(StageError, match="damaged: main"):
            read(path)


# --- without Apple's packages ---

BLOCKER = """
import sys
for name in ("coreai", "coreai_torch", "coreai_opt"):
    sys.modules[name] = None  # importing it fails, as if it were not installed
sys.path.insert(0, {stages!r})
sys.argv = {argv!r}
import importlib
from shared.kit.stage import run
run(importlib.import_module({stage!r}).main)
"""


def call_without_coreai(folder: Path, stage: str) -> subprocess.CompletedProcess[str]:
    _, script, *paths = command(stage)
    code = BLOCKER.format(stages=str(ROOT / "stages"), argv=[script, *paths], stage=Path(script).stem)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False
    )


def test_a_machine_without_apple_s_packages_leaves_the_format_out_and_says_so(workspace: Workspace) -> None:
    workspace.set("export.formats", ["onnx", "coreml", "coreai"])
    workspace.set("compress_coreai.variants", ["int8"])
    for stage in ("export_coreai", "compress_coreai@int8", "predict@coreai"):
        ended = call_without_coreai(workspace.folder, stage)
        assert ended.returncode == 0, ended.stderr
        if stage == "export_coreai":
            assert ended.stdout.startswith("Core AI is left out: it cannot be had on this machine (")
    for stage in ("list_variants", "evaluate", "verify", "benchmark", "report"):
        workspace.call(stage)
    assert "coreai" not in verified(workspace.folder)
    page = (workspace.folder / "metrics/report.html").read_text()
    assert "Core AI is left out: it cannot be had on this machine" in page


def test_files_that_came_from_another_machine_are_not_judged_without_the_runtime(coreai_run: Path) -> None:
    ended = call_without_coreai(coreai_run, "predict@coreai")
    assert ended.returncode == 1
    assert ended.stderr.startswith("predict: error: models/coreai: its files cannot be run: Core AI")
    assert ended.stderr.count("\n") == 1


# --- a user's mistakes ---


def test_k_means_comes_without_pandas() -> None:
    script = """
import sys
sys.path.insert(0, "stages")
from compress_coreai import cluster
import numpy as np
print(cluster(np.array([0, 1, 10, 11], np.float16), 2, np.ones(4, int)).centroids.tolist(), "pandas" in sys.modules)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True
    )
    assert ended.stdout in ("[0.5, 10.5] False\n", "[10.5, 0.5] False\n")


def test_a_variant_that_is_not_known_is_refused(workspace: Workspace) -> None:
    workspace.set("compress_coreai.variants", ["palette5"])
    error = workspace.refuses("compress_coreai@palette5")
    assert "compress_coreai.variants = ['palette5']: unknown variant 'palette5'; known: sparse1 to sparse99" in error


# --- corrupted files ---

CUT: Callable[[Path], Any] = lambda path: (path / "main.mlirb").write_bytes((path / "main.mlirb").read_bytes()[:-999])  # noqa: E731


def flip_largest(values: Any) -> Any:
    flat = values.flatten()
    flat[np.abs(flat.astype(np.float64)).argmax()] *= -1
    return flat.reshape(values.shape)


def swap_entries(palette: Any) -> Any:
    changed = palette.copy()
    entries = changed.reshape(-1)
    low, high = entries.argmin(), entries.argmax()
    entries[[low, high]] = entries[[high, low]]
    return changed


def with_mask_moved(values: Any) -> Any:
    return np.roll(values, 1)


MUTANTS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "one weight's sign flipped": (
        "fp32", "weights", lambda path: change_constant(path, "float32", 10_000, flip_largest)),
    "one half-precision weight's sign flipped": (
        "fp16", "weights", lambda path: change_constant(path, "float16", 10_000, flip_largest)),
    "bias of one class dropped": (
        "fp32", "weights", lambda path: change_constant(path, "float32", 3, lambda bias: bias * np.array([1, 0, 1]))),
    "scales of 8-bit weights doubled": (
        "int8", "weights", lambda path: change_constant(path, "float32", 200, lambda scale: 2 * scale)),
    "one integer's sign flipped": (
        "int8", "weights", lambda path: change_constant(path, "int8", 10_000, flip_largest)),
    "two entries of the palette swapped": (
        "palette4", "weights", lambda path: change_constant(path, "float32", 16, swap_entries)),
    "weights beside their places": (
        "sparse50", "weights", lambda path: change_constant(path, "float32", 5_000, with_mask_moved)),
    "one gate in place of another": (
        "fp32", "graph", lambda path: change_text(path, "#0", "#3")),
    "what a gate lets through is added": (
        "int8", "graph", lambda path: change_text(path, "coreai.mul", "coreai.add")),
    "sum of two products multiplied": (
        "palette4", "graph", lambda path: change_text(path, "coreai.add ", "coreai.mul ")),
    "output called otherwise": (
        "fp32", "interface", lambda path: change_text(path, '"logits"', '"scores"')),
    "classes in another order": (
        "fp16", "interface", lambda path: change_metadata(path, "classes", ["1", "0", "2"])),
    "batch fixed at 1": (
        "fp32", "executed", lambda path: change_text(path, "?", "1", -1)),
    "program cut": ("fp32", "executed", CUT),
}  # fmt: skip
"""What is changed in which file, and the check that must catch it. Each is a variant beside the sound float32 file."""


@pytest.fixture(scope="module")
def rejected(coreai_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is wrong with each mutant, all judged in one run: as variants with the names of their kind and a number."""
    folder = tmp_path_factory.mktemp("mutants") / "run"
    shutil.copytree(coreai_run, folder)
    (folder / "models/coreai/variants.json").unlink()
    for path in (folder / "models/coreai").glob("*.aimodel"):
        if path.name != "classifier-fp32.aimodel":
            shutil.rmtree(path)
    for number, (variant, _, change) in enumerate(MUTANTS.values()):
        target = asset(folder, f"{variant}_{number}")
        shutil.copytree(asset(coreai_run, variant), target)
        change(target)
    call_stages(folder, ["predict@coreai", "evaluate", "verify"])
    found = {variant: "; ".join(figures["problems"]) for variant, figures in verified(folder)["coreai"].items()}
    assert found["fp32"] == ""
    return {name: found[f"{variant}_{number}"] for number, (name, (variant, *_)) in enumerate(MUTANTS.items())}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_corrupted_file_is_rejected(name: str, rejected: dict[str, str]) -> None:
    assert rejected[name].partition(":")[0] == MUTANTS[name][1], rejected[name]
