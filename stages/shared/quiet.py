"""Import coremltools without its messages about what a plain Linux installation lacks."""

import importlib
import logging
from types import ModuleType


def import_coremltools() -> ModuleType:
    """Import and return coremltools; its later warnings are left alone.

    On import it warns that the Core ML framework is absent (everywhere but on macOS) and that it was not tested with
    the installed versions of torch and scikit-learn. Pinned versions and our own tests answer that.
    """
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return importlib.import_module("coremltools")
    finally:
        logger.setLevel(level)
