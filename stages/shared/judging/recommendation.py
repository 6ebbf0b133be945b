"""Which file to ship: what the metrics say of each in; for every class of devices the best one, and why no other, out.

The rule: of the files of a target's format that are fit to ship (`verify`: right, and not too lossy) and that its
oldest device can run, the smallest on disk is recommended; of equally small ones the more accurate. None is if
PyTorch's own net is no better than always naming the commonest class, or is wrong itself: then all its files are.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Self

from shared.files.formats import EXECUTORS, FORMATS, REFERENCE, SUFFIXES, Exported
from shared.files.requirements import version_numbers
from shared.kit.params import Count, StageParams
from shared.kit.stage import StageError

from pydantic import Field, PlainValidator, field_validator, model_validator

SYSTEMS = {"ios": "iOS", "macos": "macOS", "onnxruntime": "ONNX Runtime", "executorch": "ExecuTorch"}
"""What a file can need a version of, by its name in size.json and in params.yaml."""


DEVICES = {"web": "browsers"}
"""Which of `OTHER_EXECUTORS` stand for devices: what fails there is recommended to none, unless a target says so."""


def _version(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\d+(\.\d+){1,2}", value):
        raise ValueError('should be a version in quotes, such as "1.20"')
    return value


Version = Annotated[str, PlainValidator(_version)]


class Target(StageParams):
    """A class of devices that a file is recommended to.

    Attributes:
        name: Such as `Android, desktop, browser`.
        format: What its files are.
        ios: The oldest iOS that has to run the file; None: no iOS has to.
        macos: The same of macOS.
        onnxruntime: The same of ONNX Runtime, such as `"1.17"`, in quotes lest 1.20 becomes 1.2.
        executorch: The same of ExecuTorch, such as `"1.4"`.
        executors: Those that must have run the file, and found it right: a name of `EXECUTORS` each. None: the format's
            own, and of the others of `DEVICES` those that are installed here.
    """

    name: str = Field(min_length=1)
    format: Exported
    ios: Count | None = None
    macos: Count | Annotated[float, Field(gt=0)] | None = None
    onnxruntime: Version | None = None
    executorch: Version | None = None
    executors: list[str] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _has_executors_of_its_format(self) -> Self:
        known = [name for name, executor in EXECUTORS.items() if executor.format == self.format]
        others = [name for name in self.executors or [] if name not in known]
        if others:
            raise ValueError(f"{others[0]!r} executes no {self.format} files; allowed executors: {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _has_a_floor(self) -> Self:
        own = FORMATS[self.format].systems
        others = [system for system in SYSTEMS if system not in own and getattr(self, system) is not None]
        if others:
            raise ValueError(f"{others[0]} is no floor of {self.format} files; allowed: {', '.join(own)}")
        if not self.floors:
            raise ValueError(f"says no oldest version; allowed: {', '.join(own)}")
        return self

    @property
    def floors(self) -> dict[str, Any]:
        """The oldest version of each system that has to run the file."""
        return {name: floor for name in SYSTEMS if (floor := getattr(self, name)) is not None}

    @property
    def floors_in_words(self) -> str:
        """Such as `from iOS 17, macOS 14`."""
        return "from " + ", ".join(f"{SYSTEMS[system]} {floor}" for system, floor in self.floors.items())

    def objection(self, file: "Candidate") -> str | None:
        """Why a file cannot be recommended to these devices, as the rest of a sentence; None if it can."""
        lacking = self._out_of_reach(file) if file.requires or not file.objection else None
        elsewhere = self._not_executed(file) if not file.objection else None
        return " and ".join(reason for reason in (file.objection, lacking, elsewhere) if reason) or None

    def _not_executed(self, file: "Candidate") -> str | None:
        """What the executors say that these devices rest on."""
        demanded = self.executors is not None
        for name in self.executors or DEVICES:
            if name == file.executor:
                continue
            title, found = EXECUTORS[name].title, file.elsewhere.get(name)
            if found is None or "left_out" in found:
                if demanded:
                    return f"was not executed by {title}" + (f": {found['left_out']}" if found else "")
            elif not found["passed"]:
                return f"is not right in {title} ({'; '.join(found['problems'])})"
        return None

    def _out_of_reach(self, file: "Candidate") -> str | None:
        """What the oldest of the devices lacks."""
        needs = file.requires
        for system, floor in self.floors.items():
            if needs.get(system) is None:
                what = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in needs.items() if value)
                return f"needs a version of {SYSTEMS[system]} that is not known ({what or 'nobody looked'})"
            if _later(needs[system], floor):
                return f"needs {SYSTEMS[system]} {needs[system]}; it has to run from {SYSTEMS[system]} {floor} on"
        return None


class ReportParams(StageParams):
    """Section `report`."""

    targets: list[Target] = Field(min_length=1)

    @field_validator("targets")
    @classmethod
    def _have_names_of_their_own(cls, targets: list[Target]) -> list[Target]:
        names = [target.name for target in targets]
        if len(set(names)) < len(names):
            raise ValueError(f"each needs a name of its own; found {', '.join(names)}")
        return targets


def _later(version: Any, floor: Any) -> bool:
    return version_numbers(str(version)) > version_numbers(str(floor))


@dataclass(frozen=True)
class Candidate:
    """A model file and all that the metrics say of it.

    Attributes:
        format: A name of `FORMATS`.
        variant: Such as `fp16`.
        task: What it is worth on the test split (evaluate.json); None if it was not executed.
        parity: How far it is from PyTorch (verify.json); None for PyTorch itself, or if it was not verified.
        size: Its facts (size.json); None if nobody measured it.
        speed: Its timings (benchmark.json); None if nobody measured it.
        accuracy_loss: PyTorch's accuracy minus its own; None if it was not executed.
        objection: Why it cannot be recommended to any device, as the rest of a sentence; None if it can.
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
        return self._latencies["p50"] if self._latencies else None

    @property
    def latency_interval(self) -> tuple[float, float] | None:
        """The 95 % interval of that median; None if not timed."""
        return (self._latencies["p50_low"], self._latencies["p50_high"]) if self._latencies else None

    @property
    def _latencies(self) -> dict[str, float] | None:
        timings = self.speed and (self.speed.get("one_thread") or self.speed.get("all_threads"))
        return timings["latency_ms"] if timings else None

    @property
    def requires(self) -> dict[str, Any]:
        """The oldest systems that run it, and what makes them so; empty if nobody looked."""
        return self.size.get("requires", {}) if self.size else {}

    @property
    def by_reference(self) -> bool:
        """Whether our own evaluator executed it, and not Apple's runtime."""
        return bool(self.parity and self.parity.get("executor") == "reference")

    @property
    def executor(self) -> str | None:
        """The runtime of its format that executed it."""
        return self.parity.get("executor") if self.parity else None

    @property
    def elsewhere(self) -> dict[str, dict[str, Any]]:
        """What was found of it by other executors: see `shared/judging/executors.py`."""
        return self.parity.get("executors", {}) if self.parity else {}

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
class Refusal:
    """A file, and why it is not recommended, as the rest of a sentence."""

    file: Candidate
    objection: str


