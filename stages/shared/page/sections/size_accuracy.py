"""Size on disk against accuracy."""

from dataclasses import dataclass
from typing import Any

from shared.kit.stage import rounded
from shared.page.pictures import FORMAT_COLORS, FORMAT_NAMES, GROUND, SOFT, name_figure
from shared.page.run import Run

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import Bbox

FORMAT_MARKERS = {"onnx": "o", "coreml": "s", "coreai": "D", "executorch": "^"}


@dataclass(frozen=True)
class Point:
    """One file in the picture of size against accuracy."""

    format: str
    variant: str
    kilobytes: float
    accuracy: float
    fit_to_ship: bool
    recommended: bool


def points_of(run: Run) -> list[Point]:
    """The files of which both figures are known."""
    return [
        Point(
            format=file.format,
            variant=file.variant,
            kilobytes=rounded(file.bytes / 1e3),
            accuracy=file.task["accuracy"],
            fit_to_ship=file.objection is None,
            recommended=file in run.best,
        )
        for file in run.exported
        if file.task and file.size
    ]


def draw(run: Run) -> Figure:
    """Size against accuracy of the run's files."""
    assert run.reference.task
    return draw_points(points_of(run), run.reference.task["accuracy"], allowed_of(run))


def allowed_of(run: Run) -> dict[str, float]:
    """How much accuracy a file may lose, by what the picture calls it: one for all formats, or one for each."""
    formats = {file.format: run.accuracy_limit(file.format) for file in run.exported}
    limits = {name: limit for name, limit in formats.items() if limit is not None}
    if len(set(limits.values())) == 1 and len(limits) == len(formats):
        return {"allowed": next(iter(limits.values()))}
    return {f"allowed {FORMAT_NAMES[name]}": limit for name, limit in limits.items()}


def draw_points(points: list[Point], reference: float, allowed: dict[str, float]) -> Figure:
    """Size on disk against accuracy on the test split: filled where a file is fit to ship, ringed where recommended.

    A file that is far below the others lies at the lower edge, with its accuracy beside it: they would be one line.
    """
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    floor = reference - 6 * max([0.001, *allowed.values()])
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
    lines: dict[str, tuple[float, Any]] = {"PyTorch": (reference, "solid")}
    lines |= {name: (reference - limit, (0, (4, 3))) for name, limit in allowed.items()}
    for name, (height, style) in lines.items():
        axes.axhline(height, color=SOFT, linewidth=1, linestyle=style)
        axes.annotate(name, (1, height), (4, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
                      va="center", fontsize=8, color=SOFT)  # fmt: skip
    shown = [*(height for height, _ in lines.values()), *(max(point.accuracy, floor) for point in points)]
    room = max(max(shown) - min(shown), 0.004)
    axes.set_ylim(min(shown) - 0.25 * room, max(shown) + 0.35 * room)
    axes.set_xlim(0, 1.12 * max([1.0, *(point.kilobytes for point in points)]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1 if room > 0.006 else 2))
    axes.set(xlabel="size on disk (kB)", ylabel="accuracy")
    name_figure(figure, "Size against accuracy")
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
