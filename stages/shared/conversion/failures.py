"""What a converter raises -> one line that names the operation, the module of the net, and what to write instead."""

import contextlib
import io
import logging
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shared.files.formats import EXPORTED, FORMATS
from shared.kit.stage import StageError, machine_fault, one_line

if TYPE_CHECKING:
    from torch import nn

INSTEAD = {
    "pack_padded_sequence": "read every sequence to its end, and take the step at its length: last_step() of "
    "shared/network/architectures/recurrent.py",
    "proj_size": "an nn.LSTM without it, or a loop over nn.LSTMCell and nn.Linear",
    "a branch on values": "torch.where, which computes both sides",
    "fft": "a product with the sines and cosines as a buffer",
    "permute_copy": "(x * vector).sum(-1) for torch.matmul(x, vector), or other operations of torch",
    "adaptive_max_pool": "amax over the axis, or nn.MaxPool1d with a kernel of its own",
    "empty_dim_order": "torch.cat of the ends for a circular padding; no tensor made by torch.empty",
    "stft": "an nn.Conv1d with the sines and cosines as its weights",
    "cummax": "nn.MaxPool1d over a window, or amax over all steps",
    "linalg": "a fixed number of products and sums",
    "nonzero": "torch.where with a mask: its result has one shape",
    "masked_select": "torch.where with a mask: its result has one shape",
}
"""What to write instead, by a part of an operation's name."""

EXPORTERS = ("torch.onnx", "torch.export", "torch.fx", "torch._dynamo", "onnxscript")
LONGEST_REASON = 160  # characters of a library's own words
COREML_LOG = re.compile(r"converting '([^']+)' op \(located at: '([^']*)'\)")
COLOUR = re.compile(r"\x1b\[\d*m")


class Unsupported(Exception):  # noqa: N818 - becomes a StageError where it is caught
    """An operation that a converter is known to get wrong, found before it does.

    Attributes:
        operation: As its author knows it.
        module: Where it is, if that is known; else it is where this was raised.
        instead: What to write; None: see `INSTEAD`.
    """

    def __init__(self, operation: str, module: str | None = None, instead: str | None = None) -> None:
        super().__init__("it would be converted wrongly, or not at all")
        self.operation, self.module, self.instead = operation, module, instead


class _LastRecord(logging.Handler):
    """Keeps what a library logged last: coremltools says there which operation it failed at, and where that is."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


@contextmanager
def explained(net: "nn.Module", file_format: str) -> Iterator[None]:
    """The one place that makes an error of the user's out of whatever a converter raises, and keeps it quiet before.

    Raises:
        StageError: Something was raised. One of our own goes through as it is.
    """
    logger, record = logging.getLogger("coremltools"), _LastRecord()
    level, propagates, handlers = logger.level, logger.propagate, logger.handlers
    logger.handlers, logger.propagate = [record], False
    logger.setLevel(logging.ERROR)
    exporters = [logging.getLogger(name) for name in EXPORTERS]
    levels = [each.level for each in exporters]
    for each in exporters:
        each.setLevel(logging.CRITICAL + 1)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars, and graphs that were half done
            yield
    except StageError:
        raise
    except Exception as error:  # the libraries' exceptions have no common base
        if machine_fault(error):
            raise
        raise StageError(in_one_line(error, record.text, net, file_format)) from None
    finally:
        logger.handlers, logger.propagate = handlers, propagates
        logger.setLevel(level)
        for each, old in zip(exporters, levels, strict=True):
            each.setLevel(old)


def in_one_line(error: Exception, logged: str, net: "nn.Module", file_format: str) -> str:
    """Which operation of which module cannot be in that format, why, and what to write instead."""
    errors = list(_chain(error))
    operation, module, instead = _located(errors, logged, net)
    return cannot_carry(file_format, operation, module, COLOUR.sub("", one_line(errors[-1]))[:LONGEST_REASON], instead)


def cannot_carry(file_format: str, operation: str | None, module: str, reason: str, instead: str | None = None) -> str:
    """The one line.

    Args:
        file_format: That cannot carry it.
        operation: What; None if nobody knows.
        module: Of the net, where it is.
        reason: In the words of a library.
        instead: What to write; None: see `INSTEAD`.
    """
    instead = instead or next((words for part, words in INSTEAD.items() if part in (operation or "")), None)
    title, others = FORMATS[file_format].title, ", ".join(other for other in EXPORTED if other != file_format)
    return (
        f"{title} cannot carry {operation or 'an operation'} of {module}: {reason}; "
        f"instead: {instead or 'other operations of torch'}; or leave {title} out: export.formats: [{others}]"
    )


def _chain(error: Any) -> Iterator[Any]:
    """An error and those that led to it, the first cause last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _located(errors: list[Any], logged: str, net: "nn.Module") -> tuple[str | None, str, str | None]:
    """The operation, if it is known, the module that it is in, and what to write instead, if the error says so."""
    running = _running(errors, net)
    for error in errors:
        if isinstance(error, Unsupported):
            return error.operation, error.module or running, error.instead
        if type(error).__name__ == "GuardOnDataDependentSymNode":
            return "a branch on values", running, None
    if found := COREML_LOG.search(logged):
        names = [part for part in found[2].split("/") if part and not part.isdigit()]
        return found[1], ".".join(names) or running, None
    for node in _locals(errors, "node"):
        if hasattr(node, "meta") and hasattr(node, "target"):
            # The end of a graph is told by what is handed on there; what has an effect stands behind it.
            inputs = node.all_input_nodes if getattr(node, "op", None) == "output" else []
            node = inputs[-1] if inputs else node
            target = node.args[1] if str(node.target) == "with_effects" else node.target
            return str(getattr(target, "_opname", target)), module_of(node) or running, None
    return None, running, None


def module_of(node: Any) -> str | None:
    """The innermost module of the net that a node of a graph of torch's was called in, if it is known."""
    modules = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return modules[-1] if modules and modules[-1] else None


def _running(errors: list[Any], net: "nn.Module") -> str:
    """The innermost module of the net that was running when the first of the errors was raised."""
    names = {id(module): name for name, module in net.named_modules()}
    found = [names[id(each)] for each in _locals(errors[-1:], "self") if names.get(id(each))]
    return found[-1] if found else "network"


def _locals(errors: list[Any], name: str) -> list[Any]:
    """The values of a local variable in all frames that the errors went through."""
    frames = [frame for error in errors for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [frame.f_locals[name] for frame in frames if name in frame.f_locals]


def refuse_known(net: "nn.Module") -> None:
    """Find what every exporter writes down wrongly without an error.

    Raises:
        Unsupported: An LSTM projects its states.
    """
    for name, module in net.named_modules():
        if getattr(module, "proj_size", 0):
            raise Unsupported("proj_size", name)
