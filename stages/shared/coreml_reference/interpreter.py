"""Run a program op by op: plan it once, then look up, compute, check, round and forget.

The plan resolves each op's kernel, decodes each constant and computes whatever depends on constants alone, so that a
run does none of it. Values live in a dictionary by slot, and leave it after the last op that reads them.
"""

import inspect
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from shared.coreml_reference import ops  # noqa: F401 (fills the registry)
from shared.coreml_reference.errors import CoreMLReferenceError, EvaluationError, UnsupportedError
from shared.coreml_reference.features import LARGEST_TENSOR
from shared.coreml_reference.program import DeclaredShape, SavedProgram
from shared.coreml_reference.registry import KERNELS, MOVING, REFUSED, SINGLE, Kernel
from shared.coreml_reference.rounding import FORMATS, rounded

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Compute = Literal["declared", "exact"]

# Of all loops in one prediction together; what needs more is taken for one that does not end.
LOOP_PASSES = 1_000_000
LOOP_SECONDS = 600.0
# Not computed ahead even where every argument is a constant: the blocks of "cond" and "while_loop" may read values that
# are not, and the results of "make_list" and "classify", a list and a dictionary, cannot be frozen as arrays are.
NOT_FOLDED = {"cond", "while_loop", "make_list", "classify"}


@dataclass(frozen=True)
class Result:
    """What the program declares of one value.

    Attributes:
        name, slot: Its name, and its key among the live values.
        dtype: Its numpy dtype; None for what is no tensor (a list, a string, a dictionary).
        shape: Sizes: an int, or a symbol or an expression of symbols (sympy) for what is known only at run time.
        fixed: The shape, where every size is an int.
    """

    name: str
    slot: int
    dtype: np.dtype[Any] | None
    shape: tuple[Any, ...] = ()
    fixed: tuple[int, ...] | None = None


@dataclass
class Step:
    """One op, ready to run.

    Attributes:
        title: The op's name in messages.
        operation: The op in memory.
        kernel: The function that computes it.
        constants: The arguments that are known already.
        variables: The other arguments: name and slot, or for a tuple of values a list of slots.
        results: What comes out.
        release: The slots that nothing reads after this op.
        unread: The slots of results that nothing reads at all.
        rounded: Whether the results need no rounding, since they hold elements that were rounded to the same dtype.
        single: Whether the kernel computes in float32 what is held in it.
        takes_execution: Whether the kernel asks for the running `Execution`, to run blocks.
        sized_by_values: Whether the shapes of the results can depend on the values of the function's inputs.
    """

    title: str
    operation: Any
    kernel: Kernel
    constants: dict[str, Any]
    variables: list[tuple[str, int | list[int]]]
    results: list[Result]
    release: list[int] = field(default_factory=list)
    unread: set[int] = field(default_factory=set)
    rounded: bool = False
    single: bool = False
    takes_execution: bool = False
    sized_by_values: bool = False


@dataclass
class Plan:
    """One block, ready to run."""

    inputs: list[Result]
    steps: list[Step]
    outputs: list[int]
    own: set[int]


@dataclass(frozen=True)
class Overflow:
    """An op whose finite result is infinite in the dtype that the program declares."""

    op_name: str
    op_type: str
    dtype: str

    def __str__(self) -> str:
        return f"op {self.op_name!r} ({self.op_type}): a finite result is infinite in {self.dtype}"


