"""A sweep: a search space in, every trial an ordinary DVC experiment out, and one page that compares them.

    python commands/sweep.py sweeps/learning_rate.yaml --jobs 2

Each trial is a `dvc exp run` in a clone of its own at the commit that is checked out now, and is published when it is
finished: into this checkout, or to a Git remote and the DVC remote (`--remote origin`), where anybody's `dvc exp pull`
finds it. Its name is a hash of the revision and the parameters: the same command again goes on where it was, and runs
nothing twice. A trial that fails is reported and not tried again; one whose machine was lost is.

Needs requirements-sweep.txt: `make sweep SPACE=sweeps/learning_rate.yaml` installs it first. See docs/sweeps.md.

Exit code: 0 finished, 1 nothing could be run, 2 trials are unfinished or unpublished (run it again), 130 ended
by Ctrl-C.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "stages"), str(PROJECT)]

from commands.sweeps.page import write_page  # noqa: E402
from commands.sweeps.pipeline import Pipeline, keep_last_run, read_pipeline  # noqa: E402
from commands.sweeps.schedule import Schedule  # noqa: E402
from commands.sweeps.screen import Screen, shown  # noqa: E402
from commands.sweeps.space import Settings, Space, read_space  # noqa: E402
from commands.sweeps.trial import STOPPED, RemoteError, git, reference_of, trial_name  # noqa: E402
from commands.sweeps.watching import LOSSES, limits_from, read_losses, to_text  # noqa: E402
from commands.sweeps.worker import Job  # noqa: E402
from shared.kit.stage import StageError, one_line, run  # noqa: E402 - after the path to it

SECRETS = re.compile(r"password|secret|token|passphrase|connection_string|access_key|account_key|sas|credential")
"""Options of a DVC remote that stay on this machine: a node has its own, in its environment or configuration."""
BARE_WORD = re.compile(r"(?!(null|true|false|nan|inf)$)[A-Za-z][\w-]*", re.IGNORECASE)
"""Text that needs no quotes in `dvc exp run -S`."""
TOLD = ("commit", "reference", "ran", "seconds", "cpu_seconds", "node")
"""What the study keeps of an outcome."""
POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Place:
    """Where trials are cloned from, computed and published.

    Attributes:
        url: The Git repository.
        revision: The commit.
        push_data: Whether the data go to the DVC remote.
        work: The folder of a node's clones.
        cache: DVC's cache on this machine, or one that all nodes share.
        config: Of DVC, for each clone: section to options.
        identity: Name and address of whoever runs this.
    """

    url: str
    revision: str
    push_data: bool
    work: str
    cache: str
    config: dict[str, dict[str, str]]
    identity: tuple[str, str]


@dataclass
class Sweep:
    """One run of the command.

    Attributes:
        space: What is searched.
        stages: Those that every trial runs, with all that they need.
        place: Where.
        pipeline: The project's.
        published: Names of the experiments that are published already.
        names: Trial to its number in the study; twins, which have the same parameters, to several.
        unpublished: Trial to what the remote said.
        lost: Trial to what happened to its last worker.
    """

    space: Space
    stages: list[str]
    place: Place
    pipeline: Pipeline
    study: Any
    screen: Screen
    published: set[str] = field(default_factory=set)
    names: dict[str, list[int]] = field(default_factory=dict)
    unpublished: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    _outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    _early: list[float] = field(default_factory=list)
    _curves: list[list[float]] = field(default_factory=list)

    def run(self, cluster: Any, *, shared: bool) -> None:
        """Run every trial that is still to be run."""
        # What no trial changes, and the last run of this checkout has computed, is in the trials' cache.
        varied = [*self.space.parameters, *self.space.fixed, *self.space.remove]
        done = keep_last_run(self.pipeline, self.place.cache) - self.pipeline.touched(self.stages, varied)
        schedule = Schedule(self.pipeline, self.stages, shared=shared, done=done if shared else ())
        nodes = {trial.number: trial.kept.get("node") for trial in self.study.trials()}
        waiting = deque(self.study.unfinished())
        self._early = [value for trial in self.study.trials() if (value := self._early_figure(trial.kept)) is not None]
        self._curves = [
            self._losses(trial.kept["commit"]) for trial in self.study.trials() if trial.state == "complete"
        ]
        # A sampler that learns is asked late; the others, for some that train differently.
        ahead = cluster.jobs * (1 if self.space.sampler in ("tpe", "nsga2") else 8)
        while True:
            while len(cluster.running) < cluster.jobs:
                startable = next((asked for asked in waiting if schedule.may_start(asked.settings)), None)
                if startable is None:
                    asked = self.study.ask() if len(waiting) < ahead else None
                    if asked is None:
                        break
                    if not self._known(asked):
                        waiting.append(asked)
                    continue
                waiting.remove(startable)
                if self._known(startable):
                    continue
                name = self.name_of(startable.settings)
                schedule.start(name, startable.settings)
                cluster.submit(self._job(name, startable.settings), nodes.get(startable.number))
            if not cluster.running and not waiting:
                return
            for job, outcome in cluster.finished(POLL_SECONDS):
                schedule.end(job.name, published=outcome["status"] == "published")
                self.settle(job.name, outcome)
            doing = cluster.doing()
            for name, (stage, _) in doing.items():
                schedule.reached(name, stage)
            self.screen.show(self.study, list(cluster.running.values()), doing, cluster.jobs)

    def name_of(self, settings: Settings) -> str:
        """The name of a trial's experiment."""
        return trial_name(self.place.revision, self.arguments(settings), self.stages)

    def arguments(self, settings: Settings) -> list[str]:
        """What `dvc exp run -S` is told."""
        changes = [f"{key}={to_hydra(value)}" for key, value in (self.space.fixed | settings).items()]
        return [*changes, *(f"~{key}" for key in self.space.remove)]

    def settle(self, name: str, outcome: dict[str, Any]) -> None:
        """Tell the study, and the person, what became of a trial and of its twins."""
        self._outcomes[name] = outcome
        numbers = self.names[name]
        kept = {key: outcome.get(key) for key in TOLD} | {"name": name}
        status = outcome["status"]
        figures: dict[str, Any] = {}
        if status in ("published", "stopped"):
            try:
                self._fetch(outcome["reference"])
                figures = self._figures(outcome["commit"], stopped=status == "stopped")
            except (RemoteError, StageError) as error:
                status, outcome = "failed", outcome | {"error": str(error), "stage": None}
        if (early := self._early_figure({"figures": figures})) is not None:
            self._early.append(early)
        if status == "published":
            self._curves.append(self._losses(outcome["commit"]))
        for place, number in enumerate(numbers):
            twin = {"same_as": numbers[0], "ran": []} if place else {}
            if status == "published":
                values = [figures[objective.metric] for objective in self.space.objectives]
                unfit = sum(not figures[f"verify.{file}"] for file in self.space.fit)
                self.study.complete(number, values, unfit, figures=figures, **kept | twin)
            elif status == "stopped":
                self.study.stop(number, figures=figures, error=outcome.get("error"), **kept | twin)
            elif status == "failed":
                self.study.fail(number, stage=outcome.get("stage"), error=outcome.get("error"), **kept | twin)
        if status in ("unpublished", "lost"):
            (self.unpublished if status == "unpublished" else self.lost)[name] = str(outcome.get("error"))
            self._outcomes.pop(name)
        self.screen.tell(name, status, outcome, figures)

    def _known(self, asked: Any) -> bool:
        """Whether a trial need not run: it is published, or runs or ran under another number."""
        name = self.name_of(asked.settings)
        numbers = self.names.setdefault(name, [])
        if asked.number in numbers:
            return False
        numbers.append(asked.number)
        if name in self._outcomes:
            self.settle(name, self._outcomes[name])
            return True
        if len(numbers) > 1:
            return True
        for each in (name, f"{name}{STOPPED}") if self.space.early_stop or self.space.prune else (name,):
            if each in self.published:
                reference = reference_of(self.place.revision, each)
                self._fetch(reference)
                commit = git("rev-parse", "--verify", reference)
                status = "stopped" if each != name else "published"
                self.settle(name, {"status": status, "reference": reference, "commit": commit, "ran": []})
                return True
        return False

    def _job(self, name: str, settings: Settings) -> Job:
        place = self.place
        arguments = ["--publish", place.url, "--stages", *self.stages]
        arguments += [word for setting in self.arguments(settings) for word in ("--set", setting)]
        if self.space.early_stop and (condition := self.space.early_stop.condition(self._early)):
            arguments += ["--stop-unless", condition]
        if self.space.prune and (limits := limits_from(self._curves, self.space.prune.trials, self.space.prune.epochs)):
            arguments += ["--stop-above", to_text(limits)]
        if place.push_data:
            arguments.append("--push-data")
        reference = reference_of(place.revision, name)
        return Job(
            name, place.url, place.revision, reference, place.work, place.cache, place.config, place.identity, arguments
        )

    def _fetch(self, reference: str) -> None:
        """Bring an experiment into this checkout, where it is unless a remote has it."""
        if self.place.push_data:
            git("fetch", "--quiet", "--no-tags", "--no-auto-gc", self.place.url, f"+{reference}:{reference}")

    def _figures(self, commit: str, *, stopped: bool) -> dict[str, Any]:
        """The figures of an experiment that this space is about; of a file that must be fit, whether it is.

        Raises:
            StageError: One is missing, or is no number.
        """
        figures: dict[str, Any] = {}
        for metric in self.space.metrics():
            try:
                value = read_figure(commit, metric)
            except StageError:
                if stopped:
                    continue
                raise
            if metric in {f"verify.{file}" for file in self.space.fit}:
                if not isinstance(value, dict):
                    raise StageError(f"{metric}: found {value!r}; expected the verdict on a file")
                figures[metric] = value["outcome"] == "fit" if "outcome" in value else bool(value.get("passed"))
            elif isinstance(value, bool) or not isinstance(value, int | float) or value != value:
                raise StageError(f"{metric}: found {value!r}; expected a number")
            else:
                figures[metric] = value
        return figures

    def _losses(self, commit: str) -> list[float]:
        """The losses of a trial's epochs, if others are held to them."""
        return read_losses(f"{git('show', f'{commit}:{LOSSES}')}\n") if self.space.prune else []

    def _early_figure(self, kept: Mapping[str, Any]) -> float | None:
        """The figure of a trial by which others stop early."""
        return kept.get("figures", {}).get(self.space.early_stop.metric) if self.space.early_stop else None


