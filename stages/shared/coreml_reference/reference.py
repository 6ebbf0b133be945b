"""The evaluator's public face, with the interface of coremltools' `MLModel`."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shared.coreml_reference.allocator import keep_freed_memory
from shared.coreml_reference.errors import EvaluationError, InputError, PackageError, UnsupportedError, reported
from shared.coreml_reference.features import Feature
from shared.coreml_reference.interpreter import LOOP_PASSES, LOOP_SECONDS, Compute, Interpreter, Overflow
from shared.coreml_reference.ops.state import StateValue
from shared.coreml_reference.program import SavedProgram, load_program

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class ReferenceState:
    """The states of a model that outlive a prediction, zero at first; made by `CoreMLReference.make_state()`."""

    def __init__(self, features: Mapping[str, Feature]) -> None:
        self._features = dict(features)
        self.values = {name: StateValue(_working(np.zeros(f.shape, f.dtype))) for name, f in features.items()}

    def read_state(self, name: str) -> Array:
        """Return a copy of one state in its declared dtype."""
        feature = self._feature(name)
        return self.values[name].value.astype(feature.dtype)

    def write_state(self, name: str, value: Any) -> None:
        """Replace one state."""
        self.values[name].value = _working(self._feature(name).convert(value))

    def _feature(self, name: str) -> Feature:
        if name not in self._features:
            raise InputError(f"no state {name!r}; the model has {_names(self._features)}")
        return self._features[name]


class CoreMLReference:
    """Runs one function of a saved ML Program on any machine.

    Args:
        path: The .mlpackage.
        function_name: Which function of a package with several; the package's default one if left out.
        compute: "declared" rounds every op's result to the dtype that the program declares; it is computed in float32
            where the op's kernel says that this is enough, in float64 elsewhere. "exact" computes in float64 without
            rounding and returns float64, so that the distance between the two is what the precision costs.
        loop_passes: The most passes that the loops of one prediction may take together.
        loop_seconds: The most time that a prediction with loops may take.

    Loading runs the program once at its default shape, as Core ML does, so that a program whose shapes contradict each
    other fails here. What is not modelled is the order and the precision of sums inside one op on Apple's hardware.
    """

    def __init__(
        self,
        path: Path | str,
        function_name: str | None = None,
        compute: Compute = "declared",
        loop_passes: int = LOOP_PASSES,
        loop_seconds: float = LOOP_SECONDS,
    ) -> None:
        keep_freed_memory()
        self.program: SavedProgram = load_program(path, function_name)
        self.compute = compute
        self.inputs: dict[str, Feature] = self.program.inputs
        self.outputs: dict[str, Feature] = self.program.outputs
        self.states: dict[str, Feature] = self.program.states
        for feature in (*self.inputs.values(), *self.outputs.values()):
            if feature.kind == "image":
                raise UnsupportedError(
                    f"{path}: {feature.name!r} is an image, which is not supported: convert with ct.TensorType instead"
                )
        with reported(PackageError, path):
            self._interpreter = Interpreter(self.program, compute, loop_passes, loop_seconds)
            self.check_default_shape()

    @property
    def input_description(self) -> dict[str, str]:
        """What the author wrote of each input."""
        return {name: feature.description for name, feature in self.inputs.items()}

    @property
    def output_description(self) -> dict[str, str]:
        """What the author wrote of each output."""
        return {name: feature.description for name, feature in self.outputs.items()}

    @property
    def user_defined_metadata(self) -> dict[str, str]:
        """The metadata stored in the package."""
        return self.program.user_defined_metadata

    @property
    def operations(self) -> Counter[str]:
        """How many ops of each type the function has, constants left out."""
        return Counter(operation.op_type for operation in self.program.operations)

    @property
    def overflows(self) -> list[Overflow]:
        """The ops whose finite result became infinite in the declared dtype, in any prediction so far."""
        return self._interpreter.overflows

    def make_state(self) -> ReferenceState:
        """Make the state that a stateful model carries from one prediction to the next, all zeros."""
        return ReferenceState(self.states)

    def predict(self, data: Mapping[str, Any], state: ReferenceState | None = None) -> dict[str, Any]:
        """Compute the outputs by name for the inputs by name.

        Arrays come back in the dtype of the model's interface (float64 if `compute="exact"`), scalars in shape (1,); a
        classifier returns its label and a dictionary of probabilities.
        """
        with reported(EvaluationError, self.program.path):
            outputs = self._interpreter.run(self.arguments(data, state))
        names = [variable.name for variable in self.program.function.outputs]
        return {name: self._returned(name, value) for name, value in zip(names, outputs, strict=True)}

    def set_constants(self, values: Iterable[tuple[Any, Array]]) -> None:
        """Compute with other values in the place of stored ones, given by the variables of `program` that hold them."""
        for variable, array in values:
            variable._sym_val.val = np.asarray(array, variable.val.dtype).reshape(variable.val.shape)
        self._interpreter = Interpreter(self.program, self.compute)

    def check_default_shape(self) -> None:
        """Run on zeros of the default shape and check every op's result against its declaration."""
        zeros = {name: np.zeros(feature.shape, feature.dtype) for name, feature in self.inputs.items()}
        try:
            self._interpreter.check_shapes(self.arguments(zeros, self.make_state()))
        except EvaluationError as error:
            raise EvaluationError(f"{self.program.path}: at the model's default shape, {error}") from error

    def arguments(self, data: Mapping[str, Any], state: ReferenceState | None = None) -> dict[str, Any]:
        """Check a prediction's inputs and return what the program starts from: its arrays and states by name."""
        unknown = [name for name in data if name not in self.inputs]
        if unknown:
            raise InputError(f"no input {unknown[0]!r}; the model has {_names(self.inputs)}")
        if self.states and state is None:
            raise InputError(f"the model has states ({_names(self.states)}): pass state=make_state()")
        arguments: dict[str, Any] = {}
        for name, feature in self.inputs.items():
            value = data.get(name)
            if value is None:
                if feature.default is None:
                    raise InputError(f"input {name!r} is missing: {feature.dtype} {feature.shape_text()}")
                value = np.full(feature.shape, feature.default)
            arguments[name] = feature.convert(value)
            declared = self._interpreter.inputs[name].shape
            if arguments[name].shape == (1,) and declared == ():
                arguments[name] = arguments[name].reshape(())
        for name in self.states:
            if state is None or name not in state.values:
                raise InputError(f"the state was not made by this model: it has no {name!r}")
            arguments[name] = state.values[name]
        return arguments

    def _returned(self, name: str, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        dtype = self.outputs[name].dtype
        if dtype is not None and not (self.compute == "exact" and dtype.kind == "f"):
            with np.errstate(over="ignore"):
                value = value.astype(dtype)
        return value.reshape(1) if value.ndim == 0 else np.array(value, order="C")


def _working(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _names(features: Mapping[str, Feature]) -> str:
    return ", ".join(features) or "none"