class Interpreter:
    """Runs one function of a program, any number of times.

    Args:
        program: The function, as loaded.
        compute: "declared" rounds every result to the dtype that the program declares, and holds it in float32; "exact"
            stays in float64.
        loop_passes, loop_seconds: The most that the loops of one run may take.
    """

    def __init__(
        self,
        program: SavedProgram,
        compute: Compute = "declared",
        loop_passes: int = LOOP_PASSES,
        loop_seconds: float = LOOP_SECONDS,
    ) -> None:
        if compute not in ("declared", "exact"):
            raise ValueError(f'compute={compute!r}: expected "declared" or "exact"')
        self.loop_passes = loop_passes
        self.loop_seconds = loop_seconds
        self.exact = compute == "exact"
        self.declared_shapes = program.declared_shapes
        self.overflows: list[Overflow] = []
        self.folded: list[Step] = []
        self.values: dict[int, Any] = {}
        self.plans: dict[int, Plan] = {}
        self._slots: dict[int, int] = {}
        self._kinds: dict[int, str] = {}
        self._from_shapes: set[int] = set()
        self.inputs = {name: self._result(variable) for name, variable in program.function.inputs.items()}
        with np.errstate(all="ignore"):
            self.main = self._plan(program.function, list(self.inputs.values()))

    def run(self, inputs: dict[str, Any]) -> list[Any]:
        """Compute the function's outputs, in order, from arrays and states by name; `inputs` is emptied on the way."""
        execution = Execution(self)
        with np.errstate(all="ignore"):
            execution.enter(self.main, [inputs.pop(name) for name in self.inputs])
            for step in self.main.steps:
                execution.execute(step)
            return execution.leave(self.main)

    def walk(self, inputs: dict[str, Any]) -> Iterator[tuple[Step, list[Any]]]:
        """Yield every op of the function (not of its nested blocks) with its results, constants' ops first."""
        execution = Execution(self)
        for step in self.folded:
            yield step, [self.values[result.slot] for result in step.results]
        with np.errstate(all="ignore"):
            execution.enter(self.main, [inputs[name] for name in self.inputs])
        for step in self.main.steps:
            with np.errstate(all="ignore"):
                results = execution.execute(step)
            yield step, results

    def check_shapes(self, inputs: dict[str, Any]) -> None:
        """Run the function on some values for the sake of its shapes alone.

        It ends at the first op whose result's shape follows from the inputs' values, or that cannot compute from them,
        for those mean nothing, and at the first loop, inside a branch too, which might never end on them.
        """
        execution = Execution(self, quiet=True, default_shape=True)
        with np.errstate(all="ignore"):
            execution.enter(self.main, [inputs[name] for name in self.inputs])
            for step in self.main.steps:
                if _holds_loop(step.operation):
                    return
                known = len(execution.sizes)
                try:
                    execution.execute(step)
                except EvaluationError:
                    if step.sized_by_values:
                        return
                    raise
                if len(execution.sizes) > known and step.sized_by_values:
                    return

    def report(self, overflow: Overflow) -> None:
        """Record and warn of an op's overflow, once."""
        if overflow not in self.overflows:
            self.overflows.append(overflow)
            warnings.warn(str(overflow), RuntimeWarning, stacklevel=2)

    def _plan(self, block: Any, inputs: list[Result]) -> Plan:
        steps: list[Step] = []
        for operation in block.operations:
            if operation.op_type == "const":
                self.values[self._slot(operation.outputs[0])] = self._decode(operation.outputs[0])
                continue
            step = self._step(operation)
            if step.variables or operation.op_type in NOT_FOLDED:
                steps.append(step)
            else:
                results = Execution(self).execute(step)
                for result, value in zip(step.results, results, strict=True):
                    self.values[result.slot] = _frozen(value)
                self.folded.append(step)
        own = {result.slot for result in inputs}.union(*({r.slot for r in step.results} for step in steps))
        plan = Plan(inputs, steps, [self._slot(variable) for variable in block.outputs], own)
        self._find_last_uses(plan)
        self.plans[id(block)] = plan
        return plan

    def _step(self, operation: Any) -> Step:
        title, op_type = f"op {operation.name!r} ({operation.op_type})", operation.op_type
        if op_type in REFUSED:
            raise UnsupportedError(f"{title}: {REFUSED[op_type]}")
        if op_type not in KERNELS:
            raise UnsupportedError(f"{title}: the evaluator has no kernel for this op")
        kernel = KERNELS[op_type]
        accepted = _parameters(kernel)
        single = SINGLE[op_type] or self.exact
        constants: dict[str, Any] = {}
        variables: list[tuple[str, int | list[int]]] = []
        for name, value in operation.inputs.items():
            if value is None or name.startswith("_"):
                continue
            if name not in accepted:
                raise UnsupportedError(f"{title}: its kernel takes no input {name!r}")
            slots = [self._slot(v) for v in value] if isinstance(value, list | tuple) else self._slot(value)
            if all(slot in self.values for slot in _flat(slots)):
                constants[name] = _argument(self.values, slots, single)
            else:
                variables.append((name, slots))
        for block in operation.blocks:
            self._plan(block, [self._result(variable) for variable in block.inputs])
        if "operation" in accepted:
            constants["operation"] = operation
        results = [self._result(variable) for variable in operation.outputs]
        # Values that follow from the inputs' shapes alone, as in `x.shape[0] * 2`.
        read = {slot for _, slots in variables for slot in _flat(slots)}
        if op_type == "shape" or (read <= self._from_shapes and not operation.blocks):
            self._from_shapes.update(result.slot for result in results)
        sizes = {slot for slot in read - self._from_shapes if self._kinds.get(slot) != "f"}
        return Step(
            title,
            operation,
            kernel,
            constants,
            variables,
            results,
            rounded=self._moves(operation, constants.get("mode"), results),
            single=single,
            takes_execution="execution" in accepted,
            sized_by_values=bool(sizes) or op_type in {"non_zero", "range_1d"},
        )

    @staticmethod
    def _moves(operation: Any, mode: Any, results: list[Result]) -> bool:
        """Whether an op only moves elements, and to where they have the same precision."""
        if MOVING[operation.op_type] not in (True, mode):
            return False
        dtypes = {_tensor_type(variable)[0] for variable in operation.get_flattened_inputs()}
        dtypes |= {result.dtype for result in results}
        return len([dtype for dtype in dtypes if dtype is not None and dtype.kind == "f"]) < 2

    def _find_last_uses(self, plan: Plan) -> None:
        needed = set(plan.outputs)
        for step in reversed(plan.steps):
            read = self._read(step)
            step.release = [slot for slot in read if slot in plan.own and slot not in needed]
            step.unread = {result.slot for result in step.results} - needed
            needed |= read

    def _read(self, step: Step) -> set[int]:
        slots = {slot for _, slots in step.variables for slot in _flat(slots)}
        for block in step.operation.blocks:
            plan = self.plans[id(block)]
            slots |= set(plan.outputs).union(*(self._read(inner) for inner in plan.steps))
        return slots

    def _decode(self, variable: Any) -> Any:
        """Turn a constant into what kernels take: text and lists as they are, the rest as arrays."""
        value = variable.val
        if value is None:  # a list, whose value coremltools keeps on the op
            value = variable.op.val.val
        if hasattr(value, "ls"):
            return value.ls
        if isinstance(value, str):
            return str(value)
        array = np.asarray(value)
        return _frozen(array.astype(self.held(array.dtype)) if array.dtype.kind == "f" else array)

    def held(self, dtype: np.dtype[Any]) -> type[np.floating[Any]]:
        """The type that holds values of a declared floating-point dtype."""
        return np.float64 if self.exact or dtype == np.float64 else np.float32

    def _slot(self, variable: Any) -> int:
        return self._slots.setdefault(id(variable), len(self._slots))

    def _result(self, variable: Any) -> Result:
        slot, (dtype, shape) = self._slot(variable), _tensor_type(variable)
        if dtype is None:
            return Result(variable.name, slot, None)
        shape = _merged(shape, self.declared_shapes.get(variable.name))
        fixed = all(isinstance(size, int) for size in shape)
        self._kinds[slot] = dtype.kind
        return Result(variable.name, slot, dtype, shape, shape if fixed else None)


