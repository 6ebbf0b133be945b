"""Import coremltools quickly and quietly: a copy of its own, so that this folder needs nothing but itself.

coremltools warns that the Core ML framework is absent and that it was not tested with the installed versions of torch
and scikit-learn, which it imports for its converters alone. Loading a saved program needs neither; nor what compresses
nets of torch, which it would import in a process that has torch, with most of torch.distributed.
"""

import gc
import importlib
import logging
import sys
from types import ModuleType

TORCH_COMPRESSOR = "coremltools.optimize.torch"


def import_coremltools() -> None:
    """Import coremltools without its messages; a process without torch and scikit-learn stays without them.

    `coremltools.optimize.torch` can still be imported afterwards.
    """
    if "coremltools" in sys.modules:
        return
    logger = logging.getLogger("coremltools")
    level, collects = logger.level, gc.isenabled()
    hidden = [name for name in ("torch", "sklearn", "torchao") if name not in sys.modules]
    logger.setLevel(logging.ERROR)
    gc.disable()  # to look for garbage in what comes now takes a fifth of the time, and it stays
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: as if it were not installed
    sys.modules[TORCH_COMPRESSOR] = ModuleType(TORCH_COMPRESSOR)
    try:
        importlib.import_module("coremltools")
    finally:
        logger.setLevel(level)
        if collects:
            gc.freeze()
            gc.enable()
        for name in (*hidden, TORCH_COMPRESSOR):
            del sys.modules[name]
