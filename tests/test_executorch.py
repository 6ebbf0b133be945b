"""ExecuTorch programs: through the same stages as every other file, and rejected by them where they are wrong.

What needs the package is run by `make test-executorch` alone, which installs it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import export_executorch
from shared.execution.runtimes import open_runtime
from shared.files import pte
from shared.files.artifacts import why_left_out
from shared.files.quiet import quiet
from shared.judging.stored import read_weights
from shared.kit.stage import StageError
from shared.network.model import Checkpoint, save_checkpoint
from tests import nets
from tests.support import (
    EXPORT_NAMES,
    Workspace,
    classifier,
    clean_environment,
    rejections,
)

import numpy as np
import pytest
import torch

ALL = bool(os.environ.get("EXECUTORCH_TESTS"))
"""Set by `make test-executorch`."""
NEEDS_EXECUTORCH = pytest.mark.skipif(
    not ALL, reason="`make test-executorch` runs it: ExecuTorch is not installed here"
)
FILE = Path("models", "executorch", "classifier-fp32.pte")


def test_where_it_is_not_installed_a_note_says_so(empty_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named 'executorch.{name}'")

    monkeypatch.setattr(pte, "import_executorch", absent)
    empty_workspace.set("export.formats", ["onnx", "coreml", "executorch"])
    checkpoint = empty_workspace.folder / "models" / "pytorch" / "classifier.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()  # it is not read
    empty_workspace.call("export_executorch")
    reason = why_left_out(empty_workspace.folder / FILE)
    assert reason is not None
    assert reason.startswith("ExecuTorch is not installed (No module named 'executorch.runtime')")


@pytest.fixture(scope="module")
def small_run(shippable_run: Path) -> Path:
    """What `workspace` copies here."""
    return shippable_run


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of the small run's net."""
    from shared.conversion.executorch_program import convert
    from shared.network.model import load_checkpoint

    assert pte.why_missing() is None
    names = EXPORT_NAMES.model_copy(
        update={"input_name": "sequence", "lengths_name": "lengths", "output_name": "logits", "version": "1.0.0"}
    )
    file = tmp_path_factory.mktemp("executorch") / FILE.name
    file.write_bytes(convert(load_checkpoint(small_run / "models/pytorch/classifier.pt"), names, 64).content)
    return file


@pytest.fixture
def with_program(workspace: Workspace, exported: Path) -> Workspace:
    shutil.copy(exported, workspace.folder / FILE)
    return workspace


@NEEDS_EXECUTORCH
def test_it_is_fit_to_ship_timed_recommended_and_part_of_the_bundle(with_program: Workspace) -> None:
    workspace = with_program
    assert rejections(workspace, "executorch") == {}
    verified = json.loads((workspace.folder / "metrics/verify.json").read_text())["executorch"]["fp32"]
    assert verified["executor"] == "executorch"
    assert verified["outcome"] == "fit"
    assert verified["graph_error"] < 1e-6
    workspace.set("report.targets", [{"name": "PyTorch apps", "format": "executorch", "executorch": "1.4"}])
    workspace.call("benchmark")
    timed = json.loads((workspace.folder / "metrics/benchmark.json").read_text())["files"]["executorch"]["fp32"]
    assert timed["one_thread"]["latency_ms"]["p50"] > 0
    sizes = json.loads((workspace.folder / "metrics/size.json").read_text())["executorch"]["fp32"]
    assert sizes["requires"]["backends"] == ["XnnpackBackend"]
    assert sizes["weights"] == 10753
    workspace.call("report")
    assert "ExecuTorch 1.4.1" in (workspace.folder / "metrics/report.html").read_text()
    workspace.call("release")
    bundle = workspace.folder / "models/release"
    checked = subprocess.run(
        [sys.executable, bundle / "verify.py"], env=clean_environment(), capture_output=True, text=True, check=True
    )
    assert "classifier-fp32.pte" in checked.stdout
    assert "right" in checked.stdout.split("classifier-fp32.pte")[1]


