"""What the default recipe is worth on unseen rows, from ten seeds: of the weights alone, and of the rows as well."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory

import generate
import prepare
import train
from shared.data.chunks import chunks
from shared.data.sequences import Prepared
from shared.kit.params import read_params
from shared.network.architectures import ArchitectureParams

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score
from tabulate import tabulate
from tqdm import tqdm

SEEDS = range(10)


@dataclass(frozen=True)
class Score:
    """What a net is worth on its test split."""

    accuracy: float
    macro_f1: float


def bench(clone: Path) -> None:
    """A table of both, a row a seed; below it mean, sample standard deviation and range.

    The seed of the weights is `train.seed`. With rows of its own, `generate.seed` and `prepare.seed` are the same
    number: other sequences, dealt out to splits of the same sizes.
    """
    params = read_params("train", train.Params)
    committed = Prepared(clone / "data" / "prepared")
    same, other = [], []
    for seed in tqdm(SEEDS, desc="seeds", unit="seed", disable=None):
        seeded = params.model_copy(update={"seed": seed})
        same.append(train_and_score(committed, seeded))
        with TemporaryDirectory() as folder:
            other.append(train_and_score(draw_rows(Path(folder), seed), seeded))
    rows = committed.schema.rows
    print(f"\nThe default recipe, {rows['train']} rows of training, on {rows['test']:,} unseen ones")
    columns = [
        [getattr(score, figure) for score in scores] for scores in (same, other) for figure in ("accuracy", "macro_f1")
    ]
    print(table(columns))


def draw_rows(folder: Path, seed: int) -> Prepared:
    """The default data from another seed."""
    sequences, prepared = folder / "sequences.csv", folder / "prepared"
    generate.write_table(sequences, read_params("generate", generate.Params).model_copy(update={"seed": seed}))
    prepare.prepare(sequences, prepared, read_params("prepare", prepare.Params).model_copy(update={"seed": seed}))
    return Prepared(prepared)


@torch.inference_mode()
def train_and_score(data: Prepared, params: train.Params) -> Score:
    """Train a net from scratch, and run it on the test split."""
    with torch.inference_mode(mode=False):
        model, _ = train.train(data, params, read_params("architecture", ArchitectureParams))
    test = data.split("test")
    predicted = np.concatenate([model(torch.tensor(rows)).argmax(dim=1) for (rows,) in chunks(test.sequences)])
    return Score(accuracy_score(test.labels, predicted), f1_score(test.labels, predicted, average="macro"))


def table(columns: list[list[float]]) -> str:
    """The figures of each seed, and how far they spread."""
    header = ("seed", "accuracy", "macro F1", "accuracy, own rows", "macro F1, own rows")
    seeds = [
        [str(seed), *(f"{value:.4f}" for value in row)]
        for seed, row in zip(SEEDS, zip(*columns, strict=True), strict=True)
    ]
    drawn: str = tabulate(
        [header, *seeds, *summary(columns)], tablefmt="plain", disable_numparse=True, stralign="right"
    )
    return drawn


def summary(columns: list[list[float]]) -> Iterator[list[str]]:
    """Rows of a table: mean and sample standard deviation, smallest and largest, of each column."""
    yield ["mean", *(f"{mean(column):.4f} ± {stdev(column):.4f}" for column in columns)]
    yield ["range", *(f"{min(column):.4f} to {max(column):.4f}" for column in columns)]
