"""What is nearest, by scheme; and what of a checkpoint must be in the float32 file."""

from dataclasses import replace
from typing import Any

from shared.judging.stored import Stored
from shared.judging.weights import judge_export, judge_variant, match

import numpy as np
import pytest

SOURCE = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32).astype(np.float64)


def stored(values: Any, form: str = "float32", **scheme: Any) -> Stored:
    return Stored("w", "w", np.asarray(values, np.float64), form, **scheme)


def integers(step: float, rounding: Any = np.round) -> Stored:
    return stored(rounding(SOURCE / step) * step, "int8", scale=np.full((1, 1), step), levels=127)


STEP = float(np.abs(SOURCE).max()) / 127


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (stored(SOURCE.astype(np.float16), "float16", half=True), None),
        (integers(STEP), None),
        (integers(STEP, np.floor), "are not within half a step of their scale"),
        (integers(4 * STEP), "does not fit a largest weight"),
        (stored(-SOURCE), "are not the nearest float32"),
        (stored(np.where(SOURCE > 2, np.inf, SOURCE) + np.inf), "are not finite"),
    ],
)
def test_a_weight_is_the_nearest_that_its_scheme_can_represent(found: Stored, problem: str | None) -> None:
    [matched] = match([stored(SOURCE)], [found])
    assert (matched.problem is None) if problem is None else (problem in str(matched.problem))


def test_only_where_weights_were_rounded_before_may_a_palette_s_nearest_entry_be_another() -> None:
    """The farther of two entries, by less than what rounding to half precision may move a weight."""
    source, entries = np.array([0.99, 1.0, 1.0105]), np.array([0.99, 1.0105])
    tables = ((slice(None),), entries)
    taken = {"tables": (tables,)}
    as_rounded = stored([0.99, 1.0105, 1.0105], "palette", grouped_in_half=True, **taken)
    [rounded] = match([stored(source)], [as_rounded])
    [exact] = match([stored(source)], [replace(as_rounded, grouped_in_half=False)])
    assert rounded.problem is None
    assert "are not the nearest entry of their palette" in str(exact.problem)


def test_a_weight_is_found_in_another_layout_and_among_others() -> None:
    other = stored(SOURCE + 1)
    matches = match([stored(SOURCE), other], [stored((SOURCE + 1).T), stored(SOURCE.T[None])])
    assert [found.problem for found in matches] == [None, None]
    np.testing.assert_array_equal(matches[0].values, SOURCE)


def test_a_weight_that_the_file_lacks_is_a_problem_with_its_name() -> None:
    verdict = judge_variant(match([stored(SOURCE), Stored("bias", "b", SOURCE[0], "float32")], [stored(SOURCE)]), "own")
    assert verdict.problems == ["weights: bias: is not in the file"]
    assert verdict.figures == {"tensors": 2, "stored_as_named": 1}


def test_a_variant_none_of_whose_weights_are_as_its_name_says_is_wrong() -> None:
    verdict = judge_variant(match([stored(SOURCE)], [stored(SOURCE)]), "int8")
    assert verdict.problems == ["weights: none is stored as int8 says"]


@pytest.mark.parametrize(("computes", "folded"), [(True, True), (False, False)])
def test_what_was_folded_into_another_tensor_is_listed_where_the_graph_proves_it(computes: bool, folded: bool) -> None:
    checkpoint = {"conv": SOURCE.astype(np.float32)}
    verdict = judge_export([stored(SOURCE * 1.7)], checkpoint, computes)
    assert verdict.figures.get("folded") == (["conv"] if folded else None)
    assert bool(verdict.problems) != folded


def test_one_damaged_value_is_never_taken_for_folded() -> None:
    damaged = SOURCE.copy()
    damaged[2, 1] = np.nextafter(np.float32(damaged[2, 1]), np.float32(9))
    [problem] = judge_export([stored(damaged)], {"conv": SOURCE.astype(np.float32)}, computes=True).problems
    assert problem.startswith("weights: conv: 1 of 24 values are not in the file")
    assert problem.endswith("at [2, 1]")
