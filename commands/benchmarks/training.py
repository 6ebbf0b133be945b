"""The default training against the tutorial's loop, and what of it is ours; mini-batches against a bare loop."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import train
from commands.benchmarks.judging import figure, print_ratio, print_times, ratio
from commands.benchmarks.tutorial import TutorialModel
from shared.data.sequences import Prepared, PreparedWriter, Split
from shared.execution.timing import alternate, typical
from shared.kit.params import read_params
from shared.network.architectures import ArchitectureParams
from shared.network.model import SequenceClassifier
from shared.training import batches

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy


def bench(clone: Path) -> None:
    """All three."""
    bench_default(clone)
    bench_share(clone)
    bench_throughput(clone)


def bench_default(clone: Path) -> None:
    """The default training against the tutorial's own loop and against the LSTM's kernels alone, at one thread."""
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
    share, floor = (ratio(seconds["LSTM kernels alone"], seconds[other]).median for other in ("ours", "tutorial"))
    print(f"  torch's LSTM kernels are {share:.0%} of ours; alone they take {floor:.2f} of the tutorial's time")


def bench_share(clone: Path) -> None:
    """What of the default stage, from its parameters to its files, is not spent in the net, its loss, their gradients.

    That is sampling, seeds, optimiser, losses to report, schedule, progress, and the files.
    """
    shares = []
    for number in range(8):
        folder = clone.parent / f"trained-{number}"
        folder.mkdir()
        outputs = [str(folder / name) for name in ("classifier.pt", "train.json", "loss.csv")]
        arguments = patch.object(sys, "argv", ["train.py", "data/prepared", *outputs])
        with arguments, redirect_stderr(StringIO()), stopwatch() as inside:
            start = time.perf_counter()
            train.main()
            shares.append(1 - inside() / (time.perf_counter() - start))
    shares = shares[1:]  # kernels are made at their first use
    print("\nThe default training, all its epochs, one thread")
    print_ratio("outside of the net, its loss and their gradients", figure(shares), 0.05)


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Give a function that tells how many seconds have been spent in nets, their loss and their gradients."""
    seconds = 0.0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal seconds
            start = time.perf_counter()
            result = function(*args, **kwargs)
            seconds += time.perf_counter() - start
            return result

        return call

    with (
        patch.object(SequenceClassifier, "__call__", timed(SequenceClassifier.__call__)),
        patch.object(train, "cross_entropy", timed(cross_entropy)),
        patch.object(torch.Tensor, "backward", timed(torch.Tensor.backward)),
    ):
        yield lambda: seconds


def repeat_rows(prepared: Prepared, folder: Path, count: int) -> Prepared:
    """Write so many rows of training, a hundredth of them to validate on: the test split, as often as it takes."""
    test = prepared.split("test")
    lengths = np.full(len(test.labels), prepared.schema.time_steps, np.int32)
    rows: dict[Split, int] = {"train": count, "validation": max(1, count // 100), "test": 1}
    with PreparedWriter(folder, rows, *test.sequences.shape[1:], ragged=False) as writer:
        for split, wanted in rows.items():
            for start in range(0, wanted, len(test.labels)):
                part = slice(0, min(len(test.labels), wanted - start))
                writer.append(split, test.sequences[part], test.labels[part], lengths[part])
    classes = len(prepared.schema.classes)
    class_rows = {
        split: np.bincount(np.resize(test.labels, wanted), minlength=classes) for split, wanted in rows.items()
    }
    counted = {split: counts.tolist() for split, counts in class_rows.items()}
    writer.finish(prepared.schema.model_copy(update={"rows": rows, "class_rows": counted}))
    return Prepared(folder)


def bench_throughput(clone: Path) -> None:
    """An epoch of mini-batches from files against a bare loop over tensors that are in memory, at one thread.

    The buffer is made smaller, so that it is filled several times, as it is for a long table.
    """
    data = repeat_rows(Prepared(clone / "data" / "prepared"), clone.parent / "prepared", 40_000)
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
    print_ratio("ours / bare loop", ratio(seconds["bare loop"], seconds["ours"]), 0.95, at_least=True)
