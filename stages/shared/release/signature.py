"""How a released file is called: its tensors, their shapes, types and meaning, and what a number in them may be."""

from typing import Any

from shared.data.sequences import Schema
from shared.execution.interface import Interface


def signature_of(interface: Interface, schema: Schema) -> dict[str, Any]:
    """The signature of one file, as plain data.

    Args:
        interface: What the file declares.
        schema: Of the data that the model was made from.
    """
    batch, time, *_ = interface.input_axes
    inputs: dict[str, Any] = {
        "name": interface.input_name,
        "dtype": interface.dtypes[0],
        "shape": [batch, time, len(schema.features)],
        "axes": ["batch", "time", "feature"],
        "meaning": "raw values, as in the table: whatever the model does with them first is inside it",
        "features": [
            {"name": name, "mean": mean, "deviation": deviation}
            for name, mean, deviation in zip(schema.features, schema.mean, schema.deviation, strict=True)
        ],
        "finite": "infinite values and NaN are not allowed, but after the end of a shorter sequence",
    }
    lengths: dict[str, Any] | None = None
    if interface.lengths_name is not None:
        lengths = {
            "name": interface.lengths_name,
            "dtype": interface.dtypes[1],
            "shape": [batch],
            "meaning": "how many time steps of each sequence count; what comes after them makes no difference",
            "range": [1, interface.largest_time or schema.time_steps],
            "out_of_range": "taken as the nearest end of the range",
        }
    return {
        "inputs": [tensor for tensor in (inputs, lengths) if tensor is not None],
        "outputs": [
            {
                "name": interface.output_name,
                "dtype": interface.dtypes[-1],
                "shape": [batch, len(schema.classes)],
                "meaning": "logits, one a class, in the order of labels.json: no softmax has been applied; the class "
                "is the one with the largest logit, and softmax gives the probabilities",
            }
        ],
        "largest_batch": interface.largest_batch,
        "time_steps": "any" if interface.dynamic_time else schema.time_steps,
    }
