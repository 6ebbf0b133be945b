"""What is inside an exported file: its weights against those that it was made from, its graph against its twin's."""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shared.data.sequences import SplitArrays, chosen_rows, read_rows
from shared.execution.predictions import Prediction
from shared.execution.probes import Probe
from shared.execution.runtimes import Floats, Lengths
from shared.judging.parity import Scale
from shared.judging.precision import Precision, bound, precision_of
from shared.judging.stored import read_weights
from shared.judging.twin import Source, distance, open_source
from shared.judging.weights import Match, judge_export, judge_variant, match
from shared.kit import importing
from shared.kit.stage import StageError, one_line, rounded

import numpy as np
from numpy.typing import NDArray

SINGLE_LOGIT = 20
"""How many times further than the root mean square of all a single logit may be off: a rare error hides in it."""

UNKNOWN_ROUNDING = 2.0**-22  # of a net that cannot be computed in float64: four times float32's own


@dataclass(frozen=True)
class Net:
    """The trained net, and some rows of the test split.

    Attributes:
        tensors: Its parameters and buffers by name.
        rounding: How far one rounding in float32 takes its logits, as a part of their deviation.
        rows: Which rows of the test split these are.
        sequences, lengths: What is in them.
    """

    tensors: Mapping[str, NDArray[np.float32]]
    rounding: float
    rows: NDArray[np.int_]
    sequences: Floats
    lengths: Lengths | None


def load_net(path: Path, test: SplitArrays, scale: Scale) -> Net:
    """Read a checkpoint, and compute some rows in float32 and in float64.

    Raises:
        StageError: The checkpoint is damaged.
    """
    with importing():
        from shared.network.model import load_checkpoint

        import torch

    torch.set_num_threads(1)
    model = load_checkpoint(path).model
    rows = chosen_rows(len(test.sequences))
    some = read_rows(test, rows)
    sequences, lengths = some.sequences, some.lengths
    tensors = {
        name: tensor.numpy().astype(np.float32)
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and tensor.ndim > 0 and tensor.numel()
    }
    others = () if lengths is None else (torch.from_numpy(lengths),)
    try:
        with torch.inference_mode():
            single = model(torch.from_numpy(sequences), *others).numpy()
            double = copy.deepcopy(model).double()(torch.from_numpy(sequences).double(), *others).numpy()
    except Exception:  # whatever a person's own net raises that computes in float32 alone
        rounding = UNKNOWN_ROUNDING
    else:
        rounding = distance(single, double) / scale.deviation
        rounding = rounding if np.isfinite(rounding) else UNKNOWN_ROUNDING
    return Net(tensors, rounding, rows, sequences, lengths)


@dataclass
class Inside:
    """What was found inside one file.

    Attributes:
        problems: Each begins with `weights` or `graph`.
        figures: For the metrics: `weights`, `graph_error` and the like.
        precision: What the file computes in; None if it cannot be read.
        matches: Its weights beside the source's; None if it is the float32 file, or cannot be read.
    """

    problems: list[str]
    figures: dict[str, Any] = field(default_factory=dict)
    precision: Precision | None = None
    matches: list[Match] | None = None


