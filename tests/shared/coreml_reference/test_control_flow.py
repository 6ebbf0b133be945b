"""Branches, loops, lists, states and classifiers, run from saved packages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.coreml_reference import CoreMLReference, EvaluationError, InputError
from shared.coreml_reference.ops.control_flow import list_gather, list_read, list_scatter, list_write, make_list

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import get_new_symbol, types


def first(outputs: dict[str, Any]) -> Any:
    return next(iter(outputs.values()))


def test_cond(save_program: Callable[..., Path]) -> None:
    def program(x: Any) -> Any:
        total = mb.reduce_sum(x=x, axes=[0], keep_dims=False)
        return mb.cond(
            pred=mb.greater(x=total, y=0.0),
            _true_fn=lambda: mb.mul(x=mb.add(x=x, y=1.0), y=total),
            _false_fn=lambda: mb.sub(x=x, y=1.0),
        )

    model = CoreMLReference(save_program(program, (2,)))
    assert first(model.predict({"x": [1, 2]})).tolist() == [6, 9]
    assert first(model.predict({"x": [-1, -2]})).tolist() == [-2, -3]


def counting_loop(limit: int) -> Callable[[Any], Any]:
    def program(x: Any) -> Any:
        def condition(i: Any, _: Any) -> Any:
            return mb.less(x=i, y=limit)

        def body(i: Any, total: Any) -> Any:
            return mb.add(x=i, y=1), mb.add(x=total, y=mb.mul(x=x, y=mb.cast(x=i, dtype="fp32")))

        return mb.while_loop(_cond=condition, _body=body, loop_vars=(mb.const(val=0), mb.mul(x=x, y=0.0)))[1]

    return program


def test_while_loop(save_program: Callable[..., Path]) -> None:
    model = CoreMLReference(save_program(counting_loop(5), (2,)))
    assert first(model.predict({"x": [1, 2]})).tolist() == [10, 20]


def test_a_loop_may_change_a_size_at_every_pass(save_program: Callable[..., Path]) -> None:
    def program(x: Any) -> Any:
        def condition(i: Any, _: Any) -> Any:
            return mb.less(x=i, y=3)

        def body(i: Any, grown: Any) -> Any:
            return mb.add(x=i, y=1), mb.concat(values=[grown, x], axis=0)

        return mb.while_loop(_cond=condition, _body=body, loop_vars=(mb.const(val=0), x))[1]

    model = CoreMLReference(save_program(program, (2,)))
    assert first(model.predict({"x": [1, 2]})).tolist() == [1, 2] * 4


def test_a_loop_that_zeros_would_never_end_still_loads(save_program: Callable[..., Path]) -> None:
    def program(x: Any) -> Any:
        def condition(y: Any) -> Any:
            return mb.less(x=y, y=100.0)

        return mb.while_loop(_cond=condition, _body=lambda y: mb.mul(x=y, y=2.0), loop_vars=(mb.squeeze(x=x),))

    model = CoreMLReference(save_program(program, (1,)))
    assert first(model.predict({"x": [3]})).tolist() == [192]


def doubling(until: float) -> Callable[[Any], Any]:
    """Double the input until its sum is large enough: zeros stay zeros for ever."""

    def program(x: Any) -> Any:
        return mb.while_loop(
            _cond=lambda y: mb.less(x=mb.reduce_sum(x=y), y=np.float32(until)),
            _body=lambda y: mb.mul(x=y, y=np.float32(2)),
            loop_vars=(x,),
        )

    return program


def test_a_loop_in_a_branch_that_zeros_would_never_end_still_loads(save_program: Callable[..., Path]) -> None:
    def program(x: Any) -> Any:
        return mb.cond(
            pred=mb.less(x=mb.reduce_sum(x=x), y=np.float32(4)),
            _true_fn=lambda: doubling(until=100)(x),
            _false_fn=lambda: mb.add(x=x, y=np.float32(1)),
        )

    path = save_program(program, (2,))
    model = CoreMLReference(path, loop_passes=50)
    assert first(model.predict({"x": [1, 2]})).tolist() == [64, 128]
    assert first(model.predict({"x": [5, 6]})).tolist() == [6, 7]
    with pytest.raises(EvaluationError, match=r"\(cond\): op '.*' \(while_loop\): does not end within 50 passes"):
        model.predict({"x": [0, 0]})


def test_a_loop_that_never_ends_is_stopped(save_program: Callable[..., Path]) -> None:
    path = save_program(doubling(until=100), (2,))
    with pytest.raises(EvaluationError, match=r"op '.*' \(while_loop\): does not end within 50 passes \(loop_passes\)"):
        CoreMLReference(path, loop_passes=50).predict({"x": [0, 0]})
    with pytest.raises(EvaluationError, match=r"does not end within 0.05 seconds \(loop_seconds\)"):
        CoreMLReference(path, loop_seconds=0.05).predict({"x": [0, 0]})


def test_a_torch_gru_is_a_loop(tmp_path: Path) -> None:
    torch.manual_seed(0)
    gru = torch.nn.GRU(2, 3, batch_first=True).eval()
    x = torch.rand(4, 5, 2)
    inputs = [ct.TensorType("x", (ct.RangeDim(1, 9, default=1), 5, 2), dtype=np.float32)]
    model = ct.convert(
        torch.jit.trace(gru, x),
        inputs=inputs,
        outputs=[ct.TensorType("y"), ct.TensorType("h")],
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    model.save(tmp_path / "gru.mlpackage")
    reference = CoreMLReference(tmp_path / "gru.mlpackage")
    assert reference.operations["while_loop"] == 1
    np.testing.assert_allclose(reference.predict({"x": x})["y"], gru(x)[0].detach(), atol=1e-6)


def test_lists(save_program: Callable[..., Path]) -> None:
    def program(x: Any) -> Any:
        ls = mb.make_list(init_length=1, dynamic_length=True, elem_shape=(2,))
        ls = mb.list_scatter(ls=ls, indices=[0, 1, 2], value=x)
        ls = mb.list_write(ls=ls, index=1, value=mb.add(x=mb.list_read(ls=ls, index=2), y=1.0))
        return mb.list_gather(ls=ls, indices=[1, 0]), mb.list_length(ls=ls)

    model = CoreMLReference(save_program(program, (3, 2)))
    gathered, length = model.predict({"x": np.arange(6).reshape(3, 2)}).values()
    assert gathered.tolist() == [[5, 6], [0, 1]]
    assert length.tolist() == [3]


def test_lists_by_hand() -> None:
    unknown = make_list(elem_shape=["s"], init_length=2)
    with pytest.raises(EvaluationError, match="element 1 of the list was never written"):
        list_read(list_write(unknown, 0, np.ones(3)), 1)
    with pytest.raises(EvaluationError, match="index 2 of a list of 2"):
        list_gather(unknown, np.array([2]))
    with pytest.raises(EvaluationError, match="a write to index -1 of a list"):
        list_scatter(unknown, np.array([-1]), np.ones((1, 3)))
    assert unknown == [None, None]  # a write returns a new list
    zeros = make_list(elem_shape=[np.int32(2)], init_length=1, dtype="int32")
    grown = list_write(zeros, 2, np.ones(2, np.int32))
    elements = [element for element in grown if element is not None]
    assert [element.tolist() for element in elements] == [[0, 0], [0, 0], [1, 1]]
    assert elements[1].dtype == np.int32


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a package whose state sums its inputs; it returns the sum before and after."""

    def sums(x: Any, total: Any) -> Any:
        before = mb.read_state(input=total)
        after = mb.coreml_update_state(state=total, value=mb.add(x=before, y=x))
        return mb.mul(x=before, y=np.float16(1)), mb.mul(x=after, y=np.float16(1))

    specs = [mb.TensorSpec((2,), dtype=types.fp16), mb.StateTensorSpec((2,), dtype=types.fp16)]
    path = tmp_path_factory.mktemp("state") / "counter.mlpackage"
    ct.convert(
        mb.program(input_specs=specs, opset_version=ct.target.iOS18)(sums),
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
        pass_pipeline=ct.PassPipeline.EMPTY,
    ).save(path)
    return path


