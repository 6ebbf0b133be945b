"""Run one trial as a DVC experiment in the clone that this file lies in, and publish it.

The same command is run by `commands/sweep.py` on Ray, by a SLURM job and by a pod on Kubernetes. The clone must be at
the pinned revision, and used by one trial at a time: two `dvc exp run` in one workspace spoil each other.

    python commands/sweeps/trial.py --set train.learning_rate=0.003 --stages verify --publish origin --push-data

The experiment's name is a hash of the revision and the parameters. If it is published already, nothing runs; if it is
finished here but unpublished, since a remote was down, it is published. Data go first, then the reference, and then the
remote's reference is compared with ours, since `dvc exp push` tells no success when it says so.

Exit code: 0 published (or stopped early, and published so), 1 failed, 2 finished but not published: run it again.
"""

import argparse
import atexit
import contextlib
import csv
import gc
import hashlib
import json
import operator
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT)]

from commands.sweeps import watching  # noqa: E402 - after the path to it
from commands.sweeps.dvc_changes import change_dvc  # noqa: E402

STOPPED = "-stopped"
COMPARISONS = {">=": operator.ge, "<=": operator.le}
RUNNING = re.compile(r"^Running stage '(.+)':$")
GIT_IDENTITY = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "sweep"), ("EMAIL", "sweep@localhost"))
}
NO_QUESTIONS = {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=20", "GIT_TERMINAL_PROMPT": "0"}
"""For git: nobody is there to answer."""
KEPT_LINES = 200  # of a trial's output, among which the error of the stage that failed is

Status = Literal["published", "stopped", "failed", "unpublished"]


class TrialError(Exception):
    """What ended a trial, in one line; `stage` is the one that failed, None for what is not a stage's."""

    def __init__(self, message: str, stage: str | None = None) -> None:
        super().__init__(message)
        self.stage = stage


class RemoteError(Exception):
    """Git failed, or a remote is down, full or refuses; a finished trial stays in its clone."""


@dataclass
class Outcome:
    """What became of a trial.

    Attributes:
        name: The experiment's name.
        status: `published`; `stopped` (published, but with nothing after `train`, or with a part of its losses
            alone); `failed`; or `unpublished`.
        reference: Its Git reference; None if it failed.
        commit: The SHA of the commit that it points at; None if it failed.
        stage: The stage that failed.
        error: Its error, or the remote's; of a training that was ended, why.
        ran: The stages that were really executed: neither skipped nor restored from the run cache.
        seconds: How long the trial took, with all of DVC's work.
        publish_seconds: How long the publication of it took.
        cpu_seconds: How long DVC's process computed: what the stages, and a busy machine, have no part in.
    """

    name: str
    status: Status
    reference: str | None = None
    commit: str | None = None
    stage: str | None = None
    error: str | None = None
    ran: list[str] = field(default_factory=list)
    seconds: float = 0.0
    publish_seconds: float = 0.0
    cpu_seconds: float = 0.0


def trial_name(revision: str, settings: Iterable[str], stages: Iterable[str]) -> str:
    """The name of an experiment: equal inputs give an equal name, in whatever order they are told."""
    content = json.dumps([revision, sorted(settings), sorted(stages)])
    return f"sweep-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def reference_of(revision: str, name: str) -> str:
    """Where DVC keeps an experiment of a baseline."""
    return f"refs/exps/{revision[:2]}/{revision[2:]}/{name}"


def git(*args: str, folder: Path = Path()) -> str:
    """Run git in a folder; return what it printed.

    Raises:
        RemoteError: It failed; the message is what git said.
    """
    result = subprocess.run(
        ["git", *args],
        cwd=folder,
        env=NO_QUESTIONS | os.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise RemoteError(f"git {args[0]}: {why_git_failed(result.stderr)}")
    return result.stdout.strip()


def why_git_failed(text: str) -> str:
    """The lines of git's message that say why, as one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"(fatal|error|remote|ssh|!|\S+@\S+: Permission)", line)]
    return "; ".join(dict.fromkeys(told)) or " ".join(lines[-2:]) or "no message"


def commit_at(url: str, reference: str) -> str | None:
    """The SHA that a remote's reference points at, or None if there is none."""
    listed = git("ls-remote", url, reference)
    return listed.split()[0] if listed else None


def local_commit(name: str, folder: Path = Path()) -> str | None:
    """The SHA of a reference or a commit that is in a clone, or None if it is not."""
    with contextlib.suppress(RemoteError):
        return git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", folder=folder)
    return None


def publish(repo: Any, commit: str, reference: str, url: str, *, push_data: bool) -> str:
    """Push the data of an experiment, then its reference; return the SHA that the remote has.

    That is another one than ours if the same trial was published meanwhile: by a worker that was lost after it had
    published, or by another person's sweep. The first one stays.

    Raises:
        RemoteError: The remote of the data or of Git cannot take it.
    """
    if push_data:
        try:
            push_figures()
            repo.push(revs=[commit], workspace=False, run_cache=True)
        except Exception as error:  # every kind of remote raises its own
            raise RemoteError(f"dvc push: {explain(error)}") from error
    if found := commit_at(url, reference):
        return found
    try:
        # The lease says: only where there is no such reference yet.
        git("push", "--quiet", f"--force-with-lease={reference}:", url, f"{commit}:{reference}")
    except RemoteError:
        if found := commit_at(url, reference):
            return found
        raise
    if (found := commit_at(url, reference)) != commit:
        raise RemoteError(f"git push: the remote has {found} at {reference}, and not {commit}, which was pushed")
    return commit


def push_figures() -> None:
    """Push the outputs in the workspace that lie in Git.

    `dvc push` leaves them out, and without them the run cache, which it does push, restores no stage that has some.
    """
    from dvc.repo import Repo

    with Repo(".") as repo:
        hashes = [out.hash_info for stage in repo.index.graph for out in stage.outs if not out.use_cache]
        repo.cloud.push([each for each in hashes if each and repo.cache.local.exists(each.value)])


def explain(error: BaseException) -> str:
    """An error and what it came from, as one line."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = " ".join(str(cause).split()) or type(cause).__name__
        if text not in parts:
            parts.append(text)
        cause = cause.__cause__ or cause.__context__
    return ": ".join(parts)


class Output:
    """Passes on what DVC and its stages print, line by line, and keeps the last lines and the names of the stages."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.ran: list[str] = []

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within it, everything that this process and its children print goes through here."""
        reader, writer = os.pipe()
        kept = os.dup(1), os.dup(2)
        for number in (1, 2):
            os.dup2(writer, number)
        os.close(writer)
        thread = threading.Thread(target=self._pass_on, args=(os.fdopen(reader, "rb"), kept[0]), daemon=True)
        thread.start()
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, original in zip((1, 2), kept, strict=True):
                os.dup2(original, number)
            thread.join(timeout=10)
            for original in kept:
                os.close(original)

    def _pass_on(self, pipe: IO[bytes], output: int) -> None:
        for line in pipe:
            os.write(output, line)
            text = line.decode(errors="replace").rstrip()
            if stage := RUNNING.match(text):
                self.ran.append(stage[1])
            self.lines.append(text)

    def error_of(self, stage: str) -> str:
        """The one line in which a stage said what is wrong, or the last thing that it printed."""
        lines = list(self.lines)
        with contextlib.suppress(ValueError):
            lines = lines[lines.index(f"Running stage '{stage}':") + 2 :]
        prefix = f"{stage.partition('@')[0]}: error: "
        told = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
        others = [line for line in lines if line.strip() and not line.startswith("ERROR: ")]
        return (told or others or ["it printed nothing"])[-1]


class Trial:
    """One trial in this clone.

    Args:
        revision: The commit that is checked out.
        name: The experiment's name.
        settings: As `dvc exp run -S` takes them, `section.key=value` or `~section.key`.
        stages: Those that are asked for, with all that they need; all if there are none.
        stop_unless: A condition on the figures of `train`, without which nothing else runs; None runs everything.
        limits: Losses; a training that is above them is ended.
        pull: Take from the DVC remote what another machine has computed.
    """

    def __init__(
        self,
        revision: str,
        name: str,
        settings: list[str],
        stages: list[str],
        stop_unless: str | None,
        limits: watching.Limits,
        *,
        pull: bool,
    ) -> None:
        from dvc.repo import Repo

        self.revision, self.name, self.settings, self.stages = revision, name, settings, stages
        self.stop_unless, self.watch = stop_unless, watching.Watch(limits)
        change_dvc()
        self.repo = Repo(".")
        self.pull = pull and self._pull_run_cache()
        self.output = Output()

    def run(self) -> tuple[str, str]:
        """Execute what is not executed yet; return the name and the SHA of the experiment.

        Raises:
            TrialError: A stage failed, or DVC could not start.
        """
        from dvc.exceptions import DvcException, ReproductionError

        try:
            with self.output.watched():
                if self.stop_unless is not None or self.watch.limits:
                    self._train()
                    if self.watch.found:
                        return self._save_ended()
                    if self.stop_unless is not None and not holds(self.stop_unless):
                        return self._save_stopped()
                self._delete_stale(self.stages)
                results = self.repo.experiments.run(
                    targets=self.stages or None, name=self.name, params=self.settings, pull=self.pull
                )
                return self.name, next(iter(results))
        except ReproductionError as error:
            stage = re.search(r"failed to reproduce '(.+?)'", str(error))
            failed = stage[1].rpartition(":")[2] if stage else None
            raise TrialError(self.output.error_of(failed) if failed else explain(error), failed) from error
        except DvcException as error:
            raise TrialError(explain(error)) from error

    def _pull_run_cache(self) -> bool:
        """Learn what others have computed; a remote that is down costs time, and no trial."""
        try:
            self.repo.stage_cache.pull(None)
        except Exception as error:  # every kind of remote raises its own
            print(f"trial: warning: dvc pull: {explain(error)}; what others have computed runs again", file=sys.stderr)
            return False
        return True

    def _train(self) -> None:
        """Run everything up to `train`, in the workspace: the experiment goes on from there, or ends."""
        from dvc.exceptions import ReproductionError
        from dvc.utils.cli_parse import to_path_overrides
        from dvc.utils.hydra import apply_overrides

        for path, overrides in to_path_overrides(self.settings).items():
            apply_overrides(path, overrides)
        try:
            with self.watch.watching():
                self.repo.reproduce(targets=["train"], pull=self.pull)
        except ReproductionError:
            if not self.watch.found:
                raise
        else:
            self.watch.found = None  # it was faster

    def _save_ended(self) -> tuple[str, str]:
        """Save the parameters and the losses so far: DVC takes nothing from a stage that is not complete."""
        self._delete_stale(["train"])
        watching.LOSSES.write_text(self.watch.table, encoding="utf-8")
        name = f"{self.name}{STOPPED}"
        git("add", "--update")
        git("add", str(watching.LOSSES))
        commit = git("commit-tree", git("write-tree"), "-p", self.revision, "-m", f"sweep: {name}: {self.watch.found}")
        git("update-ref", reference_of(self.revision, name), commit)
        return name, commit

    def _save_stopped(self) -> tuple[str, str]:
        """Save what there is under a name of its own, so that it is not taken for a whole one."""
        self._delete_stale(["train"])
        name = f"{self.name}{STOPPED}"
        results = self.repo.experiments.run(targets=["train"], name=name, pull=self.pull)  # executes nothing
        return name, next(iter(results))

    def _delete_stale(self, stages: list[str]) -> None:
        """Delete what the revision's commit has of stages that will not run: they are figures of another model."""
        if stages:
            kept = set(self._outputs_in_git(stages))
            for path in self._outputs_in_git([]):
                if path not in kept:
                    Path(path).unlink(missing_ok=True)

    def _outputs_in_git(self, stages: list[str]) -> list[str]:
        """The outputs that lie in Git, of some stages and of all that they need; of every stage if none is named."""
        import networkx

        graph = self.repo.index.graph
        chosen = {stage for name in stages for stage in self.repo.stage.collect(name)}
        wanted = chosen.union(*(networkx.descendants(graph, stage) for stage in chosen)) if stages else set(graph)
        return [
            str(Path(out.fs_path).relative_to(Path.cwd()))
            for stage in wanted
            for out in stage.outs
            if not out.use_cache
        ]


def holds(condition: str) -> bool:
    """Whether `FILE.KEY>=NUMBER` (or `<=`) is true of metrics/FILE.json, or of the last line of metrics/FILE.csv.

    Raises:
        TrialError: There is no such figure.
    """
    match = re.fullmatch(r"([\w.]+)(>=|<=)(.+)", condition)
    if match is None:
        raise TrialError(f"{condition}: expected FILE.KEY>=NUMBER or FILE.KEY<=NUMBER")
    name, comparison, limit = match.groups()
    file, *keys = name.split(".")
    figures: Any
    if (table := Path("metrics", f"{file}.csv")).exists():
        with table.open(newline="") as lines:
            *_, figures = csv.DictReader(lines)
    else:
        figures = json.loads(Path("metrics", f"{file}.json").read_bytes())
    try:
        for key in keys:
            figures = figures[key]
        return bool(COMPARISONS[comparison](float(figures), float(limit)))
    except (KeyError, TypeError, ValueError) as error:
        raise TrialError(f"{condition}: metrics/{file} has no number {'.'.join(keys)}") from error


def run_and_publish(args: argparse.Namespace, revision: str, publishing: threading.Lock) -> Outcome:
    """The whole trial, unless it is published already."""
    name = trial_name(revision, args.set, args.stages)
    names = [name, f"{name}{STOPPED}"] if args.stop_unless or args.stop_above else [name]
    references = {reference_of(revision, each): each for each in names}
    started = time.perf_counter()
    outcome = Outcome(name, "failed")
    trial: Trial | None = None
    try:
        for reference, each in references.items():
            with contextlib.suppress(RemoteError):  # a remote that is down now may be up when the trial is finished
                if commit := commit_at(args.publish, reference):
                    return Outcome(name, status_of(each), reference, commit, seconds=time.perf_counter() - started)
        trial = Trial(revision, name, args.set, args.stages, args.stop_unless, args.stop_above, pull=args.push_data)
        finished = {each: commit for reference, each in references.items() if (commit := local_commit(reference))}
        each, commit = next(iter(finished.items()), None) or trial.run()
        outcome.reference, outcome.commit = reference_of(revision, each), commit
        outcome.status, outcome.error = "unpublished", trial.watch.found
        with publishing:
            before = time.perf_counter()
            outcome.commit = publish(trial.repo, commit, outcome.reference, args.publish, push_data=args.push_data)
            outcome.publish_seconds = time.perf_counter() - before
        outcome.status = status_of(each)
        git("update-ref", "-d", outcome.reference)
    except TrialError as error:
        outcome.error, outcome.stage = str(error), error.stage
    except RemoteError as error:
        outcome.status, outcome.error = "unpublished", str(error)
    outcome.ran = trial.output.ran if trial else []
    outcome.seconds = time.perf_counter() - started
    outcome.cpu_seconds = time.process_time()
    return outcome


def status_of(name: str) -> Status:
    """What an experiment's name says about it."""
    return "stopped" if name.endswith(STOPPED) else "published"


def end_with(parent: int, publishing: threading.Lock) -> None:
    """End this process and its stages when the parent's end of a pipe closes; not while it publishes."""
    while os.read(parent, 1024):
        pass
    with publishing:
        os.killpg(0, signal.SIGKILL)


def end_group_after_this() -> None:
    """End the stages of this process when it is gone, whatever ended it: Ray kills what a worker started, and no more.

    A child holds one end of a pipe whose other end nobody else has. It is of this process's group, and ends with it.
    """
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(writer)
        os.read(reader, 1)
        os.killpg(0, signal.SIGKILL)
    os.close(reader)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="as `dvc exp run -S`; may be repeated"
    )
    parser.add_argument("--stages", nargs="*", default=[], help="run these and what they need (default: all)")
    parser.add_argument("--stop-unless", metavar="METRIC>=VALUE", help="after `train`: else nothing more runs")
    parser.add_argument(
        "--stop-above",
        metavar="EPOCH:LOSS,...",
        type=watching.from_text,
        default={},
        help="while it trains: if no validation loss up to an epoch is as low; then nothing more runs",
    )
    parser.add_argument("--publish", metavar="URL", default="origin", help="the Git remote (default: origin)")
    parser.add_argument(
        "--push-data", action="store_true", help="push to and pull from the DVC remote: needed where no cache is shared"
    )
    parser.add_argument("--outcome", metavar="FILE", type=Path, help="where to write the outcome, as JSON")
    parser.add_argument(
        "--end-with-stdin",
        action="store_true",
        help="end when stdin closes: the caller is gone; needs a process group of its own",
    )
    args = parser.parse_args(arguments)
    if args.outcome:
        args.outcome = args.outcome.resolve()
    return args


def main() -> None:
    """Run the trial; print and write its outcome."""
    args = parse_args()
    os.chdir(PROJECT)
    # This process computes for some seconds and ends: to look for garbage takes a tenth of them and gives back 30 MB.
    gc.disable()
    atexit.register(gc.freeze)
    # DVC calls `python`: that must be the one which runs this.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    publishing = threading.Lock()
    if args.end_with_stdin:
        end_group_after_this()
        threading.Thread(target=end_with, args=(sys.stdin.fileno(), publishing), daemon=True).start()
    try:
        revision = git("rev-parse", "HEAD")
        if not git("config", "--default", "", "--get", "user.email"):
            os.environ |= {name: value for name, value in GIT_IDENTITY.items() if name not in os.environ}
        if changed := git("status", "--porcelain", "--untracked-files=no"):
            raise RemoteError(f"{PROJECT}: {changed.split()[1]} is changed; a trial needs a clean clone")
    except RemoteError as error:
        print(f"trial: error: {error}", file=sys.stderr)
        sys.exit(1)
    outcome = run_and_publish(args, revision, publishing)
    if args.outcome:
        args.outcome.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    where = f"stage {outcome.stage}: " if outcome.stage else ""
    print(f"{outcome.name}: {outcome.status}" + (f": {where}{outcome.error}" if outcome.error else ""))
    sys.exit({"failed": 1, "unpublished": 2}.get(outcome.status, 0))


if __name__ == "__main__":
    main()
