"""Import coremltools quickly, and without its messages about what a plain Linux installation lacks."""

import importlib
import logging
import sys
from types import ModuleType

CONVERTERS_ONLY = ("torch", "sklearn")  # what coremltools imports for its converters alone: most of its own import time
UNUSED = ("torchao",)  # it would import this too where Core AI's packages have brought it: seconds, and warnings


def import_coremltools() -> ModuleType:
    """Import and return coremltools; its later warnings are left alone.

    On import it warns that the Core ML framework is absent (everywhere but on macOS) and that it was not tested with
    the installed versions of torch and scikit-learn. Pinned versions and our own tests answer that.

    A process that has not imported torch by then converts nothing from it, so coremltools does not get to see it.
    """
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    hides = () if "coremltools" in sys.modules else (*CONVERTERS_ONLY, *UNUSED)
    hidden = {name: None for name in hides if name not in sys.modules}
    sys.modules.update(hidden)  # type: ignore[arg-type]  # None: importing it fails, as if it were not installed
    try:
        return importlib.import_module("coremltools")
    finally:
        logger.setLevel(level)
        for name in hidden:
            del sys.modules[name]
