"""The weights of a file against those that it was made from: each the nearest that its scheme can represent.

No number here belongs to a recipe, a net or data: what a scheme can represent follows from the file's own scales,
tables and masks, and the rounding around it from the precision that the weights are restored in.

A variant is judged by the float32 file of its format, tensor by tensor. That file is judged by the checkpoint, value by
value: exporters reorder gates, join and transpose tensors, so every value of the checkpoint must be there, wherever.
That it is in the right place is what the graph's check shows, which holds this file to PyTorch's logits.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from shared.judging.stored import Floats, Stored, expand

import numpy as np
from numpy.typing import NDArray

HALF_UNIT = 2.0**-11  # the largest relative error of rounding to float16
SINGLE_UNIT = 2.0**-24
SMALLEST_HALF = 2.0**-24
EXACTLY_HALF_A_STEP = 0.5 * (1 + 1e-3)  # what is exactly between two steps may become either
LEVELS_SLACK = 1 - 2e-3  # a scale is rounded itself
MASK_SLACK = 0.01  # of the weights: how far a mask may be from the share in the variant's name

FOLDED_SHARE = 0.1  # of a tensor's values: more that are others were computed with; fewer were damaged

WORD = re.compile(r"(fp|int|palette|sparse)(\d+)")


@dataclass(frozen=True)
class Match:
    """A weight of the source, and what the file has in its place.

    Attributes:
        source: The weight in the file that this one was made from.
        found: The weight of this file, in the same order of axes; None if it has none of this size.
        problem: Why it is not the nearest that its scheme can represent; None if it is.
    """

    source: Stored
    found: Stored | None
    problem: str | None

    @property
    def values(self) -> Floats:
        """What this file computes with, in the source's layout; the source's own if it has no such weight."""
        values = self.source.values if self.found is None else self.found.values
        return values.reshape(self.source.values.shape)


def match(source: list[Stored], found: list[Stored]) -> list[Match]:
    """Find each weight of the source in a file: the first that is as near to it as its scheme allows, in any layout.

    Several weights of the source may be one in the file if they are equal. If none is near enough, the nearest of the
    same size is the match, and the problem says how it differs.
    """
    free = dict(enumerate(found))
    matches: list[Match] = []
    left: list[Stored] = []
    for weight in source:
        for number, candidate in (*free.items(), *((-1, other) for other in found)):
            fitting = next((it for it in layouts(candidate, weight) if violation(it, target(weight)) is None), None)
            if fitting is not None:
                free.pop(number, None)
                matches.append(Match(weight, fitting, None))
                break
        else:
            left.append(weight)
    for weight in left:
        pairs = [
            (float(np.abs(it.values - target(weight)).mean()), number, it)
            for number, candidate in free.items()
            for it in layouts(candidate, weight)
        ]
        if not pairs:
            matches.append(Match(weight, None, "is not in the file"))
            continue
        _, number, nearest = min(pairs, key=lambda pair: (np.nan_to_num(pair[0], nan=np.inf), pair[1]))
        del free[number]
        matches.append(Match(weight, nearest, violation(nearest, target(weight))))
    order = {id(weight): number for number, weight in enumerate(source)}
    return sorted(matches, key=lambda found: order[id(found.source)])


def target(weight: Stored) -> Floats:
    """The source's values without axes of one element."""
    return weight.values.squeeze()


def layouts(candidate: Stored, weight: Stored) -> list[Stored]:
    """A candidate in every order of its axes that gives the weight's shape."""
    return list(candidate.laid_out_as(weight.values.shape))


