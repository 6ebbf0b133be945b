"""The page's sections, and where they stand.

A section is a module, a template of the same name beside it, and a place in `LAYOUT`. The template gets the run as
`run`, what the module's function `content` computes from it, and what its function `draw` draws as `picture`.
"""

from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from shared.page.run import Run
from shared.page.sections import (
    confusion,
    data,
    execution,
    files,
    findings,
    flips,
    heading,
    loss,
    machine,
    parameters,
    parity,
    probes,
    proof,
    recall,
    recommendation,
    requirements,
    size_accuracy,
)

from matplotlib.figure import Figure


@runtime_checkable
class Fed(Protocol):
    """A section whose template shows more than the run itself."""

    def content(self, run: Run) -> dict[str, Any]:
        """It, by the names that the template uses."""
        ...


@runtime_checkable
class Drawn(Protocol):
    """A section with a picture."""

    def draw(self, run: Run) -> Figure:
        """It, in the style of all pictures."""
        ...


LAYOUT: list[list[ModuleType]] = [
    [heading],
    [findings],
    [recommendation],
    [files],
    [requirements],
    [size_accuracy, loss, confusion, parity],
    [proof],
    [flips],
    [recall],
    [data],
    [probes],
    [parameters],
    [execution, machine],
]
"""From the top of the page down: sections of one row stand side by side where the window is wide enough."""
