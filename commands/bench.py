"""Measure the speed of this project, as ratios in one run: machines differ and are noisy, ratios are steadier.

A temporary clone of the last commit is reproduced from nothing, which gives the table of where the time goes; then its
data and models serve to time training against the tutorial's own loop, the exported ONNX file against the stock export
and PyTorch, and every architecture, untrained. Run it on an otherwise idle machine; it takes some minutes.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "stages"))

import export_coreml  # noqa: E402 - after the path to it
import export_onnx  # noqa: E402
import train  # noqa: E402
from shared.conversion.stock_export import export_stock  # noqa: E402
from shared.data.sequences import Prepared, PreparedWriter, Split  # noqa: E402
from shared.execution.runners import Batch, OnnxRunner, PyTorchRunner  # noqa: E402
from shared.execution.timing import Rounds, alternate, ratio, typical  # noqa: E402
from shared.files.inspection import inspect_file  # noqa: E402
from shared.network.architectures import ARCHITECTURES, ArchitectureParams  # noqa: E402
from shared.network.model import Checkpoint, ModelConfig, SequenceClassifier, save_checkpoint  # noqa: E402
from shared.params import read_params  # noqa: E402
from shared.training import batches  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from tabulate import tabulate  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402

COLD_TARGET_SECONDS = 60
UNCHANGED_TARGET_SECONDS = 1.5


def judge(value: float, target: float, unit: str = "") -> str:
    """A target and whether it is met."""
    return f"{target}{unit}: {'met' if value <= target else 'NOT met'}"


def print_times(title: str, seconds: dict[str, Rounds], targets: dict[tuple[str, str], float]) -> None:
    """Print the typical times, and the ratio of two of them where it has a target."""
    print(f"\n{title}")
    width = max(map(len, seconds))
    for name, rounds in seconds.items():
        print(f"  {name:<{width}}  {typical(rounds) * 1e3:9.3f} ms")
    for (name, other), target in targets.items():
        share = ratio(seconds[name], seconds[other])
        print(f"  {name} / {other}: {share:.2f}   target {judge(share, target)}")


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
    width = max(len(name) for name, _ in starts)
    for (name, start), (_, stop) in zip(starts, [*starts[1:], ("", end)], strict=True):
        print(f"  {name:<{width}} {stop - start:6.1f} s")
    print(f"  {'total':<{width}} {total:6.1f} s   target {judge(total, COLD_TARGET_SECONDS, ' s')}")

    def unchanged() -> None:
        subprocess.run(command, cwd=clone, env=environment, check=True, stdout=subprocess.DEVNULL)

    seconds = typical(alternate({"unchanged": unchanged}, rounds=5)["unchanged"])
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
    print_times(f"Training, {epochs} epochs at one thread", seconds, {("ours", "tutorial"): 0.9})
    share, floor = (ratio(seconds["LSTM kernels alone"], seconds[other]) for other in ("ours", "tutorial"))
    print(f"  torch's LSTM kernels are {share:.0%} of ours; alone they take {floor:.2f} of the tutorial's time")


def bench_throughput(clone: Path) -> None:
    """An epoch of mini-batches from files against a bare loop over tensors that are in memory, at one thread.

    The buffer is made smaller, so that it is filled several times, as it is for a long table.
    """
    os.chdir(clone)
    prepared = Prepared(clone / "data" / "prepared")
    test, copies = prepared.split("test"), 4
    lengths = np.full(len(test.labels), prepared.schema.time_steps, np.int32)
    rows: dict[Split, int] = {"train": copies * len(test.labels), "validation": len(test.labels) // 100, "test": 1}
    folder = clone.parent / "prepared"
    with PreparedWriter(folder, rows, *test.sequences.shape[1:], ragged=False) as writer:
        for split, count in rows.items():
            for start in range(0, count, len(test.labels)):
                part = slice(0, min(len(test.labels), count - start))
                writer.append(split, test.sequences[part], test.labels[part], lengths[part])
    writer.finish(prepared.schema.model_copy(update={"rows": rows}))
    data = Prepared(folder)
    params = read_params("train", train.Params).model_copy(update={"epochs": 1, "batch_size": 256, "threads": 1})
    architecture = read_params("architecture", ArchitectureParams)
    x, y = torch.tensor(data.split("train").sequences), torch.tensor(data.split("train").labels)

    def bare_loop() -> None:
        model = train.build(data.schema, params, architecture)
        optimizer = torch.optim.Adam(model.parameters(), lr=params.learning_rate, fused=True)
        total = 0.0
        for chosen in torch.randperm(len(y)).split(256):
            loss = cross_entropy(model(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()

    torch.set_num_threads(1)
    usual = batches.BUFFER_BYTES, batches.BLOCKS_PER_BUFFER
    batches.BUFFER_BYTES, batches.BLOCKS_PER_BUFFER = x.nbytes // 4, 32
    seconds = alternate({"ours": lambda: train.train(data, params, architecture), "bare loop": bare_loop}, rounds=9)
    batches.BUFFER_BYTES, batches.BLOCKS_PER_BUFFER = usual
    print(f"\nTraining, {len(y)} sequences in batches of 256, one thread")
    for name, rounds in seconds.items():
        print(f"  {name:<9}  {len(y) / typical(rounds):9,.0f} sequences/s")
    share = ratio(seconds["bare loop"], seconds["ours"])
    print(f"  ours / bare loop: {share:.2f}   target 0.95: {'met' if share >= 0.95 else 'NOT met'}")


def bench_latency(clone: Path) -> None:
    """One sequence through the exported file, the stock export and PyTorch, at one thread.

    The stock export is of the tutorial's own model with our weights; that of our model shows what is due to the model.
    """
    checkpoint = clone / "models" / "pytorch" / "classifier.pt"
    eager = PyTorchRunner(checkpoint, threads=1)
    tutorial = TutorialModel(eager.model.config.options["hidden_size"]).eval()
    for part, ours in ((tutorial.lstm, eager.model.network.rnn), (tutorial.linear, eager.model.network.linear)):
        part.load_state_dict(ours.state_dict())  # type: ignore[union-attr]
    data = Prepared(clone / "data" / "prepared").split("test")
    example = (torch.from_numpy(data.sequences[:2]),)
    stock = {"tutorial's": tutorial, "our": eager.model}
    sessions = {"ours": OnnxRunner(clone / "models" / "onnx" / "classifier-fp32.onnx", threads=1)}
    for name, model in stock.items():
        export_stock(model, example, clone / "stock.onnx")
        sessions[f"stock export of {name} model"] = OnnxRunner(clone / "stock.onnx", threads=1)
    one = Batch(data.sequences[:1], None)
    seconds = alternate(
        {name: session.call(one) for name, session in sessions.items()}
        | {"ours with I/O binding": sessions["ours"].bound_call(one), "torch eager": eager.call(one)},
        rounds=50,
        turn_seconds=0.005,
    )
    stock_name = "stock export of tutorial's model"
    targets = {
        ("ours", stock_name): 0.75,
        ("ours with I/O binding", stock_name): 0.6,
        ("ours", "torch eager"): 0.2,
    }
    print_times("Latency of one sequence, one thread", seconds, targets)


def bench_architectures(clone: Path) -> None:
    """Sizes and latency of every architecture with its committed options; neither depends on how long it is trained."""
    os.chdir(clone)
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


def main() -> None:
    """Run every section."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        bench_pipeline(clone)
        bench_training(clone)
        bench_throughput(clone)
        bench_latency(clone)
        bench_architectures(clone)
        os.chdir(PROJECT)


if __name__ == "__main__":
    main()
