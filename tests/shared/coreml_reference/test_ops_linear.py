"""The matrix products against numpy's einsum."""

from shared.coreml_reference.ops.linear import einsum, linear, matmul

import numpy as np
import pytest

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 4)])
def test_linear_at_every_rank(shape: tuple[int, ...]) -> None:
    x, weight, bias = RANDOM.standard_normal(shape), RANDOM.standard_normal((5, 4)), RANDOM.standard_normal(5)
    np.testing.assert_allclose(linear(x, weight, bias), np.einsum("...i,oi->...o", x, weight) + bias)


def test_linear_of_integers_stays_integer() -> None:
    assert linear(np.ones((2, 3), np.int32), np.ones((4, 3), np.int32)).dtype == np.int32


def test_matmul_transposes_the_last_two_axes_and_broadcasts() -> None:
    x, y = RANDOM.standard_normal((5, 1, 3, 2)), RANDOM.standard_normal((4, 6, 3))
    np.testing.assert_allclose(matmul(x, y, transpose_x=True, transpose_y=True), np.einsum("abij,cki->acjk", x, y))


def test_matmul_transposes_either_operand() -> None:
    x, y = RANDOM.standard_normal((2, 3, 3))
    np.testing.assert_allclose(matmul(x, y, transpose_x=True), x.T @ y)
    np.testing.assert_allclose(matmul(x, y, transpose_y=True), x @ y.T)


def test_matmul_of_vectors_is_the_inner_product() -> None:
    assert matmul(np.arange(3.0), np.arange(3.0)) == 5


@pytest.mark.parametrize(
    ("equation", "x_shape", "y_shape"),
    [
        ("nchw,nwhu->nchu", (2, 3, 4, 5), (2, 5, 4, 6)),
        ("abcd,adce->abce", (1, 3, 1, 5), (2, 5, 4, 6)),
        ("chw,whr->chr", (3, 4, 5), (5, 1, 6)),
    ],
)
def test_einsum_broadcasts_its_batch_axes(equation: str, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
    x, y = RANDOM.standard_normal(x_shape), RANDOM.standard_normal(y_shape)
    h = max(x_shape[-2], y_shape[-2])
    expected = np.einsum("...chw,...whu->...chu", *(np.repeat(v, h // v.shape[-2], axis=-2) for v in (x, y)))
    np.testing.assert_allclose(einsum([x, y], equation), expected)