def read_figure(commit: str, metric: str) -> Any:
    """One figure of a commit's metrics.

    Raises:
        StageError: There is none of that name.
    """
    file, *keys = metric.split(".")
    try:
        if file == "loss":
            header, *_, last = git("show", f"{commit}:metrics/loss.csv").splitlines()
            value: Any = dict(zip(header.split(","), map(float, last.split(",")), strict=True))
        else:
            value = json.loads(git("show", f"{commit}:metrics/{file}.json"))
    except (RemoteError, ValueError):
        raise StageError(f"{metric}: the trial has no metrics/{file}") from None
    for depth, key in enumerate(keys):
        if not isinstance(value, dict) or key not in value:
            found = ", ".join(value) if isinstance(value, dict) else repr(value)
            where = ".".join([file, *keys[:depth]])
            raise StageError(f"{metric}: {where} has no {key}; it has {found}")
        value = value[key]
    return value


def to_hydra(value: Any) -> str:
    """A value as `dvc exp run -S` takes it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{to_hydra(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(to_hydra, value)) + "]"
    if isinstance(value, str) and BARE_WORD.fullmatch(value):
        return value
    return json.dumps(value)


def find_place(args: argparse.Namespace) -> Place:
    """Where trials are cloned from and published to.

    Raises:
        StageError: Git or DVC is not set up for it.
    """
    from dvc.repo import Repo

    try:
        revision = git("rev-parse", "HEAD")
        changed = [line.split()[-1] for line in git("status", "--porcelain", "--untracked-files=no").splitlines()]
        name, email = (git("config", "--default", "sweep", "--get", f"user.{what}") for what in ("name", "email"))
    except RemoteError as error:
        raise StageError(str(error)) from None
    if changed:
        raise StageError(f"{changed[0]} is changed since the last commit, where every trial starts: commit it")
    with Repo(str(PROJECT)) as repo:
        cache = args.cache or repo.cache.local_cache_dir
        config = remote_config(repo) if args.remote else {}
    if args.remote and not config:
        raise StageError("--remote needs a default DVC remote for the data: `dvc remote add --default`")
    here = "~/.cache/sequence-classifier-sweep" if args.address else str(PROJECT / ".dvc" / "tmp" / "sweep")
    work = args.work or here
    identity = name or "sweep", email or "sweep@localhost"
    return Place(git_url(args.remote), revision, bool(args.remote), work, str(cache), config, identity)


def git_url(remote: str | None) -> str:
    """The URL of a Git remote as a clone elsewhere needs it; without one, that of this checkout.

    Raises:
        StageError: There is no such remote.
    """
    if remote is None:
        return str(PROJECT)
    try:
        url = git("remote", "get-url", remote)
    except RemoteError:
        known = git("remote").split()
        raise StageError(f"--remote {remote}: no such Git remote; there are {', '.join(known) or 'none'}") from None
    return str((PROJECT / url).resolve()) if url.startswith(".") else url


def remote_config(repo: Any) -> dict[str, dict[str, str]]:
    """The default DVC remote, as the clones' configuration: a relative URL would lead elsewhere there."""
    name = repo.config["core"].get("remote")
    if name is None or name not in repo.config["remote"]:
        return {}
    options = repo.config["remote"][name]
    told = {key: str(value) for key, value in options.items() if not SECRETS.search(key)}
    return {"core": {"remote": name}, f"'remote \"{name}\"'": told}