class FormatJudge:
    """Looks into the files of one format; the float32 file comes first, for the others are judged by it.

    Args:
        source: The float32 file; None if there is none.
        net: What it was exported from.
        scale: Of PyTorch's logits.
    """

    def __init__(self, source: Path | None, net: Net, scale: Scale) -> None:
        self.net, self.scale = net, scale
        self.source_problem: str | None = None
        self.source: Source | None = None
        if source is None:
            self.source_problem = "there is no float32 file of its format to judge it by"
            return
        try:
            self.source = open_source(source)
        except Exception as unreadable:  # also what the evaluator refuses
            self.source_problem = f"the float32 file that it is judged by cannot be read: {one_line(unreadable)}"

    def give_up(self) -> None:
        """The float32 file was not executed: by it no other can be judged."""
        self.source, self.source_problem = None, "the float32 file that it is judged by was not executed"

    def judge_export(self, path: Path, error: float | None, largest: float | None) -> Inside:
        """Judge the float32 file: its weights by the checkpoint, its logits of all rows by PyTorch's.

        Args:
            path: The file.
            error: Of its logits, the class's that is furthest off, as a part of the deviation; None if not known.
            largest: The same of the single logit that is furthest off.
        """
        if self.source is None:
            return Inside([f"weights: {self.source_problem}"])
        precision = precision_of(path)
        found = self._graph(precision, error, largest, "PyTorch")
        verdict = judge_export(self.source.weights, self.net.tensors, computes=not found.problems)
        found.problems[:0] = verdict.problems
        found.figures["weights"] = verdict.figures
        if found.problems:
            self.source_problem = "the float32 file that it is judged by is wrong itself"
        return found

    def judge_variant(self, path: Path, found: Prediction) -> Inside:
        """Judge any other file: its weights by the float32 file's, its logits of some rows by its twin's."""
        if self.source is None:
            return Inside([f"weights: {self.source_problem}"])
        try:
            matches = match(self.source.weights, read_weights(path))
            precision = precision_of(path)
        except StageError as unreadable:
            return Inside([f"weights: {unreadable}"])
        verdict = judge_variant(matches, found.precision)
        try:
            twin = self.source.logits(matches, self.net.sequences, self.net.lengths)
        except Exception as failed:  # what a runtime raises has no common base
            words = f"graph: the float32 graph does not run with its weights: {one_line(failed)}"
            return Inside([*verdict.problems, words], {"weights": verdict.figures})
        logits = np.asarray(found.logits[self.net.rows], np.float64)
        if logits.shape == twin.shape and np.isfinite(twin).all() and np.isfinite(logits).all():
            error = rounded(distance(logits, twin) / self.scale.deviation, 3)
            largest = rounded(float(np.abs(logits - twin).max()) / self.scale.deviation, 3)
            judged = self._graph(precision, error, largest, "its own weights in the float32 graph")
        else:
            judged = self._graph(precision, None, None, "its own weights in the float32 graph")
        judged.problems[:0] = verdict.problems
        judged.figures["weights"] = verdict.figures
        judged.matches = matches
        if self.source_problem:
            judged.problems.append(f"graph: {self.source_problem}")
        return judged

    def answers(self, inside: Inside, found: Prediction, reference: Prediction, probes: list[Probe]) -> Prediction:
        """What the probes should give: PyTorch's answers, or those of the file's twin.

        PyTorch's stand where the file itself has none to compare, and say in any case how far rounding goes there.
        """
        if self.source is None or inside.matches is None:
            return reference
        answers = dict(reference.record["probes"])
        for probe in probes:
            asked, given = answers.get(probe.name, {}), found.record["probes"].get(probe.name, {})
            if "logits" in asked and "logits" in given:
                answers[probe.name] = asked | self._answer(inside.matches, probe)
        return replace(reference, record=reference.record | {"probes": answers})

    def _answer(self, matches: list[Match], probe: Probe) -> dict[str, Any]:
        assert self.source is not None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that numbers leave a precision's range: some probes are there for it
                logits = np.concatenate([self.source.logits(matches, *rows) for rows in probe.parts])
        except Exception as error:  # what a runtime raises has no common base
            return {"failure": one_line(error)}
        return {"logits": np.where(np.isfinite(logits), logits, np.nan)}

    def _graph(self, precision: Precision, error: float | None, largest: float | None, what: str) -> Inside:
        allowed = rounded(bound(precision, self.net.rounding), 3)
        figures = {
            "computes_in": precision.name,
            "graph_error": error,
            "graph_largest_error": largest,
            "graph_bound": allowed,
        }
        if error is None or largest is None:
            return Inside([f"graph: its logits are not comparable with those of {what}"], figures, precision)
        return Inside(beyond(error, largest, allowed, what), figures, precision)


def beyond(error: float, largest: float, allowed: float, what: str) -> list[str]:
    """Which errors are larger than they may be, in words.

    Args:
        error: Of the class that is furthest off, in the root mean square, as a part of the deviation.
        largest: Of the single logit that is furthest off.
        allowed: For the first.
        what: Whose logits these errors are from.
    """
    anywhere = rounded(SINGLE_LOGIT * allowed, 3)
    if error > allowed:
        return [f"graph: relative error {error} from what {what} gives is above {allowed}"]
    if largest > anywhere:
        return [f"graph: relative error of one logit {largest} from what {what} gives is above {anywhere}"]
    return []
