"""The model card: what a released model does, on which data, how well, and where that was proved."""

from pathlib import Path
from typing import Any

from shared.conversion.export import ExportParams
from shared.data.sequences import Schema
from shared.files.formats import EXECUTORS
from shared.judging.recommendation import Candidate, Choice
from shared.page.formatting import escape_markdown, format_change, format_executor, format_figure
from shared.release.bill import library, made_with

import jinja2

TEMPLATE = Path(__file__).parent / "model-card.md.jinja"


def render_card(
    name: str, export: ExportParams, schema: Schema, choices: list[Choice], source: Candidate,
    training: dict[str, Any], vectors: int, left_out: dict[str, str],
) -> bytes:  # fmt: skip
    """Fill the card.

    Args:
        name: Of the bundle.
        export: Section `export` of params.yaml.
        schema: Of the prepared data.
        choices: What is recommended to each class of devices.
        source: PyTorch's net itself.
        training: The figures of training.
        vectors: How many golden vectors the bundle holds.
        left_out: Why ONNX files are not in it in ORT format too, by their names.
    """
    recommended = {choice.best.file: choice for choice in choices if choice.best}
    environment = jinja2.Environment(
        autoescape=False,  # noqa: S701 - Markdown has the filter `md`
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "change": format_change,
        "count": lambda number: f"{number:,}",
        "executor": format_executor,
        "figure": format_figure,
        "md": escape_markdown,
        "percent": lambda share: f"{100 * share:.2f}%",
    }
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    content = {
        "name": name,
        "export": export,
        "schema": schema,
        "choices": choices,
        "source": source,
        "executors": EXECUTORS,
        "files": [(recommended[file].best, recommended[file]) for file in sorted(recommended)],
        "training": training,
        "vectors": vectors,
        "left_out": left_out,
        "libraries": [library(package) for package in made_with(recommended)],
        "steps": "{} to {}".format(*schema.length_range) if schema.ragged else str(schema.time_steps),
    }
    return template.render(content).encode()