def published_names(place: Place) -> set[str]:
    """The experiments of this revision that are published.

    Raises:
        StageError: The repository cannot be reached.
    """
    prefix = reference_of(place.revision, "")
    try:
        listed = git("ls-remote", place.url, f"{prefix}*")
        if place.push_data and not git("ls-remote", place.url) and listed == "":
            raise StageError(f"{place.url}: an empty repository; push the branch first")
    except RemoteError as error:
        raise StageError(f"{place.url}: {error}") from None
    return {line.split(prefix)[1] for line in listed.splitlines()}


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within it, no other driver works on this sweep.

    Raises:
        StageError: Another one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "driver.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StageError(f"{folder}: another sweep.py works on it") from None
        yield


def describe(sweep_: Sweep, limit: int | None) -> None:
    """Print what would run."""
    space, pipeline = sweep_.space, sweep_.pipeline
    work = pipeline.work(sweep_.stages, {})
    touched = pipeline.touched(sweep_.stages, space.parameters)
    points = list(space.grid()) if space.sampler == "grid" else None
    count = f"{len(points)} points" if points else "without end"
    print(
        f"sampler {space.sampler}: {count}; trials: {limit or len(points or [])}; revision {sweep_.place.revision[:7]}"
    )
    print(f"once: {', '.join(sorted(set(work) - touched)) or 'nothing'}")
    for stage in sorted(touched):
        number = len({pipeline.work([stage], point)[stage] for point in points}) if points else None
        print(f"for each trial: {stage}" if number is None else f"{number} times: {stage}")
    example = points[0] if points else space.choose(lambda _, parameter: parameter.extremes()[0])
    words = " ".join(f"-S '{setting}'" for setting in sweep_.arguments(example))
    print(f"such as: dvc exp run --name {sweep_.name_of(example)} {words} {' '.join(sweep_.stages)}")


