"""Kernels that compute in float32: they stay there, for a float64 in between costs time, and lose last bits alone."""

from typing import Any

from shared.coreml_reference import ops  # noqa: F401 (fills the registry)
from shared.coreml_reference.registry import KERNELS, MOVING, SINGLE

import numpy as np
import pytest
from numpy.typing import NDArray

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> NDArray[np.float64]:
    return RANDOM.standard_normal(shape).astype(np.float32).astype(np.float64)


X, Y, C = normal(4, 6, 5), normal(4, 6, 5), normal(6)
BOTH = ("add", "maximum", "minimum", "mul", "sub")
CASES: list[tuple[str, dict[str, Any]]] = [
    *((op_type, {"x": X, "y": Y}) for op_type in BOTH),
    *((op_type, {"x": X}) for op_type in ("abs", "ceil", "exp", "floor", "round", "sign", "square", "tanh")),
    ("sqrt", {"x": np.abs(X)}),
    *((op_type, {"x": X}) for op_type in ("relu6", "sigmoid", "silu", "softsign", "softmax")),
    *(("gelu", {"x": X, "mode": mode}) for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")),
    *((op_type, {"x": X, "axes": [1]}) for op_type in ("reduce_max", "reduce_mean", "reduce_min", "reduce_sum")),
    ("clip", {"x": X, "alpha": np.array(-0.5), "beta": np.array(0.5)}),
    ("threshold", {"x": X, "alpha": np.array(0.1)}),
    ("cast", {"x": X, "dtype": "fp16"}),
    ("linear", {"x": X, "weight": normal(7, 5), "bias": normal(7)}),
    ("matmul", {"x": X, "y": Y, "transpose_y": True}),
    ("conv", {"x": X, "weight": normal(8, 3, 3), "bias": normal(8), "groups": 2, "pad_type": "same"}),
    ("batch_norm", {"x": X, "mean": C, "variance": C**2, "gamma": C, "beta": C}),
    ("layer_norm", {"x": X, "axes": [-1], "gamma": normal(5), "beta": normal(5), "epsilon": np.array(1e-5)}),
    (
        "lstm",
        {
            "x": X, "initial_h": normal(6, 3), "initial_c": normal(6, 3), "weight_ih": normal(12, 5),
            "weight_hh": normal(12, 3), "bias": normal(12), "peephole": normal(9), "output_sequence": True,
        },
    ),
    ("gru", {"x": X, "initial_h": normal(6, 3), "weight_ih": normal(9, 5), "weight_hh": normal(9, 3)}),
    ("rnn", {"x": X, "initial_h": normal(6, 3), "weight_ih": normal(3, 5), "weight_hh": normal(3, 3)}),
]  # fmt: skip


def as_single(value: Any) -> Any:
    return value.astype(np.float32) if isinstance(value, np.ndarray) else value


def test_every_kernel_has_its_case() -> None:
    assert {op_type for op_type, _ in CASES} == {op for op, single in SINGLE.items() if single and not MOVING[op]}


@pytest.mark.parametrize(("op_type", "arguments"), CASES)
def test_it_stays_in_float32_and_loses_last_bits_alone(op_type: str, arguments: dict[str, Any]) -> None:
    found = KERNELS[op_type](**{name: as_single(value) for name, value in arguments.items()})
    expected = KERNELS[op_type](**arguments)
    for one, exact in zip(*(each if isinstance(each, tuple) else (each,) for each in (found, expected)), strict=True):
        assert (one.dtype, exact.dtype) == (np.float32, np.float64)
        np.testing.assert_allclose(one, exact, rtol=2e-6, atol=2e-6)
