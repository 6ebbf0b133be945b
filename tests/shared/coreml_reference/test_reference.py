"""Loading, predicting and the contract of inputs and outputs."""

import os
import platform
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from shared.coreml_reference import CoreMLReference, EvaluationError, InputError, PackageError, UnsupportedError
from shared.coreml_reference.features import Feature
from shared.coreml_reference.interpreter import Execution, Interpreter
from shared.coreml_reference.program import load_program
from shared.coreml_reference.registry import KERNELS
from tests.support import ROOT

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import get_new_symbol, types
from numpy.typing import NDArray


def sequences(batch: int) -> NDArray[Any]:
    return np.random.default_rng(0).random((batch, 6, 1), np.float32) * 10


@pytest.mark.parametrize("batch", [1, 3, 500])
def test_fp32_is_torch(classifier_fp32: Path, network: torch.nn.Module, batch: int) -> None:
    logits = CoreMLReference(classifier_fp32).predict({"sequence": sequences(batch)})["logits"]
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, network(torch.from_numpy(sequences(batch))).detach(), atol=1e-6)


def test_declared_precision_is_further_from_torch_than_exact(classifier_fp16: Path, network: torch.nn.Module) -> None:
    inputs, expected = {"sequence": sequences(50)}, network(torch.from_numpy(sequences(50))).detach().numpy()
    declared = CoreMLReference(classifier_fp16).predict(inputs)["logits"]
    exact = CoreMLReference(classifier_fp16, compute="exact").predict(inputs)["logits"]
    assert (declared.dtype, exact.dtype) == (np.float32, np.float64)
    assert 0 < np.abs(exact - expected).max() < np.abs(declared - expected).max() < 1e-3
    # Results of fp16 ops are fp16 numbers.
    np.testing.assert_array_equal(declared, declared.astype(np.float16))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tunes glibc's allocator")
