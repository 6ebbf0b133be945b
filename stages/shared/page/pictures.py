"""The look of all pictures, and how a figure becomes a PNG file, or an SVG in the colours of the page around it."""

import re
from io import BytesIO, StringIO
from typing import Any

from shared.files.formats import FORMATS

import matplotlib as mpl
from matplotlib.figure import Figure

INK, SOFT, LINE, GROUND = "#1f2937", "#6b7281", "#e5e7eb", "#ffffff"
BLUE, ORANGE, VIOLET, TEAL, GOOD = "#2563eb", "#c2410c", "#7c3aed", "#0f766e", "#15803d"
THEME = {
    INK: "ink",
    SOFT: "soft",
    LINE: "line",
    GROUND: "ground",
    BLUE: "blue",
    ORANGE: "orange",
    VIOLET: "violet",
    TEAL: "teal",
    GOOD: "good",
}
"""The colours of the pictures, and the page's CSS variables that take their place in an SVG."""

FORMAT_NAMES = {name: each.title for name, each in FORMATS.items()}
FORMAT_COLORS = {"pytorch": SOFT, "onnx": BLUE, "coreml": ORANGE, "coreai": VIOLET, "executorch": TEAL}
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


def name_figure(figure: Figure, title: str) -> None:
    """Write the title that stands over the picture where it is a file of its own."""
    figure.suptitle(title, x=0.01, ha="left", weight="bold", size=11)


def to_png(figure: Figure) -> bytes:
    """The picture as PNG, without the version of the library in it."""
    buffer = BytesIO()
    with mpl.rc_context(STYLE):
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
    with mpl.rc_context(STYLE | {"svg.hashsalt": name}):
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
