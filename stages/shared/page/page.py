"""Sections in; the page (HTML), and the summary (Markdown), out."""

from pathlib import Path
from types import ModuleType

from shared.kit.text import printable
from shared.page.formatting import (
    escape_markdown,
    executor_titles,
    format_change,
    format_change_interval,
    format_executor,
    format_figure,
    format_figure_interval,
    format_interval,
    format_points,
    format_power,
    format_requirement,
    format_size,
    verdict,
)
from shared.page.pictures import FORMAT_NAMES, STYLE, to_svg
from shared.page.run import Run
from shared.page.sections import LAYOUT, Drawn, Fed

import jinja2
import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

FOLDER = Path(__file__).parent


def environment(*, escape: bool) -> jinja2.Environment:
    """Where templates are found, and what they can call; `escape` is for HTML."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=escape,  # noqa: S701 - Markdown has the filter `md`
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,  # not of what is HTML already
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "change": format_change,
        "change_interval": format_change_interval,
        "count": lambda number: f"{number:,}",
        "executor": format_executor,
        "executors": executor_titles,
        "figure": format_figure,
        "figure_interval": format_figure_interval,
        "interval": format_interval,
        "md": escape_markdown,
        "percent": lambda share, digits=2: f"{100 * share:.{digits}f}%",
        "points": format_points,
        "power": format_power,
        "requirement": format_requirement,
        "size": format_size,
        "verdict": verdict,
    }
    made.globals["format_names"] = FORMAT_NAMES
    return made


def name_of(section: ModuleType) -> str:
    """A section's name: that of its module, its template and its picture."""
    return section.__name__.rpartition(".")[2]


def draw_pictures(run: Run) -> dict[str, Figure]:
    """The picture of each section that has one."""
    with mpl.rc_context(STYLE):
        return {name_of(section): section.draw(run) for row in LAYOUT for section in row if isinstance(section, Drawn)}


def render_page(run: Run, pictures: dict[str, Figure]) -> bytes:
    """The whole page: the template of every section, filled by the section."""
    templates = environment(escape=True)

    def fill(section: ModuleType) -> Markup:
        name = name_of(section)
        content = section.content(run) if isinstance(section, Fed) else {}
        template = templates.get_template(f"sections/{name}.html.jinja")
        picture = Markup(to_svg(pictures[name], name)) if name in pictures else None  # noqa: S704
        return Markup(template.render(run=run, picture=picture, **content))  # noqa: S704

    rows = [[fill(section) for section in row] for row in LAYOUT]
    return templates.get_template("page.html.jinja").render(run=run, rows=rows).encode()


def render_summary(run: Run) -> bytes:
    """Which file to ship, and a table of all, for a comment on a pull request."""
    return environment(escape=False).get_template("summary.md.jinja").render(run=run).encode()
