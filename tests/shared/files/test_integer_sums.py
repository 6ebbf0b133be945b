"""The bound holds for every input: held to a simulation of processors that add pairs of products in 16 bits."""

from pathlib import Path

from shared.files.integer_sums import integer_sums
from shared.kit.stage import StageError

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

INT16 = np.iinfo(np.int16)


def sums_in_16_bits(activations: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int64]:
    """A product of matrices as AVX2 computes it: pairs of neighbours in 16 bits that saturate, the rest exactly."""
    products = activations.astype(np.int64)[:, :, None] * weights.astype(np.int64)
    sums: NDArray[np.int64] = np.clip(products[:, 0::2] + products[:, 1::2], INT16.min, INT16.max).sum(axis=1)
    return sums


def recurrent_weights(path: Path) -> NDArray[np.int8]:
    model = onnx.load(path)
    [lstm] = [node for node in model.graph.node if node.op_type == "DynamicQuantizeLSTM"]
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weights: NDArray[np.int8] = onnx.numpy_helper.to_array(tensors[lstm.input[2]])[0]
    return weights


def worst_activations(weights: NDArray[np.int8]) -> NDArray[np.uint8]:
    """For each output, and for its negative: all that count in one direction at their largest."""
    signs: NDArray[np.bool_] = np.concatenate([weights.T > 0, weights.T < 0])
    return np.where(signs, np.uint8(255), np.uint8(0))


def test_no_sum_of_the_int8_file_overflows_and_one_of_eight_bits_does(small_run: Path, tmp_path: Path) -> None:
    path = small_run / "models/onnx/classifier-int8.onnx"
    bounds = integer_sums(path)
    assert bounds is not None
    assert bounds["exact"]
    assert bounds["largest_pair"] <= 2 * 255 * 64
    weights = recurrent_weights(path)
    activations = worst_activations(weights)
    exact = activations.astype(np.int64) @ weights.astype(np.int64)
    np.testing.assert_array_equal(sums_in_16_bits(activations, weights), exact)
    assert np.abs(exact).max() <= bounds["largest_sum"]

    plain, eight = small_run / "models/onnx/classifier-fp32.onnx", tmp_path / "eight_bits.onnx"
    quantize_dynamic(
        onnx.load(plain), eight, op_types_to_quantize=["LSTM"], per_channel=True, weight_type=QuantType.QInt8
    )
    bounds = integer_sums(eight)
    assert bounds is not None
    assert not bounds["exact"]
    weights = recurrent_weights(eight)
    activations = worst_activations(weights)
    assert (sums_in_16_bits(activations, weights) != activations.astype(np.int64) @ weights.astype(np.int64)).any()


def test_the_bound_is_of_two_weights_of_one_output(tmp_path: Path) -> None:
    """Two large weights of different outputs are never added."""
    apart = np.array([[100, 1, 1, 1], [1, 100, 1, 1]], np.int8).T
    together = np.array([[100, 1, 1, 100], [1, 1, 1, 1]], np.int8).T
    assert integer_sums(product(tmp_path, apart)) == {
        "largest_pair": 255 * 101,
        "largest_sum": 255 * 103,
        "exact": True,
    }
    assert integer_sums(product(tmp_path, together)) == {
        "largest_pair": 255 * 200, "largest_sum": 255 * 202, "exact": False,
    }  # fmt: skip


def product(folder: Path, weights: NDArray[np.int8] | None) -> Path:
    value = onnx.helper.make_tensor_value_info
    inputs = [value("x", onnx.TensorProto.UINT8, [1, 4])]
    constants = [] if weights is None else [onnx.numpy_helper.from_array(weights, "w")]
    inputs += [value("w", onnx.TensorProto.INT8, [4, 2])] if weights is None else []
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "graph", inputs, [value("y", onnx.TensorProto.INT32, [1, 2])], constants,
    )  # fmt: skip
    path = folder / "model.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    return path


def test_a_product_of_two_computed_tensors_is_not_called_exact(tmp_path: Path) -> None:
    assert integer_sums(product(tmp_path, None)) == {"largest_pair": None, "largest_sum": None, "exact": False}


def test_weights_in_a_constant_node_are_found(tmp_path: Path) -> None:
    path = product(tmp_path, np.ones((4, 2), np.int8))
    model = onnx.load(path)
    weights = model.graph.initializer.pop()
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=weights))
    onnx.save(model, path)
    assert integer_sums(path) == {"largest_pair": 255 * 2, "largest_sum": 255 * 4, "exact": True}


def test_weights_that_are_not_in_the_file_are_an_error_in_words(tmp_path: Path) -> None:
    path = product(tmp_path, np.ones((4, 2), np.int8))
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(StageError, match=r"model\.onnx: not a readable ONNX file: "):
        integer_sums(path)


def test_a_file_that_multiplies_no_integers_has_no_bound(small_run: Path) -> None:
    assert integer_sums(small_run / "models/onnx/classifier-fp16.onnx") is None
    assert integer_sums(small_run / "models/coreml/classifier-fp16.mlpackage") is None
