"""What the files were asked beside the test split: the probes, and what kind each feature is of."""

from typing import Any

from shared.page.formatting import format_figure
from shared.page.pictures import BLUE, ORANGE, SOFT, name_figure
from shared.page.run import Run

import numpy as np
from matplotlib.figure import Figure

ASKED = {
    "rows": "real rows",
    "padding_values": "the same, and other values after their ends",
    "padding_nan": "the same, and NaN after their ends",
    "padding_longer": "the same, and more steps of padding",
    "unpadded": "the same, each at its own length",
    "far": "values outside the data's range, in combinations that the data do not hold",
    "zeros": "nothing but zeros",
    "constant": "one value at every step",
    "quiet": "a thousandth of the data's scale, around zero and around the mean",
    "gap": "real rows, of which one step is zero or at the mean",
    "edge": "the largest values that float16 can hold",
}
FEATURES_SHOWN = 3
COLUMNS = 3


def draw(run: Run) -> Figure:
    """One sequence of each probe, as far as the records show it: a line a feature, each panel on a scale of its own."""
    probes = run.record.get("probes", {})
    rows = max(1, -(-len(probes) // COLUMNS))
    figure = Figure(figsize=(6.2, 1.15 * rows + 0.4), layout="constrained")
    name_figure(figure, "What else the files were asked")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, (name, probe) in zip(panels, probes.items(), strict=False):
        for feature, color in zip(probe["example"], (BLUE, ORANGE, SOFT), strict=False):
            axes.plot(range(len(feature)), np.array(feature, np.float64), color=color, linewidth=1, marker=".", ms=2)
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=6.5)
    for axes in panels[len(probes) :]:
        axes.set_visible(False)
    return figure


def content(run: Run) -> dict[str, Any]:
    """Each probe with the range of its values, and whether PyTorch's own net answers it; the features of codes."""
    features = run.schema.features[:FEATURES_SHOWN]
    probes = []
    for name, probe in run.record.get("probes", {}).items():
        ends = zip(probe["lowest"], probe["highest"], strict=True)
        ranges = [f"{format_figure(low)} to {format_figure(high)}" for low, high in ends]
        kind, _, steps = name.partition("@")
        asked = ASKED.get(kind, "") + (f", {steps} steps long" if steps else "")
        probes.append(
            probe | {"name": name, "asked": asked, "ranges": ranges[:FEATURES_SHOWN], "answer": answer(probe)}
        )
    kinds = run.record.get("features", {})
    return {
        "probes": probes,
        "features": features,
        "hidden": len(run.schema.features) - len(features),
        "coded": {name: kind for name, kind in kinds.items() if kind["kind"] == "codes"},
    }


def answer(probe: dict[str, Any]) -> str:
    """What PyTorch's net gives."""
    if "failure" in probe:
        return f"refused: {probe['failure']}"
    return "finite" if np.isfinite(np.array(probe["logits"], np.float64)).all() else "not finite"
