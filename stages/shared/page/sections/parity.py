"""How far each file's logits are from PyTorch's."""

from shared.page.pictures import FORMAT_COLORS, FORMAT_NAMES, LINE, name_figure
from shared.page.run import Run

import numpy as np
from matplotlib.figure import Figure


def draw(run: Run) -> Figure:
    """How far each file's logits are from PyTorch's: one histogram a file, one panel a format."""
    parity = run.in_order(run.parity)
    used = [each for each in parity if each.logits > 0]
    files: dict[str, list[str]] = {}
    for format_name, variant in dict.fromkeys((each.format, each.variant) for each in used):
        files.setdefault(format_name, []).append(variant)
    heights = [len(variants) for variants in files.values()]
    figure = Figure(figsize=(5.2, 0.42 * sum(heights) + 0.45 * len(heights) + 0.6), layout="constrained")
    name_figure(figure, "Difference from PyTorch")
    if not files:
        return figure
    # The first bin, which starts at zero, is drawn as wide as the others.
    floor = np.log10(min(each.high for each in parity))
    highest = [each.high for each in used]
    left, right = np.log10(min(highest)) - 0.4, np.ceil(np.log10(max(highest)))
    panels = figure.subplots(len(files), sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (name, variants) in zip(panels, files.items(), strict=True):
        for row, variant in enumerate(variants):
            bins = [each for each in parity if (each.format, each.variant) == (name, variant)]
            high = np.log10([each.high for each in bins])
            logits = np.array([each.logits for each in bins])
            edges = np.concatenate([[high[0] - 1 / 3], high])
            base = len(variants) - 1 - row
            height = 0.8 * logits / logits.max()
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
