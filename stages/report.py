"""Show a run: all metrics in; one self-contained page and its pictures out."""

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

from shared.artifacts import REFERENCE
from shared.stage import parse_args, read_json, run, write_bytes

import jinja2
import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

TEMPLATE = Path(__file__).parent / "shared" / "report.html.jinja"
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "figure.dpi": 144,
}
TRAIN_COLOR, VALIDATION_COLOR = "#2563eb", "#ea580c"


def draw_loss(loss: pd.DataFrame) -> Figure:
    """Training and validation loss over the epochs."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for column, label, color in (
        ("train_loss", "training", TRAIN_COLOR),
        ("validation_loss", "validation", VALIDATION_COLOR),
    ):
        axes.plot(loss["epoch"], loss[column], label=f"{label}: {loss[column].iloc[-1]:.4f}", color=color)
    axes.set(xlabel="epoch", ylabel="cross-entropy (nats)", title="Loss of each epoch", ylim=(0, None))
    axes.set_xlim(loss["epoch"].iloc[0], loss["epoch"].iloc[-1])
    axes.legend(title="at the last epoch", frameon=False)
    return figure


def draw_confusion(confusion: pd.DataFrame) -> Figure:
    """Actual against predicted class: colour by the share of the actual class, numbers in rows."""
    classes = list(confusion["actual"].unique())
    counts = confusion.pivot_table(index="actual", columns="predicted", values="rows").loc[classes, classes].to_numpy()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    size = max(4.5, 0.6 * len(classes) + 2)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in [((i, j), counts[i, j]) for i in range(len(classes)) for j in range(len(classes))]:
        axes.text(
            column,
            row,
            f"{count:,.0f}\n{shares[row, column]:.1%}",
            ha="center",
            va="center",
            color="white" if shares[row, column] > 0.5 else "black",
        )
    axes.set(xlabel="predicted class", ylabel="actual class", title="PyTorch on the test split")
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, label="share of the actual class", shrink=0.8)
    return figure


def to_png(figure: Figure) -> bytes:
    """The picture as PNG, without the version of the library in it."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def artifact_rows(evaluation: dict[str, Any], verification: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a file: what it is worth, how far it is from PyTorch, and who says so."""
    rows = []
    for file_format, precisions in evaluation.items():
        for precision, figures in precisions.items():
            parity = verification.get(file_format, {}).get(precision)
            if parity is None and (file_format, precision) != REFERENCE:
                parity = {"problems": ["it was not verified"], "passed": False}
            rows.append({"format": file_format, "precision": precision, "task": figures, "parity": parity})
    return rows


def render(training: dict[str, Any], rows: list[dict[str, Any]], pictures: dict[str, bytes]) -> str:
    """The page, with its pictures inside."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    encoded = {name: base64.b64encode(content).decode() for name, content in pictures.items()}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(training=training, rows=rows, pictures=encoded)


def main() -> None:
    """Read the metrics; draw the pictures and write the page."""
    args = parse_args(
        __doc__,
        inputs={
            "training": "the figures of training (JSON)",
            "loss": "the loss curve (CSV)",
            "evaluation": "what each file is worth (JSON)",
            "confusion": "PyTorch's confusion table (CSV)",
            "verification": "how far each file is from PyTorch (JSON)",
        },
        outputs={"page": "the report (HTML)", "loss_picture": "PNG", "confusion_picture": "PNG"},
    )
    with mpl.rc_context(STYLE):
        pictures = {
            "loss": to_png(draw_loss(pd.read_csv(args.loss))),
            "confusion": to_png(draw_confusion(pd.read_csv(args.confusion, dtype={"actual": str, "predicted": str}))),
        }
    rows = artifact_rows(read_json(args.evaluation), read_json(args.verification))
    write_bytes(args.loss_picture, pictures["loss"])
    write_bytes(args.confusion_picture, pictures["confusion"])
    write_bytes(args.page, render(read_json(args.training), rows, pictures).encode())


if __name__ == "__main__":
    run(main)
