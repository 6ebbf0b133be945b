"""What a GRU's loop passes from step to step; that it computes what torch does is tested with every architecture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import export_coreml
from shared.coreml_reference.program import load_program
from shared.model import Checkpoint
from tests.support import EXPORT_NAMES, EXPORT_PARAMS, classifier

import pytest


def operations(block: Any) -> Iterator[Any]:
    """Of a block and of those inside it."""
    for operation in block.operations:
        yield operation
        for nested in operation.blocks:
            yield from operations(nested)


def loops(folder: Path, precision: export_coreml.Precision, **options: Any) -> list[Any]:
    """The loops of an exported GRU."""
    model = Checkpoint(classifier("gru", hidden_size=8, **options), {})
    path = folder / "gru.mlpackage"
    export_coreml.save(export_coreml.export_coreml(model, EXPORT_NAMES, EXPORT_PARAMS, precision), path)
    return [one for one in operations(load_program(path, None).function) if one.op_type == "while_loop"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_only_states_that_are_read_are_kept(tmp_path: Path, precision: export_coreml.Precision) -> None:
    """Of two layers the first one's; of the last layer nothing but the last state."""
    first, second = loops(tmp_path, precision, layers=2)
    assert [len(one.loop_vars) for one in (first, second)] == [3, 2]
    assert [sum(inner.op_type == "scatter" for inner in operations(one.blocks[1])) for one in (first, second)] == [1, 0]


def test_in_half_precision_no_step_casts_the_states_of_all_steps(tmp_path: Path) -> None:
    [first, _] = loops(tmp_path, "fp16", layers=2)
    casts = [one for one in operations(first.blocks[1]) if one.op_type == "cast"]
    assert casts
    assert all(one.x.rank < 3 or one.x.shape[0] == 1 for one in casts)