@dataclass(frozen=True)
class Choice:
    """What to ship to one class of devices.

    Attributes:
        target: The devices.
        best: The recommended file; None if no file qualifies.
        refused: The files below it in size, or all if there is no best, with what speaks against them.
        larger: The files that qualify too.
    """

    target: Target
    best: Candidate | None
    refused: list[Refusal]
    larger: list[Candidate]

    @property
    def runtime(self) -> str:
        """What runs the file."""
        return FORMATS[self.target.format].runtime

    @property
    def needs(self) -> str:
        """The oldest systems that run the recommended file, in words."""
        known = self.best.requires if self.best else {}
        return ", ".join(f"{SYSTEMS[system]} {known[system]}" for system in SYSTEMS if known.get(system))


def object_to(task: dict[str, Any] | None, parity: dict[str, Any] | None, size: dict[str, Any] | None) -> str | None:
    """Why a file cannot be recommended to any device, as the rest of a sentence about it; None if it can."""
    if parity is None:
        return "was not verified"
    if parity["outcome"] == "wrong":
        return f"failed verification ({'; '.join(parity['problems'])})"
    if task is None:
        return "was not executed"
    if size is None:
        return "was not measured: its size is not known"
    if parity["outcome"] != "fit":
        return f"is too lossy ({'; '.join(parity['losses'])})"
    if not size.get("integer_sums", {"exact": True})["exact"]:
        return "computes something else on processors without VNNI: its integer sums can overflow"
    return None