def test_a_state_outlives_predictions(counter: Path) -> None:
    model = CoreMLReference(counter)
    state, other = model.make_state(), model.make_state()
    for _ in range(3):
        before, after = model.predict({"x": [1, 2]}, state).values()
    assert before.tolist() == [2, 4]
    assert after.tolist() == state.read_state("total").tolist() == [3, 6]
    assert state.read_state("total").dtype == np.float16
    assert other.read_state("total").tolist() == [0, 0]
    other.write_state("total", np.array([10, 20]))
    assert model.predict({"x": [1, 2]}, other).popitem()[1].tolist() == [11, 22]


def test_states_are_checked(counter: Path, classifier_fp32: Path) -> None:
    model = CoreMLReference(counter)
    with pytest.raises(InputError, match=r"has states \(total\): pass state=make_state\(\)"):
        model.predict({"x": [1, 2]})
    with pytest.raises(InputError, match="it has no 'total'"):
        model.predict({"x": [1, 2]}, CoreMLReference(classifier_fp32).make_state())
    with pytest.raises(InputError, match="no state 'sum'; the model has total"):
        model.make_state().read_state("sum")
    with pytest.raises(InputError, match=r"'total': shape \(3,\); the model allows \(2,\)"):
        model.make_state().write_state("total", [1, 2, 3])