def default_stages(space: Space, pipeline: Pipeline) -> list[str]:
    """What every trial runs, unless the space says it: what writes the figures that it is about."""
    if space.stages:
        return space.stages
    stages = {pipeline.writer_of(metric) for metric in space.metrics()}
    return sorted(stage for stage in stages if not any(stage in pipeline.needs[other] - {other} for other in stages))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", type=Path, help="the search space, such as sweeps/learning_rate.yaml")
    parser.add_argument("--trials", type=int, help="how many at most, in all (default: as the space says)")
    parser.add_argument("--jobs", type=int, help="how many at once (default: one for each core)")
    parser.add_argument("--address", help="of a Ray cluster that is up, such as auto (default: one on this machine)")
    parser.add_argument("--gpus", type=float, default=0, help="of each trial; 0.5 lets two share one")
    parser.add_argument("--remote", metavar="NAME", help="a Git remote; data go to the DVC remote (default: here)")
    parser.add_argument("--cache", metavar="FOLDER", help="DVC's cache, if all nodes share it (default: the project's)")
    parser.add_argument("--work", metavar="FOLDER", help="where each node keeps its clones")
    parser.add_argument("--dry-run", action="store_true", help="check everything, tell what would run, run nothing")
    args = parser.parse_args()
    for name in ("trials", "jobs"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name} {value}: expected 1 or more")
    if args.address and not args.remote and not args.cache:
        parser.error("--address needs --remote, or --cache for a folder that all nodes share with this checkout")
    return args