def object_to_source(task: dict[str, Any]) -> str | None:
    """Why no file made of PyTorch's net can be recommended, in a sentence; None if one can.

    Args:
        task: What the net is worth on the test split (evaluate.json).
    """
    if task["collapsed"]:
        return "The trained net has collapsed: it names the same class, whatever it is shown."
    if task["accuracy"] <= task["majority_accuracy"]:
        return (
            f"The trained net is no better than always naming the commonest class, {task['majority_class']}: it is "
            f"right on {100 * task['accuracy']:.2f}% of the test rows, and that would be on "
            f"{100 * task['majority_accuracy']:.2f}%."
        )
    return None


def collect(
    evaluation: dict[str, Any], verification: dict[str, Any], sizes: dict[str, Any], speeds: dict[str, Any]
) -> list[Candidate]:
    """Every file that any of the metrics names, PyTorch first, and in each format the largest first.

    Raises:
        StageError: PyTorch's own accuracy is missing, or a format is unknown.
    """
    try:
        source = evaluation[REFERENCE[0]][REFERENCE[1]]
        reference, against_all = source["accuracy"], object_to_source(source)
    except KeyError as error:
        raise StageError(f"PyTorch's figures lack {error}: nothing to judge a file by; run `dvc repro`") from None
    net = verification.get(REFERENCE[0], {}).get(REFERENCE[1], {})
    net_is_wrong = net.get("outcome") == "wrong"
    names = {
        (file_format, variant): None
        for metrics in (evaluation, verification, sizes)
        for file_format, variants in metrics.items()
        for variant in variants
    }
    unknown = sorted({file_format for file_format, _ in names} - set(FORMATS))
    if unknown:
        raise StageError(f"the metrics name the unknown format {unknown[0]!r}; known: {', '.join(FORMATS)}")
    candidates = []
    for file_format, variant in names:
        task, parity, size, speed = (
            metrics.get(file_format, {}).get(variant) for metrics in (evaluation, verification, sizes, speeds)
        )
        # Both are rounded figures: so is their difference, lest 0.9699 - 0.9649 be more than 0.005.
        loss = round(reference - task["accuracy"], 6) if task else None
        objection = (
            object_to(task, parity, size)
            or ("was made from a net that is wrong itself" if net_is_wrong else None)
            or ("was made from a net that is no better than its baseline" if against_all else None)
        )
        candidates.append(Candidate(file_format, variant, task, parity, size, speed, loss, objection))
    order = list(FORMATS)
    return sorted(candidates, key=lambda file: (order.index(file.format), -file.bytes, file.variant))


def choose(candidates: list[Candidate], target: Target) -> Choice:
    """Apply the rule to one class of devices."""
    files = [file for file in candidates if file.format == target.format]
    fit = [file for file in files if target.objection(file) is None]
    fit.sort(key=lambda file: (file.bytes, file.accuracy_loss, file.variant))
    best = fit[0] if fit else None
    refused = [
        Refusal(file, objection)
        for file in reversed(files)
        if (objection := target.objection(file)) and (best is None or file.bytes <= best.bytes)
    ]
    return Choice(target, best, refused, fit[1:])