class Execution:
    """One run of a program: the values that are alive, and the sizes that its symbols have taken."""

    def __init__(self, interpreter: Interpreter, quiet: bool = False, default_shape: bool = False) -> None:
        self.interpreter = interpreter
        self.quiet = quiet
        self.default_shape = default_shape
        self.values: dict[int, Any] = dict(interpreter.values)
        self.sizes: dict[Any, int] = {}
        self.passes = 0
        self.started = time.monotonic()

    def count_pass(self) -> None:
        """Count one more pass of a loop; for the kernel of `while_loop`.

        Raises:
            EvaluationError: The loops of this run have taken more passes or more time than they may.
        """
        self.passes += 1
        if self.passes > self.interpreter.loop_passes:
            raise EvaluationError(f"does not end within {self.interpreter.loop_passes} passes (loop_passes)")
        if time.monotonic() - self.started > self.interpreter.loop_seconds:
            raise EvaluationError(f"does not end within {self.interpreter.loop_seconds:g} seconds (loop_seconds)")

    def run_block(self, block: Any, arguments: Sequence[Any] = ()) -> list[Any]:
        """Run a nested block on its arguments and return its outputs; for the kernels of control flow."""
        plan = self.interpreter.plans[id(block)]
        outer = self.sizes
        self.sizes = dict(outer)  # each pass of a loop may bind the symbols inside anew
        try:
            self.enter(plan, arguments, rounded=True)
            for step in plan.steps:
                self.execute(step)
            return self.leave(plan)
        finally:
            self.sizes = outer

    def enter(self, plan: Plan, arguments: Iterable[Any], *, rounded: bool = False) -> None:
        """Give a block its inputs, which are rounded already where an outer block computed them."""
        for result, value in zip(plan.inputs, arguments, strict=True):
            self.values[result.slot] = self._accept(result, value, f"input {result.name!r}", rounded=rounded)

    def leave(self, plan: Plan) -> list[Any]:
        """Take a block's outputs and forget the rest of its values."""
        outputs = [self.values[slot] for slot in plan.outputs]
        for slot in plan.own:
            self.values.pop(slot, None)
        return outputs

    def execute(self, step: Step) -> list[Any]:
        """Compute one op; check, round and keep its results."""
        values = self.values
        arguments = step.constants.copy()
        for name, slots in step.variables:
            arguments[name] = _argument(values, slots, step.single)
        if step.takes_execution:
            arguments["execution"] = self
        for result in step.results:
            self._check_size(result, step)
        try:
            computed = step.kernel(**arguments)
        except CoreMLReferenceError as error:
            raise type(error)(f"{step.title}: {error}") from error
        except MemoryError as error:
            raise EvaluationError(f"{step.title}: not enough memory ({error})") from error
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise EvaluationError(
                f"{step.title}: {type(error).__name__}: {error}; its inputs are {_shapes(arguments)}"
            ) from error
        outputs = list(computed) if isinstance(computed, tuple) else [computed]
        if len(outputs) != len(step.results):
            raise EvaluationError(f"{step.title}: {len(outputs)} results; the program declares {len(step.results)}")
        if step.single and not step.rounded and not self.quiet and _overflows(outputs, arguments):
            self._report(step, step.results[0])
        inputs = {id(value) for argument in arguments.values() for value in _members(argument)}
        del computed, arguments
        for slot in step.release:
            del values[slot]
        for index, result in enumerate(step.results):
            fresh = id(outputs[index]) not in inputs
            outputs[index] = self._accept(result, outputs[index], step.title, step, fresh, rounded=step.rounded)
            if result.slot not in step.unread:
                values[result.slot] = outputs[index]
        return outputs

    def _accept(
        self,
        result: Result,
        value: Any,
        title: str,
        step: Step | None = None,
        fresh: bool = False,
        *,
        rounded: bool = False,
    ) -> Any:
        """Check a value against its declaration and round it to the declared dtype, in place if it is `fresh`."""
        if result.dtype is None or getattr(value, "is_state", False):
            return value
        array = np.asarray(value)
        if array.shape != result.fixed:
            self._check_shape(result, array.shape, title)
        if result.dtype.kind == "f":
            if array.dtype.kind not in "fiub":
                raise EvaluationError(f"{title}: result {result.name!r} is {array.dtype}; declared {result.dtype}")
            held = self.interpreter.held(result.dtype)
            if rounded or held == np.float64:
                return array.astype(held, copy=False)
            return self._rounded(array, result, step, fresh)
        if array.dtype == result.dtype:
            return array
        with np.errstate(all="ignore"):
            cast = array.astype(result.dtype.type)
        if result.dtype.kind == "b" or not np.array_equal(cast, array):
            raise EvaluationError(f"{title}: result {result.name!r} is {array.dtype}; declared {result.dtype}")
        return cast

    def _rounded(self, array: Array, result: Result, step: Step | None, fresh: bool) -> Array:
        if array.dtype not in FORMATS:
            array = array.astype(np.float64)
        # In place where nobody else has it: that is what a big activation's time and peak memory hang on.
        own = fresh and array.base is None and array.flags.writeable and array.flags.forc
        assert result.dtype is not None
        array, overflow = rounded(array, result.dtype, overwrite=own)
        if overflow and step is not None and not self.quiet:
            self._report(step, result)
        return array

    def _report(self, step: Step, result: Result) -> None:
        self.interpreter.report(Overflow(step.operation.name, step.operation.op_type, str(result.dtype)))

    def _check_shape(self, result: Result, shape: tuple[int, ...], title: str) -> None:
        declared = result.shape
        if len(shape) == len(declared):
            for size, dimension in zip(shape, declared, strict=True):
                if isinstance(dimension, int):
                    expected: int | None = dimension
                elif dimension.is_Symbol:
                    expected = self.sizes.setdefault(dimension, size)
                    if self.default_shape:  # the file leaves it open: that two sizes agree is coremltools' inference
                        continue
                else:
                    expected = self._size(dimension)
                if expected is not None and expected != size:
                    break
            else:
                return
        known = ", ".join(
            f"{d}={self._size(d)}" for d in declared if not isinstance(d, int) and self._size(d) is not None
        )
        raise EvaluationError(
            f"{title}: result {result.name!r} has shape {shape}; declared {_shape_text(declared)}"
            + (f" with {known}" if known else "")
        )

    def _check_size(self, result: Result, step: Step) -> None:
        """Refuse a result that no memory can hold before anything tries to make it."""
        elements = 1
        for dimension in result.shape:
            elements *= dimension if isinstance(dimension, int) else self._size(dimension) or 1
        if elements > LARGEST_TENSOR:
            raise EvaluationError(
                f"{step.title}: declares a result of shape {_shape_text(result.shape)}, {elements} elements: "
                f"more than fits into memory ({LARGEST_TENSOR})"
            )

    def _size(self, dimension: Any) -> int | None:
        if dimension.is_Symbol:
            return self.sizes.get(dimension)
        symbols = tuple(sorted(dimension.free_symbols, key=str))
        if any(symbol not in self.sizes for symbol in symbols):
            return None
        return _evaluate(dimension, symbols, tuple(self.sizes[symbol] for symbol in symbols))


