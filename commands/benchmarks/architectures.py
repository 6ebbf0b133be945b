"""Every architecture, untrained: sizes and latency."""

import sys
from pathlib import Path
from types import ModuleType

import export_coreml
import export_onnx
from shared.data.sequences import Prepared
from shared.execution.runners import Batch, OnnxRunner, PyTorchRunner
from shared.execution.timing import alternate, typical
from shared.files.inspection import inspect_file
from shared.network.architectures import ARCHITECTURES, ArchitectureParams
from shared.network.model import Checkpoint, ModelConfig, SequenceClassifier, save_checkpoint
from shared.params import read_params

from tabulate import tabulate


def bench(clone: Path) -> None:
    """Sizes and latency of every architecture with its committed options; neither depends on how long it is trained."""
    schema = Prepared(clone / "data" / "prepared").schema
    section = read_params("architecture", ArchitectureParams)
    one = Batch(Prepared(clone / "data" / "prepared").split("test").sequences[:1], None)
    rows: dict[str, list[str]] = {}
    calls = {}
    for name in sorted(ARCHITECTURES):
        config = ModelConfig(
            features=schema.features,
            time_steps=schema.time_steps,
            classes=schema.classes,
            ragged=schema.ragged,
            standardize=False,
            architecture=name,
            options=section.model_copy(update={"name": name}).options,
        )
        folder = clone / "architectures" / name
        checkpoint, onnx, *packages = (
            folder / file for file in ("classifier.pt", "fp32.onnx", "fp32.mlpackage", "fp16.mlpackage")
        )
        folder.mkdir(parents=True)
        save_checkpoint(checkpoint, Checkpoint(SequenceClassifier(config).eval(), {}))
        run_stage(export_onnx, checkpoint, onnx)
        run_stage(export_coreml, checkpoint, *packages)
        facts = inspect_file(onnx)
        sizes = [facts.bytes, *(inspect_file(package).bytes for package in packages)]
        rows[name] = [f"{facts.weights:,}", *(f"{size:,} B" for size in sizes)]
        calls[name, "onnx"] = OnnxRunner(onnx, threads=1).call(one)
        calls[name, "torch"] = PyTorchRunner(checkpoint, threads=1).call(one)
    seconds = alternate(calls, rounds=20, turn_seconds=0.005)
    print("\nArchitectures, untrained: size of each file, latency of one sequence at one thread\n")
    columns = ("", "weights", "ONNX fp32", "Core ML fp32", "Core ML fp16", "ONNX Runtime", "torch eager")
    table = [
        (name, *row, *(f"{typical(seconds[name, runtime]) * 1e3:.3f} ms" for runtime in ("onnx", "torch")))
        for name, row in rows.items()
    ]
    print(tabulate([columns, *table], tablefmt="plain", disable_numparse=True, colalign=("left", *["right"] * 6)))


def run_stage(stage: ModuleType, *paths: Path) -> None:
    """Run a stage in this process, with the parameters in the current folder."""
    sys.argv = [f"{stage.__name__}.py", *map(str, paths)]
    stage.main()