@pytest.mark.parametrize("labels", [["low", "mid", "high"], [7, 8, 9]])
def test_a_classifier_names_the_class(labels: list[Any], tmp_path: Path) -> None:
    program = torch.jit.trace(torch.nn.Softmax(-1), torch.rand(1, 3))
    model = ct.convert(
        program,
        inputs=[ct.TensorType("x", (1, 3))],
        classifier_config=ct.ClassifierConfig(labels, predicted_feature_name="name"),
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    model.save(tmp_path / "a.mlpackage")
    outputs = CoreMLReference(tmp_path / "a.mlpackage").predict({"x": np.log([[0.2, 0.7, 0.1]])})
    assert outputs.pop("name") == labels[1]
    (probabilities,) = outputs.values()
    assert probabilities == pytest.approx(dict(zip(labels, [0.2, 0.7, 0.1], strict=True)), abs=1e-6)


def test_shapes_that_follow_from_values_are_not_checked_on_zeros(save_program: Callable[..., Path]) -> None:
    def program(x: Any) -> Any:
        found = mb.non_zero(x=x)  # on zeros, of no rows: the maximum of nothing is an error
        return mb.reduce_max(x=mb.cast(x=found, dtype="fp32"), axes=[0], keep_dims=True)

    model = CoreMLReference(save_program(program, (4,)))
    assert first(model.predict({"x": [0, 1, 1, 0]})).tolist() == [[2]]


def test_shapes_that_follow_from_shapes_are_checked_on_zeros(save_program: Callable[..., Path]) -> None:
    def program(x: Any) -> Any:
        zeros = mb.fill(shape=mb.mul(x=mb.shape(x=x), y=[1, 2]), value=0.0)
        return mb.concat(values=[x, zeros], axis=1)

    flexible = ct.TensorType("x", (ct.RangeDim(1, 9, default=2), 3), dtype=np.float32)
    spec = mb.TensorSpec(shape=(get_new_symbol(), 3))
    model = CoreMLReference(save_program(program, spec, inputs=[flexible]))
    assert first(model.predict({"x": np.ones((4, 3))})).shape == (4, 9)