@lru_cache(maxsize=4096)
def _evaluate(expression: Any, symbols: tuple[Any, ...], sizes: tuple[int, ...]) -> int | None:
    value = expression.subs(dict(zip(symbols, sizes, strict=True)))
    return int(value) if value.is_number and value == int(value) else None


def _holds_loop(operation: Any) -> bool:
    """Whether an op is a loop, or has one in its blocks."""
    return operation.op_type == "while_loop" or any(
        _holds_loop(inner) for block in operation.blocks for inner in block.operations
    )


def _argument(values: dict[int, Any], slots: int | list[int], single: bool) -> Any:
    """A kernel's argument: a value, or a list of them; in float64 unless the kernel takes float32."""
    if isinstance(slots, list):
        return [_argument(values, slot, single) for slot in slots]
    value = values[slots]
    if single or not isinstance(value, np.ndarray) or value.dtype != np.float32:
        return value
    return value.astype(np.float64)


def _overflows(outputs: list[Any], arguments: dict[str, Any]) -> bool:
    """Whether a result in float32 is infinite, and no argument is."""
    singles = [array for array in outputs if isinstance(array, np.ndarray) and array.dtype == np.float32]
    # The sum of what is not finite is not finite.
    if not any(not np.isfinite(array.sum()) and np.isinf(array).any() for array in singles):
        return False
    floats = (array for argument in arguments.values() for array in _members(argument) if _is_float(array))
    return all(np.isfinite(array).all() for array in floats)


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _parameters(kernel: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(kernel).parameters)


