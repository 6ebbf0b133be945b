"""The architectures that `architecture.name` in params.yaml chooses from.

To add one, write a file here with one class, `class NewNet(Architecture, name="new_net")` (see `base.py`; the shortest
example is `mlp.py`), and put a block of its options into section `architecture`. Training, export, verification and
tests take it from there.
"""

import importlib
import pkgutil
from typing import Any, Literal

from shared.kit.params import StageParams
from shared.network.architectures.base import ARCHITECTURES, Architecture, Sizes

from pydantic import create_model

__all__ = ["ARCHITECTURES", "Architecture", "ArchitectureParams", "Choice", "Sizes"]

for module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{module.name}")  # its class registers itself


class Choice(StageParams):
    """Which architecture, and a block of options for each one that there is."""

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Of the chosen architecture alone."""
        chosen: StageParams = getattr(self, self.name)
        return chosen.model_dump()


_names = tuple(sorted(ARCHITECTURES))
_fields: dict[str, Any] = {"name": (Literal[_names], ...)} | {
    name: (ARCHITECTURES[name].Options, ...) for name in _names
}
ArchitectureParams = create_model(
    "ArchitectureParams",
    __base__=Choice,
    __doc__="Section `architecture`.",
    **({"name": (Literal[_names], ...)} | _fields),
)
