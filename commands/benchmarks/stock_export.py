"""What a tutorial's `torch.onnx.export` makes of a model: what our own files are measured against."""

import logging
import warnings
from pathlib import Path

from shared.conversion.capture import recurrent_by_shape

import torch
from torch import Tensor, nn


def export_stock(model: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    """Export with the exporter's own choices: a dynamic batch, one file, nothing simplified afterwards.

    The graph is the one that `torch.onnx.export` alone makes. Of a recurrent layer it is only found sooner, which shows
    in two of the notes that the exporter leaves in the file (`metadata_props`): they are some bytes shorter.

    Args:
        model: In evaluation mode.
        inputs: What `forward` takes; the first axis of each is the batch, of two rows at least.
        path: Of the ONNX file.
    """
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), recurrent_by_shape():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            model,
            inputs,
            path,
            dynamo=True,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            external_data=False,
            verbose=False,
        )