def violation(stored: Stored, source: Floats) -> str | None:
    """Why a stored weight is not the nearest to the source's that its scheme can represent, in words; None if it is.

    Args:
        stored: Without axes of one element.
        source: The values that it was made from, float32, of the same shape.
    """
    values = stored.values
    if not np.isfinite(values).all():
        return f"{count(~np.isfinite(values))} are not finite"
    # A compressed file is made from the half-precision one: its source was rounded before, and the result is again.
    unit = HALF_UNIT if stored.half else SINGLE_UNIT
    slack = unit * 1.01 * (np.abs(source) + np.abs(values)) + (SMALLEST_HALF if stored.half else 0)
    kinds = stored.kinds
    if kinds[0].startswith("float"):
        rounded = source.astype(kinds[0]).astype(np.float64)
        # Half a smallest step more: what float16 holds below its normal range depends on who rounds.
        allowed = np.abs(rounded - source) + (SMALLEST_HALF / 2 if kinds[0] == "float16" else 0)
        return differing(values, source, np.abs(values - source) > allowed, f"nearest {kinds[0]}")
    everywhere = np.ones(values.shape, bool)
    kept = everywhere if stored.kept is None else stored.kept
    if stored.kept is not None:
        if (values[~kept] != 0).any():
            return f"{count(values[~kept] != 0)} that the mask drops are not zero"
        if kept.any() and not kept.all():
            largest, smallest = np.abs(source[~kept]).max(), (np.abs(source) + slack)[kept].min()
            if largest > smallest + HALF_UNIT * largest:
                return f"the mask drops {largest:.6g} and keeps {np.abs(source[kept]).min():.6g}, which is smaller"
        if kinds == ["sparse"]:
            exact = source.astype(np.float16 if stored.half else np.float32).astype(np.float64)
            return differing(values, source, kept & (np.abs(values - exact) > SMALLEST_HALF / 2), "kept unchanged")
    if stored.scale is not None:
        step = expand(np.abs(stored.scale), values.shape)
        # coremltools divides by the scale in half precision too: the quotient is rounded once more.
        far = kept & (np.abs(values - source) > EXACTLY_HALF_A_STEP * step + slack + unit * np.abs(source))
        return differing(values, source, far, "within half a step of their scale") or unfitting_scale(
            stored, np.where(kept, source, 0)
        )
    grouping = HALF_UNIT * np.abs(source) if stored.grouped_in_half else np.zeros_like(source)
    for part, entries in stored.tables:
        inside, near = values[part], source[part]
        problem = unfitting_palette(entries, near[kept[part]], slack[part].max(initial=0))
        if problem:
            return problem
        far = kept[part] & (np.abs(inside - near) > distance(near, entries) + 2 * grouping[part] + slack[part])
        problem = differing(inside, near, far, "nearest entry of their palette")
        if problem:
            return problem
    return None


def unfitting_scale(stored: Stored, source: Floats) -> str | None:
    """Why the steps of integers do not fit what they stand for: too coarse, with most of their levels unused."""
    assert stored.scale is not None
    scale = np.abs(stored.scale)
    if not stored.levels:
        return None
    low, high = extremes(np.minimum(source, 0), scale.shape, low=True), extremes(np.maximum(source, 0), scale.shape)
    reach = (high - low) / 2 if stored.offset else np.maximum(high, -low)
    unit = HALF_UNIT if stored.half else SINGLE_UNIT
    coarse = scale * stored.levels * (LEVELS_SLACK - unit) > reach
    if not (coarse & (reach > 0)).any():
        return None
    worst = int(np.argmax(np.where(coarse & (reach > 0), scale / np.maximum(reach, 1e-300), 0)))
    step, largest = scale.ravel()[worst], reach.ravel()[worst]
    return (
        f"the scale {step:.6g} does not fit a largest weight of {largest:.6g}: it should be at most "
        f"{largest / stored.levels:.6g}"
    )


