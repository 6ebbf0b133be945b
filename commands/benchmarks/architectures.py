"""Every architecture, untrained: sizes and latency."""

from pathlib import Path

import export_onnx
from commands.benchmarks.untrained import export_packages, run_stage, save_untrained
from shared.data.sequences import Prepared
from shared.execution.runners import Batch, OnnxRunner, PyTorchRunner
from shared.execution.timing import alternate, typical
from shared.files.inspection import inspect_file
from shared.network.architectures import ARCHITECTURES

from tabulate import tabulate


def bench(clone: Path) -> None:
    """Sizes and latency of every architecture with its committed options; neither depends on how long it is trained."""
    schema = Prepared(clone / "data" / "prepared").schema
    one = Batch(Prepared(clone / "data" / "prepared").split("test").sequences[:1], None)
    rows: dict[str, list[str]] = {}
    calls = {}
    for name in sorted(ARCHITECTURES):
        checkpoint = save_untrained(name, schema, clone / "architectures" / name)
        onnx = checkpoint.with_name("fp32.onnx")
        run_stage(export_onnx, checkpoint, onnx)
        packages = export_packages(checkpoint).values()
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
