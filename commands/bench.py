"""Measure the speed of this project, as ratios in one run: machines differ and are noisy, ratios are steadier.

A temporary clone of the last commit is reproduced from nothing, which gives the table of where the time goes; then its
data and models serve to time training against the tutorial's own loop, and the exported ONNX file against the stock
export and PyTorch. Run it on an otherwise idle machine; it takes about two minutes.
"""

import contextlib
import io
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "stages"))

import train  # noqa: E402
from shared.architectures import ArchitectureParams  # noqa: E402
from shared.model import load_checkpoint  # noqa: E402 - after the path to it
from shared.params import read_params  # noqa: E402
from shared.sequences import Prepared  # noqa: E402

import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

COLD_TARGET_SECONDS = 60
UNCHANGED_TARGET_SECONDS = 1.5


def alternate(functions: dict[str, Callable[[], object]], rounds: int, calls: int = 1) -> dict[str, list[float]]:
    """Seconds of a call of each function in each round.

    The functions take turns, so that a slow moment hits all alike; a turn is an untimed call, which warms the caches
    that the others have filled, and then `calls` timed ones.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            function()
            start = time.perf_counter()
            for _ in range(calls):
                function()
            seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, other: str) -> float:
    """The median over the rounds of one function's time divided by another's."""
    return median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))


def judge(value: float, target: float, unit: str = "") -> str:
    """A target and whether it is met."""
    return f"{target}{unit}: {'met' if value <= target else 'NOT met'}"


def print_ratios(title: str, seconds: dict[str, list[float]], targets: dict[str, float]) -> None:
    """Print the median times, and the ratio of "ours" to those that have a target."""
    print(f"\n{title}")
    width = max(map(len, seconds))
    for name, values in seconds.items():
        verdict = ""
        if name in targets:
            share = ratio(seconds, "ours", name)
            verdict = f"   ours is {share:.2f} of it; target {judge(share, targets[name])}"
        print(f"  {name:<{width}}  {median(values) * 1e3:9.3f} ms{verdict}")


def bench_pipeline(clone: Path) -> None:
    """Where the time of a cold `dvc repro` goes, and what an unchanged one costs."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "dvc", "repro"]
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(clone)], check=True)
    starts: list[tuple[str, float]] = [("start of DVC", time.perf_counter())]
    with subprocess.Popen(
        [*command, "--force"], cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        starts += [
            (found[1], time.perf_counter())
            for line in process.stdout
            if (found := re.match(r"Running stage '(.+)'", line))
        ]
        end = time.perf_counter()
        errors = process.stderr.read() if process.stderr else ""
    if process.returncode:
        sys.exit(f"bench: error: dvc repro failed: {errors}")
    total = end - starts[0][1]
    print(f"Cold dvc repro, {os.cpu_count()} cores")
    for (name, start), (_, stop) in zip(starts, [*starts[1:], ("", end)], strict=True):
        print(f"  {name:<18} {stop - start:6.1f} s")
    print(f"  {'total':<18} {total:6.1f} s   target {judge(total, COLD_TARGET_SECONDS, ' s')}")

    def unchanged() -> None:
        subprocess.run(command, cwd=clone, env=environment, check=True, stdout=subprocess.DEVNULL)

    seconds = median(alternate({"unchanged": unchanged}, rounds=5)["unchanged"])
    print(f"\nUnchanged dvc repro\n  {seconds:.2f} s   target {judge(seconds, UNCHANGED_TARGET_SECONDS, ' s')}")


class TutorialModel(nn.Module):
    """The tutorial's model, with its explicit zero state and its last output."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.lstm = nn.LSTM(1, hidden_size, 1, batch_first=True)
        self.linear = nn.Linear(hidden_size, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        h0 = torch.zeros(1, x.size(0), self.hidden_size)
        c0 = torch.zeros(1, x.size(0), self.hidden_size)
        output, _ = self.lstm(x, (h0, c0))
        logits: Tensor = self.linear(output[:, -1, :])
        return logits


def bench_training(clone: Path) -> None:
    """The default training against the tutorial's own loop and against the LSTM's kernels alone, at one thread."""
    os.chdir(clone)
    epochs = 50
    params = read_params("train", train.Params).model_copy(update={"epochs": epochs, "threads": 1})
    architecture = read_params("architecture", ArchitectureParams)
    hidden_size = architecture.options["hidden_size"]
    data = Prepared(clone / "data" / "prepared")
    (x, y), (x_validation, y_validation) = (
        (torch.from_numpy(arrays.sequences), torch.from_numpy(arrays.labels))
        for arrays in (data.split("train"), data.split("validation"))
    )

    def tutorial() -> None:
        model = TutorialModel(hidden_size)
        criterion = nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(model.parameters(), lr=params.learning_rate)
        train_losses, validation_losses = [], []
        for _ in range(epochs):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            train_losses.append(loss.item())
            validation_losses.append(criterion(model(x_validation), y_validation).item())

    lstm = nn.LSTM(1, hidden_size, batch_first=True)

    def kernels_alone() -> None:
        for _ in range(epochs):
            lstm(x)[1][0].sum().backward()
            with torch.inference_mode():
                lstm(x_validation)

    torch.set_num_threads(1)
    seconds = alternate(
        {
            "ours": lambda: train.train(data, params, architecture),
            "tutorial": tutorial,
            "LSTM kernels alone": kernels_alone,
        },
        rounds=7,
    )
    print_ratios(f"Training, {epochs} epochs at one thread", seconds, {"tutorial": 0.9})
    share, floor = (ratio(seconds, "LSTM kernels alone", other) for other in ("ours", "tutorial"))
    print(f"  torch's LSTM kernels are {share:.0%} of ours; alone they take {floor:.2f} of the tutorial's time")


def bench_latency(clone: Path) -> None:
    """One sequence through the exported file, the stock export and PyTorch, at one thread."""
    model = load_checkpoint(clone / "models" / "pytorch" / "classifier.pt").model
    stock = TutorialModel(model.config.options["hidden_size"]).eval()
    for part, ours in ((stock.lstm, model.network.rnn), (stock.linear, model.network.linear)):
        part.load_state_dict(ours.state_dict())  # type: ignore[union-attr]
    stock_file = clone / "stock.onnx"
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            stock,
            (torch.zeros(2, 6, 1),),
            stock_file,
            dynamo=True,
            dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
            external_data=False,
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    ours_session, stock_session = (
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for path in (clone / "models" / "onnx" / "classifier-fp32.onnx", stock_file)
    )
    sequence = np.random.default_rng(0).random((1, 6, 1), dtype=np.float32) * 10
    tensor = torch.from_numpy(sequence)
    ours_input, stock_input = ours_session.get_inputs()[0].name, stock_session.get_inputs()[0].name

    def eager() -> None:
        with torch.inference_mode():
            model(tensor)

    seconds = alternate(
        {
            "ours": lambda: ours_session.run(None, {ours_input: sequence}),
            "stock torch.onnx.export": lambda: stock_session.run(None, {stock_input: sequence}),
            "torch eager": eager,
        },
        rounds=50,
        calls=200,
    )
    print_ratios("Latency of one sequence", seconds, {"stock torch.onnx.export": 0.75, "torch eager": 0.2})


def main() -> None:
    """Run every section."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        bench_pipeline(clone)
        bench_training(clone)
        bench_latency(clone)
        os.chdir(PROJECT)


if __name__ == "__main__":
    main()
