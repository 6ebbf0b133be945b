"""What a model file declares of itself: the form of its tensors, and the names that it stores."""

from pydantic import BaseModel, ConfigDict


class Interface(BaseModel):
    """What a file declares of itself, also as a record of its execution holds it.

    Attributes:
        input_name: Name of the input tensor; None where the format has no names.
        lengths_name: Name of the input of lengths; None where there is none, or the format has no names.
        output_name: Name of the output tensor; None where the format has no names.
        input_axes: Of the input tensor: a size, or the name or the range ("1..4096") of a dynamic axis.
        output_axes: The same of the output; None where the file declares none, as Core ML does if a size is dynamic.
        dtypes: Of the input, the lengths if there are any, and the output.
        features: Names of the values at each time step, in the order of the input's last axis.
        classes: Names of the classes, in the order of the logits.
        largest_batch: The largest batch that the file accepts; None if there is no limit.
        dynamic_time: Whether the file accepts sequences of any number of time steps.
        largest_time: The largest number of time steps that it accepts; None if there is no limit.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    input_name: str | None
    lengths_name: str | None
    output_name: str | None
    input_axes: list[int | str]
    output_axes: list[int | str] | None
    dtypes: list[str]
    features: list[str]
    classes: list[str]
    largest_batch: int | None
    dynamic_time: bool
    largest_time: int | None

    @property
    def takes_lengths(self) -> bool:
        """Whether the file has a second input, of the sequences' lengths."""
        return len(self.dtypes) == 3