def main() -> None:
    """Check everything, then run the trials, then write the page."""
    args = parse_args()
    space_file = args.space.resolve()
    os.chdir(PROJECT)
    pipeline = read_pipeline(PROJECT)
    space = read_space(space_file, pipeline)
    limit = args.trials or space.trials
    place = find_place(args)
    stages = default_stages(space, pipeline)
    folder = PROJECT / "sweeps" / space_file.stem
    content = space.model_dump_json(exclude={"trials"}) + json.dumps(stages)
    study_name = f"{place.revision[:12]}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    if args.dry_run:
        describe(Sweep(space, stages, place, pipeline, None, Screen(space, limit)), limit)
        return
    try:
        from commands.sweeps.cluster import Cluster
        from commands.sweeps.study import Study

        import ray  # noqa: F401
    except ImportError as error:
        raise StageError(f"{one_line(error)}; `make sweep SPACE=...` installs requirements-sweep.txt") from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with alone(folder):
        published = published_names(place)
        study = Study(space, study_name, folder, limit)
        screen = Screen(space, study.limit)
        sweep_ = Sweep(space, stages, place, pipeline, study, screen, published)
        interrupted = False
        if study.is_open():
            cluster = Cluster(args.address, args.jobs, args.gpus)
            print(f"{cluster.jobs} at once, {cluster.threads} {'core' if cluster.threads == 1 else 'cores'} each")
            try:
                with screen:
                    sweep_.run(cluster, shared=args.cache is not None or args.address is None)
            except KeyboardInterrupt:
                interrupted = True
                screen.say("ending: a trial that is being published is finished first; Ctrl-C again ends at once")
                for job, outcome in cluster.cancel():
                    sweep_.settle(job.name, outcome)
            finally:
                cluster.close()
        write_page(folder / "index.html", study, sweep_.space, title=space_file.stem, revision=place.revision)
        finish(sweep_, folder, interrupted=interrupted)


def finish(sweep_: Sweep, folder: Path, *, interrupted: bool) -> None:
    """Print what came out, and exit with the verdict."""
    told = {trial.number: trial for trial in sweep_.study.trials()}
    states = [trial.state for trial in told.values()]
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in ("complete", "stopped", "failed") if state in states
    )
    print(f"{len(states)} trials: {counts or 'none finished'}; page: {(folder / 'index.html').relative_to(PROJECT)}")
    for number in sweep_.study.best():
        trial = told[number]
        pairs = zip(sweep_.space.objectives, trial.values, strict=True)
        values = ", ".join(f"{objective.metric} {shown(value)}" for objective, value in pairs)
        print(f"best: {trial.kept['name']}: {values}; dvc exp apply {trial.kept['name']}")
    for name, error in (sweep_.unpublished | sweep_.lost).items():
        print(f"sweep: error: {name}: {error}; run the command again", file=sys.stderr)
    if interrupted:
        sys.exit(130)
    if sweep_.unpublished or sweep_.lost:
        sys.exit(2)
    if not {"complete", "stopped"} & set(states):
        sys.exit(1)


if __name__ == "__main__":
    run(main)