def test_a_prediction_reuses_the_memory_of_the_one_before(classifier_fp32: Path) -> None:
    """In a process of its own, whose allocator nothing has tuned before."""
    script = """
import resource, sys
import numpy as np
from shared.coreml_reference import CoreMLReference

model, inputs = CoreMLReference(sys.argv[1]), {"sequence": np.ones((500, 6, 1), np.float32)}
faults = []
for _ in range(20):
    model.predict(inputs)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[4])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "stages")}
    done = subprocess.run(
        [sys.executable, "-c", script, classifier_fp32], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1000


def test_it_describes_itself(classifier_fp32: Path) -> None:
    model = CoreMLReference(classifier_fp32)
    sequence = model.inputs["sequence"]
    assert model.input_description == {"sequence": ""}
    assert model.output_description == {"logits": ""}
    assert (sequence.shape, sequence.bounds, sequence.dtype) == (
        (3, 6, 1),
        ((1, 4096), (6, 6), (1, 1)),
        np.dtype(np.float32),
    )
    assert model.operations["lstm"] == model.operations["linear"] == 1
    assert "const" not in model.operations
    assert model.user_defined_metadata["com.github.apple.coremltools.version"] == ct.__version__


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"input 'sequence' is missing: float32 \(1..4096, 6, 1\)"),
        ({"x": sequences(1)}, "no input 'x'; the model has sequence"),
        ({"sequence": sequences(1)[0]}, r"shape \(6, 1\); the model allows \(1..4096, 6, 1\)"),
        ({"sequence": np.zeros((4097, 6, 1))}, r"shape \(4097, 6, 1\); the model allows"),
        ({"sequence": np.zeros((0, 6, 1))}, r"shape \(0, 6, 1\); the model allows"),
        ({"sequence": np.full((1, 6, 1), "a")}, "dtype <U1; expected numbers"),
        ({"sequence": np.full((1, 6, 1), None)}, "dtype object; expected numbers"),
        ({"sequence": np.zeros((1, 6, 1), complex)}, "dtype complex128; expected numbers"),
    ],
)
def test_wrong_inputs_are_refused(classifier_fp32: Path, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CoreMLReference(classifier_fp32).predict(inputs)


def test_other_numbers_are_cast_to_the_interface(classifier_fp32: Path) -> None:
    model = CoreMLReference(classifier_fp32)
    whole = sequences(2).round()
    expected = model.predict({"sequence": whole})["logits"]
    np.testing.assert_array_equal(model.predict({"sequence": whole.astype(np.int64)})["logits"], expected)
    np.testing.assert_array_equal(model.predict({"sequence": whole.tolist()})["logits"], expected)


def test_integer_inputs_cut_fractions_as_core_ml_does(save_program: Callable[..., Path]) -> None:
    path = save_program(lambda x: mb.mul(x=x, y=2), mb.TensorSpec(shape=(2,), dtype=types.int32))
    model = CoreMLReference(path)
    (doubled,) = model.predict({"x": np.array([1.9, -2.9])}).values()
    assert doubled.dtype == np.int32
    assert doubled.tolist() == [2, -4]
    for value in (np.nan, np.inf, 2**31):
        with pytest.raises(InputError, match="values that int32 cannot hold"):
            model.predict({"x": np.array([value, 0])})


def test_enumerated_shapes(tmp_path: Path) -> None:
    shapes = ct.EnumeratedShapes([(1, 2), (3, 2)], default=(1, 2))
    program = torch.jit.trace(torch.nn.Linear(2, 1).eval(), torch.rand(1, 2))
    ct.convert(program, inputs=[ct.TensorType("x", shapes)], skip_model_load=True).save(tmp_path / "a.mlpackage")
    model = CoreMLReference(tmp_path / "a.mlpackage")
    assert model.inputs["x"].shapes == ((1, 2), (3, 2))
    assert next(iter(model.predict({"x": np.zeros((3, 2))}).values())).shape == (3, 1)
    with pytest.raises(InputError, match=r"shape \(2, 2\); the model allows \(1, 2\) or \(3, 2\)"):
        model.predict({"x": np.zeros((2, 2))})


def test_an_optional_input_has_a_default(tmp_path: Path) -> None:
    program = torch.jit.trace(torch.nn.ReLU(), torch.rand(2))
    inputs = [ct.TensorType("x", (2,), default_value=np.full(2, 3.0, np.float32))]
    ct.convert(program, inputs=inputs, skip_model_load=True).save(tmp_path / "a.mlpackage")
    (result,) = CoreMLReference(tmp_path / "a.mlpackage").predict({}).values()
    assert result.tolist() == [3, 3]


def test_scalars_come_back_in_shape_1(save_program: Callable[..., Path]) -> None:
    path = save_program(lambda x: mb.squeeze(x=mb.reduce_sum(x=x, axes=[0], keep_dims=False)), (3,))
    (total,) = CoreMLReference(path).predict({"x": np.ones(3)}).values()
    assert total.tolist() == [3.0]


def test_a_baked_batch_is_caught_when_it_runs(baked_classifier: Callable[..., Path]) -> None:
    model = CoreMLReference(baked_classifier(default=3))
    model.predict({"sequence": sequences(3)})
    with pytest.raises(EvaluationError, match=r"\(lstm\).*initial_h"):
        model.predict({"sequence": sequences(4)})


def test_a_baked_batch_is_caught_on_loading_at_another_default(baked_classifier: Callable[..., Path]) -> None:
    path = baked_classifier(default=1)
    with pytest.raises(EvaluationError, match=r"at the model's default shape, op '.*' \(lstm\).*initial_h"):
        CoreMLReference(path)


def test_the_shape_that_the_file_declares_is_held_to(classifier_fp32: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KERNELS, "linear", lambda x, weight, bias: (x @ weight.T + bias)[:, :2])
    with pytest.raises(EvaluationError, match=r"\(linear\): result 'logits' has shape \(3, 2\); declared \(.*, 3\)"):
        CoreMLReference(classifier_fp32)


def test_one_symbol_is_one_size(save_program: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    flexible = ct.TensorType("x", (ct.RangeDim(1, 100, default=1), 2), dtype=np.float32)
    path = save_program(lambda x: mb.relu(x=x), mb.TensorSpec(shape=(get_new_symbol(), 2)), inputs=[flexible])
    monkeypatch.setitem(KERNELS, "relu", lambda x: x[1:])
    model = CoreMLReference(path)
    with pytest.raises(
        EvaluationError, match=r"\(relu\): result '.*' has shape \(4, 2\); declared \((is\d+), 2\) with \1=5"
    ):
        model.predict({"x": np.zeros((5, 2), np.float32)})


def test_the_default_shape_may_contradict_sizes_that_are_only_inferred(save_program: Callable[..., Path]) -> None:
    batch, length = (ct.RangeDim(1, 8, default=1) for _ in range(2))
    inputs = [
        ct.TensorType("query", (batch, length, 4), dtype=np.float32),
        ct.TensorType("key", (2, 3, 4), dtype=np.float32),
    ]
    path = save_program(
        lambda query, key: mb.scaled_dot_product_attention(query=query, key=key, value=key),
        mb.TensorSpec(shape=(get_new_symbol(), get_new_symbol(), 4)),
        mb.TensorSpec(shape=(2, 3, 4)),
        inputs=inputs,
        target="iOS18",
    )
    CoreMLReference(path)


def test_zeros_at_the_default_shape_need_not_be_values_that_an_op_can_use(save_program: Callable[..., Path]) -> None:
    path = save_program(
        lambda x, end: mb.slice_update(x=x, update=np.ones((1, 2), np.float32), begin=[0, 0], end=end),
        mb.TensorSpec(shape=(2, 3)),
        mb.TensorSpec(shape=(2,), dtype=types.int32),
        target="iOS18",
    )
    output = next(iter(CoreMLReference(path).predict({"x": np.zeros((2, 3)), "end": [1, 2]}).values()))
    np.testing.assert_array_equal(output, [[1, 1, 0], [0, 0, 0]])


def test_an_fp16_overflow_is_reported_once(save_program: Callable[..., Path]) -> None:
    path = save_program(lambda x: mb.exp(x=mb.mul(x=x, y=1.0, name="m"), name="e"), (2,), precision="FLOAT16")
    model, exact = CoreMLReference(path), CoreMLReference(path, compute="exact")
    assert not model.overflows
    with pytest.warns(RuntimeWarning, match=r"op 'e_cast_fp16' \(exp\): a finite result is infinite in float16"):
        (value,) = model.predict({"x": np.array([20.0, 1.0])}).values()
    assert np.isinf(value[0])
    with warnings.catch_warnings(action="error"):
        model.predict({"x": np.array([20.0, 1.0])})
        model.predict({"x": np.array([np.inf, 1.0])})
    assert [overflow.op_type for overflow in model.overflows] == ["exp"]
    assert next(iter(exact.predict({"x": np.array([20.0, 1.0])}).values()))[0] == pytest.approx(np.exp(20))


@pytest.mark.parametrize("op_type", ["exp", "log", "mul"])
def test_an_fp32_overflow_is_reported_and_a_pole_is_none(op_type: str, save_program: Callable[..., Path]) -> None:
    """Whether the kernel computes in float32 or in float64."""
    functions = {
        "exp": mb.exp,
        "log": lambda x, **rest: mb.log(x=x, epsilon=0.0, **rest),
        "mul": partial(mb.mul, y=1e9),
    }
    model = CoreMLReference(save_program(lambda x: functions[op_type](x=x, name="op"), (2,)))
    with warnings.catch_warnings(action="error"):
        for value in (1.0, np.inf, np.nan, 0.0):
            model.predict({"x": np.array([value, 1.0])})
    if op_type != "log":
        with pytest.warns(RuntimeWarning, match=rf"op 'op' \({op_type}\): a finite result is infinite in float32"):
            (value,) = model.predict({"x": np.array([1e30, 1.0])}).values()
        assert np.isinf(value[0])


def test_values_are_freed_after_their_last_use(save_program: Callable[..., Path]) -> None:
    def chain(x: Any) -> Any:
        for _ in range(6):
            x = mb.relu(x=x)
            x = mb.add(x=x, y=1.0)
        return x

    interpreter = Interpreter(load_program(save_program(chain, (4,), pass_pipeline=ct.PassPipeline.EMPTY)))
    execution, alive = Execution(interpreter), []
    execution.enter(interpreter.main, [np.zeros(4)])
    for step in interpreter.main.steps:
        execution.execute(step)
        alive.append(len(execution.values) - len(interpreter.values))
    assert max(alive) == 1
    assert execution.leave(interpreter.main)[0].tolist() == [6.0] * 4


def test_absurd_shapes_are_refused_before_they_are_made(save_program: Callable[..., Path]) -> None:
    path = save_program(
        lambda x: mb.reduce_sum(x=mb.tile(x=x, reps=[2**20, 2**20, 2**10])),
        (1, 1, 1),
        pass_pipeline=ct.PassPipeline.EMPTY,
    )
    with pytest.raises(
        PackageError, match=r"'tile_0' has the shape \(1048576, 1048576, 1024\), which no memory can hold"
    ):
        CoreMLReference(path)


def test_peak_memory_is_that_of_one_op(save_program: Callable[..., Path]) -> None:
    size = 2**18

    def chain(x: Any) -> Any:
        for _ in range(5):
            x = mb.add(x=mb.relu(x=x), y=1.0)
        return x

    model = CoreMLReference(save_program(chain, (size,), pass_pipeline=ct.PassPipeline.EMPTY))
    x = np.ones(size, np.float32)
    tracemalloc.start()
    model.predict({"x": x})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # One float64 input and output; a runtime in float32 holds half of that.
    assert peak < 1.3 * 2 * size * np.dtype(np.float64).itemsize


def test_functions_of_one_package(classifier_fp32: Path, tmp_path: Path, network: torch.nn.Module) -> None:
    descriptor = ct.utils.MultiFunctionDescriptor()
    descriptor.add_function(str(classifier_fp32), "main", "first")
    descriptor.add_function(str(classifier_fp32), "main", "second")
    descriptor.default_function_name = "second"
    path = tmp_path / "both.mlpackage"
    ct.utils.save_multifunction(descriptor, str(path))
    assert CoreMLReference(path).program.function_name == "second"
    model = CoreMLReference(path, function_name="first")
    logits = model.predict({"sequence": sequences(2)})["logits"]
    np.testing.assert_allclose(logits, network(torch.from_numpy(sequences(2))).detach(), atol=1e-6)
    with pytest.raises(PackageError, match="no function 'third'; the package has first, second"):
        CoreMLReference(path, function_name="third")


def test_images_are_refused(tmp_path: Path) -> None:
    program = torch.jit.trace(torch.nn.ReLU(), torch.rand(1, 3, 4, 4))
    model = ct.convert(program, inputs=[ct.ImageType("photo", (1, 3, 4, 4))], skip_model_load=True)
    model.save(tmp_path / "a.mlpackage")
    with pytest.raises(UnsupportedError, match="'photo' is an image, which is not supported"):
        CoreMLReference(tmp_path / "a.mlpackage")


def test_only_tensors_can_be_passed() -> None:
    with pytest.raises(UnsupportedError, match="input 'words' is of type dictionary: only tensors can be passed"):
        Feature("words", "dictionary").convert({"a": 1.0})


def test_random_ops_are_refused_with_the_reason(save_program: Callable[..., Path]) -> None:
    path = save_program(lambda x: mb.add(x=x, y=mb.random_uniform(shape=[2], seed=1)), (2,))
    with pytest.raises(UnsupportedError, match=r"\(random_uniform\): draws random numbers"):
        CoreMLReference(path)


def test_compute_is_one_of_two(classifier_fp32: Path) -> None:
    compute: Any = "fast"
    with pytest.raises(ValueError, match='compute=\'fast\': expected "declared" or "exact"'):
        CoreMLReference(classifier_fp32, compute=compute)