def _members(argument: Any) -> Iterable[Any]:
    return argument if isinstance(argument, list) else (argument,)


def _flat(slots: int | list[int]) -> list[int]:
    return slots if isinstance(slots, list) else [slots]


def _tensor_type(variable: Any) -> tuple[np.dtype[Any] | None, tuple[Any, ...]]:
    """The dtype and the shape of a tensor, a scalar or a state; no dtype for what is none of them."""
    from coremltools.converters.mil.mil import types

    kind = variable.sym_type
    if types.is_state(kind):
        kind = kind.wrapped_type()
    if types.is_tensor(kind):
        return np.dtype(types.nptype_from_builtin(kind.get_primitive())), tuple(kind.get_shape())
    if types.is_scalar(kind) and kind is not types.str:
        return np.dtype(types.nptype_from_builtin(kind)), ()
    return None, ()


def _merged(inferred: Sequence[Any], declared: DeclaredShape | None) -> tuple[Any, ...]:
    """Take each size from the file where coremltools inferred none."""
    if declared is None or len(declared) != len(inferred):
        declared = (None,) * len(inferred)
    return tuple(
        int(size) if getattr(size, "is_Symbol", None) is None else size if known is None else known
        for size, known in zip(inferred, declared, strict=True)
    )


def _frozen(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    return value


def _shapes(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}{list(value.shape)}" for name, value in arguments.items() if isinstance(value, np.ndarray))


def _shape_text(shape: Sequence[Any]) -> str:
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