def flip_a_weight(file: Path) -> str:
    """The sign of one weight, in its place in the file."""
    largest = max(read_weights(file), key=lambda weight: weight.values.size).values.astype(np.float32)
    content = file.read_bytes()
    assert content.count(largest.tobytes()) == 1
    changed = largest.copy()
    changed.flat[100] *= -1
    file.write_bytes(content.replace(largest.tobytes(), changed.tobytes()))
    return "weights: "


def cut(file: Path) -> str:
    """The end of the file is missing."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    return "executed: "


def rename_the_classes(file: Path) -> str:
    """The classes in another order."""
    content = file.read_bytes()
    classes = rb"\"0\", \"1\", \"2\"" if rb"\"0\", \"1\", \"2\"" in content else b'"0", "1", "2"'
    assert content.count(classes) == 1
    file.write_bytes(content.replace(classes, classes.replace(b"0", b"x").replace(b"1", b"0").replace(b"x", b"1")))
    return "interface: classes"


@NEEDS_EXECUTORCH
@pytest.mark.parametrize("damage", [flip_a_weight, cut, rename_the_classes])
def test_a_corrupted_program_is_rejected_by_the_check_that_is_meant_to(
    damage: Callable[[Path], str], with_program: Workspace
) -> None:
    found = damage(with_program.folder / FILE)
    assert rejections(with_program, "executorch")["fp32"].startswith(found)


@NEEDS_EXECUTORCH
@pytest.mark.parametrize(
    ("name", "ragged"), [("lstm", True), ("gru", False), ("cnn", True), ("mlp", False), ("transformer", True)]
)
def test_every_architecture_computes_what_pytorch_does_at_every_batch(name: str, ragged: bool, tmp_path: Path) -> None:
    from shared.conversion.executorch_program import convert

    model = classifier(name, ragged=ragged, standardize=True)
    (tmp_path / "program.pte").write_bytes(convert(Checkpoint(model, {}), EXPORT_NAMES, 32).content)
    runtime = open_runtime(tmp_path / "program.pte")
    generator = np.random.default_rng(0)
    for batch in (1, 2, 15, 16, 32):
        sequences = generator.normal(size=(batch, 5, 2)).astype(np.float32)
        lengths = generator.integers(1, 6, batch, np.int32) if ragged else None
        with torch.inference_mode():
            expected = model(*(torch.from_numpy(part) for part in (sequences, lengths) if part is not None)).numpy()
        np.testing.assert_allclose(runtime.logits(sequences, lengths), expected, atol=2e-6)
    assert runtime.interface.largest_batch == 32
    assert runtime.interface.takes_lengths == ragged


@NEEDS_EXECUTORCH
def test_equal_nets_give_equal_bytes_in_other_processes(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from shared.conversion.executorch_program import convert
from shared.network.model import Checkpoint
from tests.support import EXPORT_NAMES, classifier
Path(sys.argv[1]).write_bytes(convert(Checkpoint(classifier("mlp"), {}), EXPORT_NAMES, 8).content)
"""
    contents = []
    for seed in ("1", "2"):
        file = tmp_path / f"{seed}.pte"
        environment = clean_environment() | {"PYTHONPATH": os.pathsep.join(["stages", "."]), "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, file], env=environment, check=True, capture_output=True)
        contents.append(file.read_bytes())
    assert contents[0] == contents[1]


@NEEDS_EXECUTORCH
@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("torch.cummax", "cummax of network: ExecuTorch's runtime refuses aten::cummax.out: Failed to load"),
        ("nn.AdaptiveMaxPool1d(1)", "adaptive_max_pool2d of network.pool: ExecuTorch's runtime refuses aten::adaptive"),
        ("nn.Conv1d with circular padding", "_empty_dim_order of network.conv: ExecuTorch's runtime refuses dim_order"),
        ("torch.fft.rfft over time", "_fft_r2c of network: ExecuTorch's runtime refuses aten::_fft_r2c.out: method->"),
    ],
)
def test_a_program_that_the_runtime_refuses_is_not_written(title: str, said: str, tmp_path: Path) -> None:
    """Whether it refuses to load it or to run it: the line names the operation, and what to write instead."""
    from shared.conversion.executorch_program import convert

    file = tmp_path / FILE.name
    converted = convert(Checkpoint(nets.classifier(nets.NETS[title]), {}), EXPORT_NAMES, 8)
    with pytest.raises(StageError, match=f"^ExecuTorch cannot carry {re.escape(said)}.* error:? 0x:?1[24]; instead: "):
        export_executorch.save(converted, file)
    assert list(tmp_path.iterdir()) == []


