"""The pictures of a run, drawn once: as PNG files, and as SVG in the colours of the page around it."""

import re
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import Bbox

INK, SOFT, LINE, GROUND = "#1f2937", "#6b7281", "#e5e7eb", "#ffffff"
BLUE, ORANGE, GOOD = "#2563eb", "#c2410c", "#15803d"
THEME = {INK: "ink", SOFT: "soft", LINE: "line", GROUND: "ground", BLUE: "blue", ORANGE: "orange", GOOD: "good"}
"""The colours of the pictures, and the page's CSS variables that take their place in an SVG."""

FORMAT_NAMES = {"pytorch": "PyTorch", "onnx": "ONNX", "coreml": "Core ML"}
FORMAT_COLORS = {"pytorch": SOFT, "onnx": BLUE, "coreml": ORANGE}
FORMAT_MARKERS = {"onnx": "o", "coreml": "s"}
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$x$"
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.facecolor": GROUND,
    "savefig.dpi": 160,
    "svg.fonttype": "none",
}
MOST_CLASSES_WITH_NUMBERS = 25


@dataclass(frozen=True)
class Point:
    """One file in the picture of size against accuracy."""

    format: str
    variant: str
    kilobytes: float
    accuracy: float
    fit_to_ship: bool
    recommended: bool


