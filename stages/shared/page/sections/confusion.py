"""Which classes PyTorch confuses: as a matrix, or the commonest pairs of many classes."""

from typing import Any

from shared.page.pictures import GROUND, INK, name_figure
from shared.page.run import Pair, Run

import numpy as np
from matplotlib.figure import Figure

MOST_CLASSES_IN_MATRIX = 25


def content(run: Run) -> dict[str, Any]:
    """The matrix, or if there are too many classes the pairs."""
    classes = run.schema.shown_classes
    return {
        "matrix": confusion_rows(run.confusion, classes) if len(classes) <= MOST_CLASSES_IN_MATRIX else [],
        "confusions": commonest_confusions(run.confusion),
        "upright": max(map(len, classes)) > 3 or len(classes) > 8,
    }


def confusion_rows(confusion: list[Pair], classes: list[str]) -> list[dict[str, Any]]:
    """The confusion matrix, a row for each actual class, with the share of its rows in each cell."""
    counts = {(pair.actual, pair.predicted): pair.rows for pair in confusion}
    rows = []
    for actual in classes:
        cells = [counts.get((actual, predicted), 0) for predicted in classes]
        total = max(sum(cells), 1)
        rows.append({"actual": actual, "cells": [{"rows": cell, "share": cell / total} for cell in cells]})
    return rows


def commonest_confusions(confusion: list[Pair]) -> list[Pair]:
    """The pairs of classes that are confused most often."""
    wrong = [pair for pair in confusion if pair.actual != pair.predicted and pair.rows > 0]
    return sorted(wrong, key=lambda pair: -pair.rows)[:20]


def draw(run: Run) -> Figure:
    """Actual against predicted class: colour by the share of the actual class, numbers in rows."""
    index = {name: number for number, name in enumerate(dict.fromkeys(pair.actual for pair in run.confusion))}
    classes = list(index)
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for pair in run.confusion:
        counts[index[pair.actual], index[pair.predicted]] = pair.rows
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    size = min(12.0, max(4.5, 0.55 * len(classes) + 1.5))
    figure = Figure(figsize=(size + 0.9, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= MOST_CLASSES_IN_MATRIX:
        crowded = len(classes) > 8
        for i, j in np.ndindex(counts.shape):
            number = f"{counts[i, j]:,}" if crowded else f"{counts[i, j]:,}\n{shares[i, j]:.1%}"
            color = GROUND if shares[i, j] > 0.5 else INK
            axes.text(j, i, number, ha="center", va="center", color=color, fontsize=7 if crowded else 10)
        axes.set_xticks(range(len(classes)), classes)
        axes.set_yticks(range(len(classes)), classes)
    if max(map(len, classes)) > 3:
        axes.tick_params(axis="x", rotation=90)
    axes.set(xlabel="predicted class", ylabel="actual class")
    name_figure(figure, "Confusion matrix: PyTorch on the test split")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, label="share of the actual class", shrink=0.8).outline.set_visible(False)
    return figure
