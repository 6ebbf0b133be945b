"""Our evaluator of Core ML programs against torch eager, in rows a second, as `predict` runs both."""

from pathlib import Path

import predict
from commands.benchmarks.judging import print_ratio, ratio
from commands.benchmarks.untrained import export_packages, save_untrained
from shared.data.sequences import Prepared
from shared.execution.runners import Batch, PyTorchRunner
from shared.execution.runtimes import ReferenceRuntime
from shared.execution.timing import Call, alternate, typical
from shared.kit.params import read_params
from shared.network.architectures import ARCHITECTURES

import numpy as np

TIME_STEPS = (6, 100)
TARGETS = {"lstm": 0.7, "cnn": 0.7, "gru": 0.3, "transformer": 0.3}
"""The least part of torch eager's rows a second. An `mlp` takes so little that it has none."""


def bench(clone: Path) -> None:
    """Every architecture, untrained, with its committed options, at two lengths of its sequences."""
    prepared = Prepared(clone / "data" / "prepared")
    rows = read_params("predict", predict.Params).batch_size
    print(
        f"\nThe evaluator of Core ML programs, batches of {rows}, one thread: rows a second, and part of torch eager's"
    )
    for time_steps in TIME_STEPS:
        schema = prepared.schema.model_copy(update={"time_steps": time_steps})
        shape = (rows, time_steps, len(schema.features))
        batch = np.random.default_rng(0).uniform(0, 10, shape).astype(np.float32)
        for name in sorted(ARCHITECTURES):
            checkpoint = save_untrained(name, schema, clone / "evaluator" / f"{name}-{time_steps}")
            calls: dict[str, Call] = {"eager": PyTorchRunner(checkpoint, threads=1).call(Batch(batch, None))}
            for precision, package in export_packages(checkpoint).items():
                calls[precision] = of_evaluator(package, batch)
            seconds = alternate(calls, rounds=15, turn_seconds=0.05)
            print(f"  {name}, {time_steps} steps: torch eager {rows / typical(seconds['eager']):,.0f} rows/s")
            for precision in ("fp32", "fp16"):
                speed = f"    {precision} {rows / typical(seconds[precision]):9,.0f} rows/s"
                part = ratio(seconds["eager"], seconds[precision])
                print_ratio(speed, part, TARGETS.get(name), at_least=True)


def of_evaluator(package: Path, batch: np.ndarray) -> Call:
    """A call that runs a package on a batch, as `predict` does."""
    runtime = ReferenceRuntime(package)
    return lambda: runtime.logits(batch)
