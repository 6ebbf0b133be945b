"""Run a saved Core AI asset on Apple's own runtime, as it ships in the package coreai-core: on the CPU.

The device's runtime may give parts of the program to its GPU and its Neural Engine, which round otherwise.
"""

import asyncio
import atexit
import functools
import time
from pathlib import Path
from typing import Any

from shared.execution.isolation import forks_no_more
from shared.files.aimodel import MAIN, import_coreai
from shared.files.quiet import quiet

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LETTING_GO_SECONDS = 0.2
"""At the end of the process, for the runtime's threads to let go of what Python gave them: Python ends a thread that
asks for its lock later, and that Swift does not survive."""


class CoreAIFunction:
    """The graph `main` of an asset, ready to run.

    Attributes:
        inputs: The shape and the type of each input by its name: a size is None where any goes.
        outputs: The same of the outputs.
    """

    def __init__(self, path: Path) -> None:
        """Compile the asset for this machine, and load it.

        Raises:
            Exception: Whatever the runtime raises over a damaged asset.
        """
        authoring = import_coreai()
        _before_first_use()
        self._array = import_coreai("coreai.runtime").NDArray
        self._loop = asyncio.new_event_loop()
        with quiet():
            self._function = self._loop.run_until_complete(self._load(authoring.AIModelAsset.load(path)))
        described = self._function.desc
        self.inputs = {name: _form(described.input_descriptor(name)) for name in described.input_names}
        self.outputs = {name: _form(described.output_descriptor(name)) for name in described.output_names}

    async def _load(self, asset: Any) -> Any:
        # What it is compiled to is read while it is loaded, and lies in a temporary folder for so long.
        async with asset.executable() as model:
            return model.load_function(MAIN)

    def __call__(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Run it once."""
        arrays = {name: self._array(np.ascontiguousarray(array)) for name, array in inputs.items()}
        outputs = self._loop.run_until_complete(self._function(arrays))
        return {name: np.array(array.numpy()) for name, array in outputs.items()}

    def __del__(self) -> None:
        """An event loop holds files open."""
        if hasattr(self, "_loop"):
            self._loop.close()


@functools.cache
def _before_first_use() -> None:
    forks_no_more()
    atexit.register(time.sleep, LETTING_GO_SECONDS)


def _form(described: Any) -> tuple[list[int | None], str]:
    return [None if size is None or size < 0 else int(size) for size in described.shape], str(described.dtype)
