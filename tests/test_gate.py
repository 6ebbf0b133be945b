"""The gate: what it lets through, what it stops, and what it says, in real repositories."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commands import gate
from tests.support import ROOT, Project

import pytest
from ruamel.yaml import YAML

RULES = [
    {"metric": "evaluate.*.*.accuracy", "better": "higher", "absolute": 0.002},
    {"metric": "verify.*.*.passed", "better": "higher", "absolute": 0},
    {"metric": "size.*.*.bytes", "better": "lower", "relative": 0.05},
]
EVALUATE = {"onnx": {"fp32": {"accuracy": 0.97, "loss": 0.1}, "int8": {"accuracy": 0.96, "loss": 0.2}}}
VERIFY = {"onnx": {"fp32": {"passed": True}, "int8": {"passed": True}}}
SIZE = {"onnx": {"fp32": {"bytes": 1000, "ops": "1 LSTM"}, "int8": {"bytes": 300, "ops": "1 LSTM"}}}


@pytest.fixture(scope="session")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A repository with committed metrics. Not to be changed."""
    project = Project(tmp_path_factory.mktemp("gate") / "project")
    project.folder.mkdir()
    shutil.copytree(ROOT / ".dvc", project.folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    write(project.folder, EVALUATE, VERIFY, SIZE)
    write_rules(project.folder, RULES)
    project.git("init", "--quiet")
    project.commit()
    return project


@pytest.fixture
def project(committed: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy, to be changed; the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(committed.folder, folder)
    monkeypatch.chdir(folder)
    return Project(folder)


def write(folder: Path, evaluate: Any = None, verify: Any = None, size: Any = None) -> None:
    (folder / "metrics").mkdir(exist_ok=True)
    for name, content in (("evaluate", evaluate), ("verify", verify), ("size", size)):
        if content is not None:
            (folder / "metrics" / f"{name}.json").write_text(json.dumps(content))


def write_rules(folder: Path, rules: Any) -> None:
    YAML().dump({"gate": {"release": False, "rules": rules}}, folder / "params.yaml")


@pytest.fixture
def run_gate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command in this process: its exit code, and what it printed (its error, if it could not compare)."""

    def run(*args: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["gate.py", *args])
        with pytest.raises(SystemExit) as stopped:
            gate.main()
        printed = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        assert bool(printed.err) == (stopped.value.code == 2)
        return stopped.value.code, printed.err or printed.out

    return run


def changed(content: Any, path: str, value: Any) -> Any:
    """A copy with another value; without the key, if the value is `gate.ABSENT`."""
    copy = json.loads(json.dumps(content))
    *parts, last = path.split(".")
    inner = copy
    for part in parts:
        inner = inner[part]
    if value is gate.ABSENT:
        del inner[last]
    else:
        inner[last] = value
    return copy


def test_nothing_changed(project: Project, run_gate: Callable[..., tuple[int, str]]) -> None:
    assert run_gate() == (0, "workspace against HEAD: 6 checks, none failed\n")
    code, printed = run_gate("--all")
    assert code == 0
    assert printed.count("unchanged") == 6
    assert "loss" not in printed, "no rule is about it"


@pytest.mark.parametrize(
    ("name", "path", "value", "row"),
    [
        ("evaluate", "onnx.int8.accuracy", 0.9579, "0.96 0.9579 -0.0021 -0.002 worse"),
        ("evaluate", "onnx.int8.accuracy", gate.ABSENT, "0.96 -0.002 missing"),
        ("evaluate", "onnx.int8", gate.ABSENT, "0.96 -0.002 missing"),
        ("evaluate", "onnx.int8.accuracy", None, "0.96 null -0.002 not a number"),
        ("evaluate", "onnx.int8.accuracy", float("nan"), "0.96 nan -0.002 not a number"),
        ("evaluate", "onnx.int8.accuracy", "0.96", '0.96 "0.96" -0.002 not a number'),
        ("verify", "onnx.int8.passed", False, "true false -1 none worse"),
        ("size", "onnx.int8.bytes", 316, "300 316 +5.33% +5% worse"),
        ("size", "onnx.int8.bytes", float("inf"), "300 inf +5% not a number"),
    ],
)
def test_a_regression_fails(
    project: Project, run_gate: Callable[..., tuple[int, str]], name: str, path: str, value: Any, row: str
) -> None:
    before = {"evaluate": EVALUATE, "verify": VERIFY, "size": SIZE}[name]
    write(project.folder, **{name: changed(before, path, value)})

    code, printed = run_gate()

    header, found, _, summary = printed.splitlines()
    assert code == 1
    assert header.split() == list(gate.COLUMNS)
    metric = path if path.count(".") == 2 else f"{path}.accuracy"
    assert " ".join(found.split()) == f"{name}.{metric} {row}"
    assert summary == "workspace against HEAD: 6 checks, 1 failed"


@pytest.mark.parametrize(
    ("name", "path", "value", "row"),
    [
        # As floats, 0.96 - 0.958 is a little more than 0.002.
        ("evaluate", "onnx.int8.accuracy", 0.958, "0.96 0.958 -0.002 -0.002 ok"),
        ("evaluate", "onnx.int8.accuracy", 0.99, "0.96 0.99 +0.03 -0.002 ok"),
        ("evaluate", "onnx.fp16", {"accuracy": 0.5}, "0.5 -0.002 new"),
        ("size", "onnx.int8.bytes", 315, "300 315 +5% +5% ok"),
        ("size", "onnx.int8.bytes", 100, "300 100 -66.7% +5% ok"),
    ],
)
def test_what_is_allowed_or_new_passes_and_is_listed(
    project: Project, run_gate: Callable[..., tuple[int, str]], name: str, path: str, value: Any, row: str
) -> None:
    write(project.folder, **{name: changed({"evaluate": EVALUATE, "size": SIZE}[name], path, value)})
    code, printed = run_gate()
    assert code == 0
    assert " ".join(printed.splitlines()[1].split()).endswith(row)
    assert "none failed" in printed


def test_what_never_was_a_number_stays_comparable(project: Project, run_gate: Callable[..., tuple[int, str]]) -> None:
    """A class without rows has no recall, before and after."""
    write(project.folder, changed(EVALUATE, "onnx.int8.accuracy", None))
    project.commit()
    assert run_gate() == (0, "workspace against HEAD: 6 checks, none failed\n")
    write(project.folder, EVALUATE)
    code, printed = run_gate()
    assert code == 0
    assert printed.splitlines()[1].split() == ["evaluate.onnx.int8.accuracy", "null", "0.96", "-0.002", "new"]


def test_a_rule_that_matches_nothing_fails(project: Project, run_gate: Callable[..., tuple[int, str]]) -> None:
    write_rules(project.folder, [*RULES, {"metric": "evaluate.*.accuracy", "better": "higher", "absolute": 0}])
    code, printed = run_gate()
    assert code == 1
    assert "evaluate.*.accuracy" in printed
    assert "no metric matches" in printed


def test_any_two_revisions(project: Project, run_gate: Callable[..., tuple[int, str]]) -> None:
    project.git("tag", "before")
    write(project.folder, size=changed(SIZE, "onnx.fp32.bytes", 2000))
    project.git("checkout", "--quiet", "-b", "feature")
    project.commit()

    assert run_gate()[0] == 0
    assert run_gate("--against", "before")[0] == 1
    assert run_gate("--against", "main", "--of", "feature")[0] == 1
    assert run_gate("--against", "feature", "--of", "before")[0] == 0
    code, printed = run_gate("--against", "before", "--md")
    assert code == 1
    assert printed.startswith("| metric")
    assert "| size.onnx.fp32.bytes |  1000 |  2000 |    +100% |       +5% | worse" in printed


def test_metrics_that_dvc_knows_and_git_does_not_keep(
    project: Project, run_gate: Callable[..., tuple[int, str]]
) -> None:
    """Named in dvc.lock, never committed and not in any cache: as if they were not there."""
    md5 = "0123456789abcdef0123456789abcdef"
    out = {"path": "metrics/later.json", "hash": "md5", "md5": md5, "size": 3}
    YAML().dump({"stages": {"later": {"cmd": "true", "metrics": [{"metrics/later.json": {"cache": False}}]}}},
                project.folder / "dvc.yaml")  # fmt: skip
    YAML().dump({"schema": "2.0", "stages": {"later": {"cmd": "true", "outs": [out]}}}, project.folder / "dvc.lock")
    project.commit()
    assert run_gate()[0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: shutil.rmtree(folder / ".git"), "is not a git repository"),
        (lambda folder: shutil.rmtree(folder / "metrics"), "workspace: no metrics/*.json: nothing to compare"),
        (lambda folder: (folder / "metrics/size.json").write_text("{"), "metrics/size.json of workspace: not valid"),
        (
            lambda folder: (folder / "metrics/size.json").write_bytes(b"\xff{}"),
            "metrics/size.json of workspace: not val",
        ),
        (
            lambda folder: (folder / "metrics/size.json").write_text('{"a":' * 50_000),
            "size.json of workspace: not valid",
        ),
        (lambda folder: (folder / "metrics/size.json").write_text(f"[{'9' * 400}]"), "not valid JSON: a number of 400"),
        (lambda folder: (folder / "metrics/other.json").mkdir(), "Is a directory"),
        (lambda folder: (folder / "params.yaml").write_bytes(b"\xff"), "params.yaml: "),
        (lambda folder: (folder / "params.yaml").unlink(), "params.yaml: no such file; run from the project's folder"),
        (lambda folder: write_rules(folder, []), "gate.rules = []"),
        (lambda folder: write_rules(folder, [RULES[0] | {"relative": 0.1}]), "should have either absolute or relative"),
        (lambda folder: write_rules(folder, [RULES[0] | {"better": "more"}]), "gate.rules.0.better = 'more'"),
        (lambda folder: write_rules(folder, [RULES[0] | {"absolute": -1}]), "gate.rules.0.absolute = -1"),
        (lambda folder: write_rules(folder, [RULES[0] | {"limit": 1}]), "unknown key gate.rules.0.limit"),
        (lambda folder: write_rules(folder, [{"metric": "x"}]), "key gate.rules.0.better is missing"),
        (
            lambda folder: write_rules(folder, [RULES[0] | {"metric": "evaluation.*.accuracy"}]),
            "HEAD has no metric that a rule of section gate matches: nothing to compare",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    project: Project, run_gate: Callable[..., tuple[int, str]], change: Callable[[Path], None], message: str
) -> None:
    change(project.folder)
    code, error = run_gate()
    assert code == 2
    assert error.startswith("gate: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_revisions_that_cannot_be_compared(project: Project, run_gate: Callable[..., tuple[int, str]]) -> None:
    code, error = run_gate("--against", "origin/main")
    assert code == 2
    assert error == (
        "gate: error: unknown Git revision 'origin/main'; a revision that only a remote has must be fetched first\n"
    )
    project.git("checkout", "--quiet", "--orphan", "empty")
    project.git("rm", "--quiet", "--cached", "-r", "metrics")
    project.git("commit", "--quiet", "--message", "no metrics")
    assert run_gate() == (2, "gate: error: HEAD: no metrics/*.json: nothing to compare\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--against", ""], "--against '': expected a branch, tag, commit or DVC experiment"),
        (["--against", " "], "--against ' ': expected a branch"),
        (["--of", ""], "--of '': expected a branch"),
        (["--against", "workspace"], "--against workspace: that is what is compared; expected another revision"),
        (["--against", "HEAD", "--of", "HEAD"], "--against HEAD: that is what is compared"),
        (["--against", "HEAD:params.yaml"], "HEAD:params.yaml: not a branch, tag, commit or DVC experiment"),
        (["--against", "HEAD^{tree}"], "HEAD^{tree}: not a branch, tag, commit or DVC experiment"),
        (["--against", "x" * 5000], "x..."),
        (["--against", "a\x1b[2J"], r"a\x1b[2J"),
        (["--against", "-"], "'-'"),
    ],
)
def test_a_name_that_is_no_other_revision_is_one_line_and_2(
    project: Project, run_gate: Callable[..., tuple[int, str]], args: list[str], message: str
) -> None:
    """Such as of a variable that CI has not set: never a comparison of the workspace with itself."""
    code, error = run_gate(*args)
    assert code == 2
    assert message in error
    assert len(error) < 400
    assert error.count("\n") == 1


def test_names_in_metrics_cannot_steer_what_shows_them(
    project: Project, run_gate: Callable[..., tuple[int, str]]
) -> None:
    write(project.folder, changed(EVALUATE, "onnx.a|\x1b[2J<b>", {"accuracy": 0.5}))
    assert r"evaluate.onnx.a|\x1b[2J<b>.accuracy" in run_gate()[1]
    assert r"evaluate.onnx.a\|\\x1b\[2J\<b\>.accuracy" in run_gate("--md")[1]


def test_as_a_command(project: Project) -> None:
    """One line in anyone's CI."""
    write(project.folder, changed(EVALUATE, "onnx.fp32.accuracy", 0.5))
    command = [sys.executable, str(ROOT / "commands" / "gate.py")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "evaluate.onnx.fp32.accuracy" in result.stdout
    assert result.stderr == ""
    broken = subprocess.run(["bash", "-c", f"set -o pipefail; {shlex.join(command)} | true"], check=False)
    assert broken.returncode == 1, "the verdict stands if nobody reads the table"
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    for words in ("--against REV", "--of REV", "Exit code: 0 nothing got worse, 1 a regression, 2"):
        assert words in shown
