"""How far each file's logits are from PyTorch's."""

from shared.page.pictures import FORMAT_COLORS, FORMAT_NAMES, LINE, name_figure
from shared.page.run import Run

import numpy as np
from matplotlib.figure import Figure


def draw(run: Run) -> Figure:
    """How far each file's logits are from PyTorch's: one histogram a file, one panel a format."""
    parity = run.in_order(run.parity)
    used = parity[parity["logits"] > 0]
    formats = list(dict.fromkeys(used["format"]))
    heights = [used.loc[used["format"] == name, "variant"].nunique() for name in formats]
    figure = Figure(figsize=(5.2, 0.42 * sum(heights) + 0.45 * len(heights) + 0.6), layout="constrained")
    name_figure(figure, "Difference from PyTorch")
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