def extremes(values: Floats, counts: tuple[int, ...], low: bool = False) -> Floats:
    """The highest or lowest value of each block, of which there are so many along each axis."""
    shape = [part for count, size in zip(counts, values.shape, strict=True) for part in (count, size // count)]
    blocks = values.reshape(shape)
    axes = tuple(range(1, 2 * values.ndim, 2))
    result: Floats = blocks.min(axis=axes) if low else blocks.max(axis=axes)
    return result


def unfitting_palette(entries: Floats, source: Floats, slack: float) -> str | None:
    """Why a palette does not fit what it stands for: an entry lies outside its range."""
    if not source.size:
        return None
    low, high = source.min() - slack, source.max() + slack
    # Core ML's tables have 2**bits entries: those that are not needed are zero.
    outside = entries[((entries < low) | (entries > high)) & (entries != 0)]
    if outside.size:
        return f"the palette's entry {outside[0]:.6g} lies outside the weights' range, {low:.6g} to {high:.6g}"
    return None


def distance(values: Floats, entries: Floats) -> Floats:
    """How far the nearest of sorted entries is from each value."""
    after = np.searchsorted(entries, values).clip(0, len(entries) - 1)
    before = (after - 1).clip(0)
    nearest: Floats = np.minimum(np.abs(entries[after] - values), np.abs(entries[before] - values))
    return nearest


def differing(values: Floats, source: Floats, wrong: NDArray[np.bool_], expected: str) -> str | None:
    """How many values are not as they should be, and the first of them; None if all are."""
    if not wrong.any():
        return None
    place = tuple(int(at[0]) for at in np.nonzero(wrong))
    first = f"{values[place]:.6g} at {list(place)} stands for {source[place]:.6g}"
    return (
        f"{count(wrong)} are not the {expected}: {first}"
        if "nearest" in expected
        else (f"{count(wrong)} are not {expected}: {first}")
    )


def count(wrong: NDArray[np.bool_]) -> str:
    """How many of how many."""
    return f"{int(wrong.sum())} of {wrong.size}"


# --- what the variant's name says ---


def words_of(variant: str) -> list[tuple[str, int]]:
    """What a variant's name says of its weights, such as sparse, 50; what it says otherwise is no business of ours."""
    return [(found[1], int(found[2])) for word in variant.split("_") if (found := WORD.fullmatch(word))]


def as_named(stored: Stored, variant: str) -> bool:
    """Whether a weight is stored in the form that the variant's name says."""
    forms = {"fp": "float{}", "int": "int{}", "palette": "palette", "sparse": "sparse"}
    said = [forms[kind].format(amount) for kind, amount in words_of(variant)]
    return not said or stored.kinds == said


def unlike_its_name(stored: Stored, variant: str) -> str | None:
    """Why a weight that is stored in the form that the name says has another amount of it; None if it has not."""
    for kind, amount in words_of(variant):
        if kind == "palette" and any(len(entries) > 2**amount for _, entries in stored.tables):
            return f"has a palette of {max(len(entries) for _, entries in stored.tables)}; {variant} says {2**amount}"
        if kind == "sparse" and stored.kept is not None:
            dropped = 1 - float(stored.kept.mean())
            if abs(dropped - amount / 100) > max(MASK_SLACK, 1.5 / stored.kept.size):
                return f"lacks {dropped:.1%} of its values; {variant} says {amount} %"
    return None


@dataclass(frozen=True)
class Verdict:
    """What the weights of a file are.

    Attributes:
        problems: In words, each with the name of a weight.
        figures: `tensors`: how many the source has; `stored_as_named`: how many of them this file stores in the form
            that the variant's name says; for the float32 file `folded`: the checkpoint's tensors whose values are not
            in the file, since the exporter computed with them: what they became the graph's check judges.
    """

    problems: list[str]
    figures: dict[str, object]


def judge_variant(matches: list[Match], variant: str) -> Verdict:
    """Judge a variant by the weights of the float32 file of its format."""
    problems, named = [], 0
    for found in matches:
        problem = found.problem
        if found.found is not None and as_named(found.found, variant):
            named += 1
            problem = problem or unlike_its_name(found.found, variant)
        if problem:
            stored = f", as {found.found.form}" if found.found else ""
            problems.append(f"weights: {found.source.name}{stored}: {problem}")
    if not named:
        problems.append(f"weights: none is stored as {variant} says")
    return Verdict(problems, {"tensors": len(matches), "stored_as_named": named})


# --- the float32 file against the checkpoint ---


def judge_export(found: list[Stored], checkpoint: Mapping[str, NDArray[np.float32]], computes: bool) -> Verdict:
    """Judge the float32 file of a format by the checkpoint: every value of every tensor must be in the file.

    Args:
        found: The weights of the file.
        checkpoint: Parameters and buffers by name.
        computes: Whether the file computes PyTorch's logits. Then a tensor of which many values are not there was
            folded into another (as a batch normalisation is into a convolution); else it is missing.
    """
    problems = [f"weights: {stored.name} is stored as {stored.form}" for stored in found if stored.form != "float32"]
    values = [stored.values.ravel().astype(np.float32) for stored in found]
    there = np.unique(np.concatenate([*values, np.zeros(1, np.float32)]))
    folded = []
    for name, tensor in checkpoint.items():
        absent = ~np.isin(tensor, there)
        if absent.any() and (other := partner(name)) in checkpoint:  # Core ML has one bias, torch two
            absent &= ~np.isin(tensor + checkpoint[other], there)
        if absent.any():  # a deviation that Core ML multiplies by instead of dividing
            with np.errstate(divide="ignore"):
                absent &= ~np.isin(np.float32(1) / tensor, there)
        if not absent.any():
            continue
        if computes and absent.mean() > FOLDED_SHARE:
            folded.append(name)
            continue
        place = [int(at[0]) for at in np.nonzero(absent)]
        problems.append(
            f"weights: {name}: {count(absent)} values are not in the file, the first of them "
            f"{tensor[tuple(place)]:.6g} at {place}"
        )
    stored = sum(stored.form == "float32" for stored in found)
    figures: dict[str, object] = {"tensors": len(found), "stored_as_named": stored}
    return Verdict(problems, figures | ({"folded": folded} if folded else {}))


def partner(name: str) -> str:
    """The other bias of a recurrent layer."""
    if "bias_ih" in name:
        return name.replace("bias_ih", "bias_hh")
    return name.replace("bias_hh", "bias_ih") if "bias_hh" in name else ""