def draw_loss(loss: pd.DataFrame) -> Figure:
    """Training and validation loss over the epochs."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for column, label, color in (("train_loss", "training", BLUE), ("validation_loss", "validation", ORANGE)):
        axes.plot(loss["epoch"], loss[column], label=f"{label}: {loss[column].iloc[-1]:.4f}", color=color)
    axes.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None))
    _name(figure, "Loss of each epoch")
    if len(loss) > 1:
        axes.set_xlim(loss["epoch"].iloc[0], loss["epoch"].iloc[-1])
    axes.legend(title="at the last epoch")
    return figure


def draw_confusion(confusion: pd.DataFrame) -> Figure:
    """Actual against predicted class: colour by the share of the actual class, numbers in rows."""
    classes = list(confusion["actual"].unique())
    counts = confusion.pivot_table(index="actual", columns="predicted", values="rows").loc[classes, classes].to_numpy()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    size = min(12.0, max(4.5, 0.55 * len(classes) + 1.5))
    figure = Figure(figsize=(size + 0.9, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= MOST_CLASSES_WITH_NUMBERS:
        crowded = len(classes) > 8
        for i, j in np.ndindex(counts.shape):
            number = f"{counts[i, j]:,.0f}" if crowded else f"{counts[i, j]:,.0f}\n{shares[i, j]:.1%}"
            color = GROUND if shares[i, j] > 0.5 else INK
            axes.text(j, i, number, ha="center", va="center", color=color, fontsize=7 if crowded else 10)
        axes.set_xticks(range(len(classes)), classes)
        axes.set_yticks(range(len(classes)), classes)
    if max(map(len, classes)) > 3:
        axes.tick_params(axis="x", rotation=90)
    axes.set(xlabel="predicted class", ylabel="actual class")
    _name(figure, "Confusion matrix: PyTorch on the test split")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, label="share of the actual class", shrink=0.8).outline.set_visible(False)
    return figure


def draw_size_accuracy(points: list[Point], reference: float, allowed_loss: float) -> Figure:
    """Size on disk against accuracy on the test split: filled where a file is fit to ship, ringed where recommended.

    A file that is far below the others lies at the lower edge, with its accuracy beside it: they would be one line.
    """
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    floor = reference - 6 * max(allowed_loss, 0.001)
    for file_format, marker in FORMAT_MARKERS.items():
        color = FORMAT_COLORS[file_format]
        group = [point for point in points if point.format == file_format]
        for point in group:
            place = ([point.kilobytes], [max(point.accuracy, floor)])
            face = color if point.fit_to_ship else GROUND
            shape = marker if point.accuracy >= floor else "v"
            axes.plot(*place, shape, color=color, markerfacecolor=face, markersize=7, zorder=3)
            if point.recommended:
                axes.plot(*place, marker, color=color, markerfacecolor="none", markersize=13, zorder=3)
        if group:
            axes.plot([], [], marker, color=color, markersize=7, label=FORMAT_NAMES[file_format])
    axes.plot([], [], "o", color=SOFT, markerfacecolor=GROUND, markersize=7, label="not fit to ship")
    axes.plot([], [], "o", color=SOFT, markerfacecolor="none", markersize=13, label="recommended")
    lines = {"PyTorch": (reference, "solid"), "allowed": (reference - allowed_loss, (0, (4, 3)))}
    for name, (height, style) in lines.items():
        axes.axhline(height, color=SOFT, linewidth=1, linestyle=style)
        axes.annotate(name, (1, height), (4, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
                      va="center", fontsize=8, color=SOFT)  # fmt: skip
    shown = [reference, reference - allowed_loss, *(max(point.accuracy, floor) for point in points)]
    room = max(max(shown) - min(shown), 0.004)
    axes.set_ylim(min(shown) - 0.25 * room, max(shown) + 0.35 * room)
    axes.set_xlim(0, 1.12 * max([1.0, *(point.kilobytes for point in points)]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1 if room > 0.006 else 2))
    axes.set(xlabel="size on disk (kB)", ylabel="accuracy")
    _name(figure, "Size against accuracy")
    figure.legend(loc="outside lower center", ncols=4, handletextpad=0.3, columnspacing=1.0, fontsize=9)
    _label(figure, axes, points, floor, [height for height, _ in lines.values()])
    return figure


def _label(figure: Figure, axes: Axes, points: list[Point], floor: float, lines: list[float]) -> None:
    """Write each variant beside its point, where nothing else is."""
    figure.draw_without_rendering()  # lays the figure out: only now is known where a point lies
    places = [axes.transData.transform((point.kilobytes, max(point.accuracy, floor))) for point in points]
    heights = [axes.transData.transform((0, height))[1] for height in lines]
    reach = 6 * figure.dpi / 72
    taken = [Bbox.from_bounds(x - reach, y - reach, 2 * reach, 2 * reach) for x, y in places]
    taken += [Bbox.from_extents(axes.bbox.x0, y - 1, axes.bbox.x1, y + 1) for y in heights]
    for point in sorted(points, key=lambda point: not point.recommended):
        name = point.variant if point.accuracy >= floor else f"{point.variant} {point.accuracy:.1%}"
        place = (point.kilobytes, max(point.accuracy, floor))
        for right, up in _around():
            away = (9 * right, 9 * up)  # points
            text = axes.annotate(
                name, place, away, textcoords="offset points", va="center",
                ha=("right", "center", "left")[(right > 0) - (right < 0) + 1], fontsize=8.5,
                color=FORMAT_COLORS[point.format], fontweight="bold" if point.recommended else "normal",
            )  # fmt: skip
            box = text.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0 <= axes.bbox.y1
            if not inside or any(box.overlaps(other) for other in taken):
                text.remove()
                continue
            taken.append(box)
            if abs(up) > 2:
                line = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.6, "shrinkA": 2, "shrinkB": 5}
                axes.annotate("", place, away, textcoords="offset points", arrowprops=line)
            break


def _around() -> list[tuple[float, float]]:
    """Where a label may be, nearest first: above and below its point, right and left, further out."""
    near = [(0.0, 1.4), (0.0, -1.4), (1.0, 0.0), (-1.0, 0.0)]
    far = [(right, up * height) for height in (1.4, 2.6, 3.8, 5.0, 6.2) for up in (1, -1) for right in (0.0, 1.0, -1.0)]
    return [*near, *far]


def draw_parity(parity: pd.DataFrame) -> Figure:
    """How far each file's logits are from PyTorch's: one histogram a file, one panel a format.

    Args:
        parity: `format`, `variant`, `low`, `high`, `logits`: a row for each bin, the first of which starts at zero.
    """
    used = parity[parity["logits"] > 0]
    formats = list(dict.fromkeys(used["format"]))
    heights = [used.loc[used["format"] == name, "variant"].nunique() for name in formats]
    figure = Figure(figsize=(5.2, 0.42 * sum(heights) + 0.45 * len(heights) + 0.6), layout="constrained")
    _name(figure, "Difference from PyTorch")
    if not formats:
        return figure
    floor = np.log10(parity["high"].min())  # the first bin, which starts at zero, is drawn as wide as the others
    left, right = np.log10(used["high"].min()) - 0.4, np.ceil(np.log10(used["high"].max()))
    panels = figure.subplots(len(formats), sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axes, name in zip(panels, formats, strict=True):
        variants = list(dict.fromkeys(used.loc[used["format"] == name, "variant"]))
        for row, variant in enumerate(variants):
            bins = parity[(parity["format"] == name) & (parity["variant"] == variant)]
            high = np.log10(bins["high"].to_numpy())
            edges = np.concatenate([[high[0] - 1 / 3], high])
            base = len(variants) - 1 - row
            height = 0.8 * bins["logits"].to_numpy() / bins["logits"].max()
            axes.stairs(base + height, edges, baseline=base, fill=True, color=FORMAT_COLORS[name], linewidth=0)
            axes.axhline(base, color=LINE, linewidth=0.8)
        axes.set_yticks([len(variants) - 1 - row + 0.3 for row in range(len(variants))], variants)
        axes.set(title=FORMAT_NAMES[name], ylim=(0, len(variants)), xlim=(left, right))
        axes.grid(visible=False, axis="y")
        axes.spines[["left", "bottom"]].set_visible(False)
    decades = np.arange(np.ceil(max(left, floor + 0.5)), right + 1)
    decades = decades[::-1][:: -(-len(decades) // 6)]
    ticks = {tick: f"1e{tick:.0f}" for tick in decades}
    if left < floor:
        ticks[floor - 1 / 6] = f"<1e{floor:.0f}"
    panels[-1].set_xticks(list(ticks), list(ticks.values()))
    panels[-1].set_xlabel("absolute difference of a logit from PyTorch's")
    return figure


def _name(figure: Figure, title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left", weight="bold", size=11)


def to_png(figure: Figure) -> bytes:
    """The picture as PNG, without the version of the library in it."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: Figure, name: str) -> str:
    """The picture as an SVG element in the colours and the font of the page around it, which has the title, too.

    Args:
        figure: The picture.
        name: Distinguishes its identifiers from those of the other pictures of the page.
    """
    title = figure.get_suptitle()
    figure.suptitle("")
    buffer = StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"\s*<defs>\s*<style.*?</defs>", "", svg, count=1, flags=re.DOTALL)  # it would style the whole page
    svg = re.sub(r' id="(?![mp][0-9a-f]{10}")[^"]*"', "", svg)  # names of groups: equal in every picture
    svg = re.sub(r" font-family: [^;\"]*;?", "", svg)
    svg = svg.replace("<svg", f'<svg class="picture" role="img" aria-label="{title}"', 1)
    for color, variable in THEME.items():
        svg = svg.replace(color, f"var(--{variable})")
    return svg