@NEEDS_EXECUTORCH
def test_the_stage_ends_in_that_line_and_writes_nothing(empty_workspace: Workspace) -> None:
    empty_workspace.set("export.formats", ["onnx", "executorch"])
    checkpoint, net = empty_workspace.folder / "models/pytorch/classifier.pt", nets.NETS["torch.cummax"]
    checkpoint.parent.mkdir(parents=True)
    save_checkpoint(checkpoint, Checkpoint(nets.classifier(net), {}))
    with nets.named(net):
        said = empty_workspace.refuses("export_executorch")
    assert said.startswith("ExecuTorch cannot carry cummax of network: ")


@NEEDS_EXECUTORCH
def test_a_time_axis_of_any_length_costs_one_line() -> None:
    from shared.conversion.executorch_program import convert

    names = EXPORT_NAMES.model_copy(update={"dynamic_time": True})
    with pytest.raises(StageError, match=r"^export\.dynamic_time = true: ExecuTorch reads"):
        convert(Checkpoint(classifier("cnn"), {}), names, 8)


class _Loss(torch.nn.Module):
    """A net and its loss, as ExecuTorch's training extension takes them."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, sequence: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = torch.nn.functional.cross_entropy(self.net(sequence), labels)
        return loss


@NEEDS_EXECUTORCH
@pytest.mark.parametrize("name", ["lstm", "gru", "mlp", "transformer", "cnn"])
def test_what_docs_say_of_executorch_s_training_extension(name: str) -> None:
    """Gradients are PyTorch's, and a step of its optimizer lowers the loss; a one-dimensional convolution has none."""
    with quiet():
        from executorch.exir import EdgeCompileConfig, to_edge
        from executorch.extension.training import _load_for_executorch_for_training_from_buffer, get_sgd_optimizer
        from torch.export.experimental import _export_forward_backward

    model, sequences, labels = classifier(name), torch.randn(8, 5, 2), torch.arange(8) % 3
    traced = torch.export.export(_Loss(model), (sequences, labels), strict=True)
    edge = to_edge(_export_forward_backward(traced), compile_config=EdgeCompileConfig(_check_ir_validity=False))
    content = edge.to_executorch().buffer
    module: Any = _load_for_executorch_for_training_from_buffer(content)
    if name == "cnn":
        with pytest.raises(RuntimeError, match="Failed to execute method forward"):
            module.forward_backward("forward", (sequences, labels))
        return
    [before] = module.forward_backward("forward", (sequences, labels))
    torch.nn.functional.cross_entropy(model(sequences), labels).backward()
    found = {key.removeprefix("net."): value for key, value in module.named_gradients().items()}
    for key, weight in model.named_parameters():
        assert weight.grad is not None
        torch.testing.assert_close(found[key], weight.grad, rtol=0, atol=2e-6 * float(weight.grad.abs().max() + 1e-3))
    get_sgd_optimizer(module.named_parameters(), 0.1).step(module.named_gradients())
    [after] = module.forward_backward("forward", (sequences, labels))
    assert after < before
