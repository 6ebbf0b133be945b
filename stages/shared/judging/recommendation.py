"""Which file to ship: what the metrics say of each in; of every runtime the recommended one, and why no other, out.

The rule: of each runtime's files that were executed and verified and that lose no more accuracy against PyTorch than is
allowed, the smallest on disk is recommended; of equally small ones the more accurate.
"""

from dataclasses import dataclass
from typing import Any

from shared.files.artifacts import REFERENCE, SUFFIXES
from shared.stage import StageError

PLATFORMS = {"onnx": ("ONNX Runtime", "Android, Linux, Windows, browsers"), "coreml": ("Core ML", "iOS, macOS")}
"""What runs the exported files of a format, and where."""


@dataclass(frozen=True)
class Candidate:
    """A model file and all that the metrics say of it.

    Attributes:
        format: `pytorch`, `onnx` or `coreml`.
        variant: Such as `fp16`.
        task: What it is worth on the test split (evaluate.json); None if it was not executed.
        parity: How far it is from PyTorch (verify.json); None for PyTorch itself, or if it was not verified.
        size: Its facts (size.json); None if nobody measured it.
        speed: Its timings (benchmark.json); None if nobody measured it.
        accuracy_loss: PyTorch's accuracy minus its own; None if it was not executed.
        objection: Why it cannot be recommended, as the rest of a sentence; None if it can.
    """

    format: str
    variant: str
    task: dict[str, Any] | None
    parity: dict[str, Any] | None
    size: dict[str, Any] | None
    speed: dict[str, Any] | None
    accuracy_loss: float | None
    objection: str | None

    @property
    def file(self) -> str:
        """Its name in the format's folder."""
        stem = "classifier" if (self.format, self.variant) == REFERENCE else f"classifier-{self.variant}"
        return f"{stem}{SUFFIXES[self.format]}"

    @property
    def bytes(self) -> float:
        """Its size on disk; infinite if nobody measured it."""
        return self.size["bytes"] if self.size else float("inf")

    @property
    def latency(self) -> float | None:
        """Median milliseconds of one sequence, on one thread where a runtime lets one choose; None if not timed."""
        timings = self.speed and (self.speed.get("one_thread") or self.speed.get("all_threads"))
        return timings["latency_ms"]["p50"] if timings else None

    @property
    def by_reference(self) -> bool:
        """Whether our own evaluator executed it, and not Apple's runtime."""
        return bool(self.parity and self.parity.get("executor") == "reference")

    @property
    def one_by_one(self) -> bool:
        """Whether it was executed at batch 1, because its result depends on what else is in the batch."""
        return bool(self.parity and self.parity.get("batch_dependent"))

    @property
    def problems(self) -> list[str]:
        """What `verify` found wrong with it."""
        if (self.format, self.variant) == REFERENCE:
            return []
        return self.parity["problems"] if self.parity else ["verified: no figures were found"]


@dataclass(frozen=True)
class Choice:
    """What to ship on the platforms of one format.

    Attributes:
        runtime: What runs the format.
        systems: Where.
        best: The recommended file; None if no file qualifies.
        refused: The files below it in size, or all if there is no best, with what speaks against them.
        larger: The files that qualify too.
    """

    runtime: str
    systems: str
    best: Candidate | None
    refused: list[Candidate]
    larger: list[Candidate]


def object_to(
    task: dict[str, Any] | None, parity: dict[str, Any] | None, size: dict[str, Any] | None, allowed: float, loss: float
) -> str | None:
    """Why a file cannot be recommended, as the rest of a sentence about it; None if it can."""
    if parity is None:
        return "was not verified"
    if not parity["passed"]:
        return f"failed verification ({'; '.join(parity['problems'])})"
    if task is None:
        return "was not executed"
    if size is None:
        return "was not measured: its size is not known"
    if loss > allowed:
        return f"loses {_points(loss)} points of accuracy; {_points(allowed)} are allowed"
    return None


def collect(
    evaluation: dict[str, Any], verification: dict[str, Any], sizes: dict[str, Any], speeds: dict[str, Any],
    allowed_loss: float,
) -> list[Candidate]:  # fmt: skip
    """Every file that any of the metrics names, PyTorch first, and in each format the largest first.

    Raises:
        StageError: PyTorch's own accuracy is missing, or a format is unknown.
    """
    try:
        reference = evaluation[REFERENCE[0]][REFERENCE[1]]["accuracy"]
    except KeyError:
        raise StageError("PyTorch's accuracy is missing: nothing to judge a loss by; run `dvc repro`") from None
    names = {
        (file_format, variant): None
        for metrics in (evaluation, verification, sizes)
        for file_format, variants in metrics.items()
        for variant in variants
    }
    unknown = sorted({file_format for file_format, _ in names} - set(SUFFIXES))
    if unknown:
        raise StageError(f"the metrics name the unknown format {unknown[0]!r}; known: {', '.join(SUFFIXES)}")
    candidates = []
    for file_format, variant in names:
        task, parity, size, speed = (
            metrics.get(file_format, {}).get(variant) for metrics in (evaluation, verification, sizes, speeds)
        )
        # Both are rounded figures: so is their difference, lest 0.9699 - 0.9649 be more than 0.005.
        loss = round(reference - task["accuracy"], 6) if task else None
        objection = object_to(task, parity, size, allowed_loss, loss or 0.0)
        candidates.append(Candidate(file_format, variant, task, parity, size, speed, loss, objection))
    order = list(SUFFIXES)
    return sorted(candidates, key=lambda file: (order.index(file.format), -file.bytes, file.variant))


def _points(share: float) -> str:
    return f"{100 * share:.2f}"


def choose(candidates: list[Candidate], file_format: str) -> Choice:
    """Apply the rule to one format."""
    files = [file for file in candidates if file.format == file_format]
    fit = [file for file in files if file.objection is None]
    fit.sort(key=lambda file: (file.bytes, file.accuracy_loss, file.variant))
    best = fit[0] if fit else None
    refused = [file for file in reversed(files) if file.objection and (best is None or file.bytes <= best.bytes)]
    return Choice(*PLATFORMS[file_format], best, refused, fit[1:])
