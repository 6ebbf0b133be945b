"""The bundle that an app team takes: whole, checkable anywhere, and equal bytes for equal runs."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import release as release_stage
from commands import gate
from shared.data.sequences import SPLITS, Schema, Split
from shared.execution.interface import Interface
from shared.execution.runtimes import OnnxRuntime, open_runtime
from shared.kit.stage import StageError
from shared.release.golden import Asked, Vector
from shared.release.signature import signature_of
from shared.release.signing import sign
from tests.support import (
    IN_EVERY_BUNDLE,
    ROOT,
    Project,
    Workspace,
    clean_environment,
)

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from ruamel.yaml import YAML

BUNDLE = "models/release"


@pytest.fixture(scope="module")
def small_run(shippable_run: Path) -> Path:
    """What `workspace` copies here."""
    return shippable_run


@pytest.fixture
def bundle(workspace: Workspace) -> Path:
    return workspace.folder / BUNDLE


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def check(bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the bundle's own verifier from another folder."""
    command = [sys.executable, *options, str(bundle / "verify.py")]
    return subprocess.run(
        command, cwd=bundle.parent, env=clean_environment(), capture_output=True, text=True, check=False
    )


def test_it_holds_the_recommended_files_and_what_belongs_to_them(bundle: Path, workspace: Workspace) -> None:
    release = read(bundle / "release.json")
    recommended = {target["file"] for target in release["targets"]}
    onnx_file = only_onnx(bundle)
    converted = {onnx_file.replace(".onnx", ".ort"), onnx_file.replace(".onnx", ".required_operators.config")}
    assert {path.name for path in bundle.iterdir()} == IN_EVERY_BUNDLE | recommended | converted
    assert recommended | converted >= set(release["models"]) > recommended
    assert release["not_converted"] == {}
    for name in recommended:
        model = release["models"][name]
        original = workspace.folder / "models" / model["format"] / name
        for file in [original] if original.is_file() else [path for path in original.rglob("*") if path.is_file()]:
            assert (bundle / name / file.relative_to(original)).read_bytes() == file.read_bytes()
    assert read(bundle / "labels.json") == ["0", "1", "2"]
    card = (bundle / "model-card.md").read_text()
    evaluated = read(workspace.folder / "metrics" / "evaluate.json")
    for name in recommended:
        model = release["models"][name]
        assert f"{evaluated[model['format']][model['variant']]['accuracy']:.2%}" in card


def test_sums_are_those_that_sha256sum_checks(bundle: Path) -> None:
    listed = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"], cwd=bundle, capture_output=True, text=True, check=True
    )
    files = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert {line.partition(":")[0] for line in listed.stdout.splitlines()} == files - {"SHA256SUMS"}


def test_the_verifier_needs_numpy_and_onnxruntime_alone(bundle: Path) -> None:
    script = """
import atexit, runpy, sys
allowed = set(sys.stdlib_module_names) | {"numpy", "onnxruntime", "__main__"}
class OnlyThese:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, OnlyThese())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, str(bundle / "verify.py")],
        env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    onnx_lines = [line for line in ran.stdout.splitlines() if ".onnx" in line]
    assert onnx_lines
    assert all(" right: error " in line for line in onnx_lines)


def test_golden_vectors_are_what_the_files_compute_in_both_formats(bundle: Path) -> None:
    vectors, arrays = read(bundle / "golden.json")["vectors"], np.load(bundle / "golden.npz")
    assert {"border", "class", "quiet", "far", "random"} <= {vector["kind"] for vector in vectors}
    np.testing.assert_array_equal([vector["sequence"] for vector in vectors], arrays["sequences"])
    for name, model in read(bundle / "release.json")["models"].items():
        source = model.get("made_from")
        runtime = OnnxRuntime(bundle / name, bundle / source) if source else open_runtime(bundle / name)
        expected = np.stack([runtime.logits(sequence[None])[0] for sequence in arrays["sequences"]])
        np.testing.assert_array_equal(arrays[f"logits/{name}"], expected)
        np.testing.assert_array_equal([vector["logits"][name] for vector in vectors], expected)


def test_equal_runs_give_equal_bundles(workspace: Workspace, tmp_path: Path) -> None:
    sums = (workspace.folder / BUNDLE / "SHA256SUMS").read_bytes()
    shutil.rmtree(workspace.folder / BUNDLE)
    workspace.call("release")
    assert (workspace.folder / BUNDLE / "SHA256SUMS").read_bytes() == sums


def test_an_onnx_file_that_cannot_be_converted_is_released_as_it_is_and_the_card_says_why(
    workspace: Workspace, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(asked: Asked, folder: Path, vectors: list[Vector]) -> Asked:
        (folder / asked.path.with_suffix(".ort").name).write_bytes(b"half of it")
        raise StageError("an op that has no kernel")

    monkeypatch.setattr(release_stage, "ask_in_ort_format", refuse)
    workspace.call("release")
    name = only_onnx(bundle)
    assert read(bundle / "release.json")["not_converted"] == {name: "an op that has no kernel"}
    assert (
        f"- `{name}` is not here in ORT format: an op that has no kernel.\n" in (bundle / "model-card.md").read_text()
    )
    assert not list(bundle.glob("*.ort"))
    assert check(bundle).returncode == 0


def only_onnx(bundle: Path) -> str:
    [name] = [str(name) for name in read(bundle / "release.json")["models"] if name.endswith(".onnx")]
    return name


def test_a_changed_file_is_named(bundle: Path) -> None:
    card = bundle / "model-card.md"
    card.write_text(card.read_text() + "very good\n")
    (bundle / "note.txt").write_text("")
    ran = check(bundle)
    assert ran.returncode == 1
    assert "model-card.md: not the file that was released" in ran.stdout
    assert "note.txt: not listed in SHA256SUMS" in ran.stdout


def test_a_model_that_computes_something_else_is_wrong_though_its_sum_is_right(bundle: Path) -> None:
    file = bundle / only_onnx(bundle)
    model = onnx.load(file)
    bias = max(
        (tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT),
        key=lambda tensor: len(tensor.raw_data),
    )
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.5), bias.name))
    old = hashlib.sha256(file.read_bytes()).hexdigest()
    onnx.save(model, file)
    sums = bundle / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(old, hashlib.sha256(file.read_bytes()).hexdigest()))
    ran = check(bundle)
    assert ran.returncode == 1
    assert f"{file.name} " in ran.stdout
    assert "WRONG: error" in ran.stdout


def test_a_folder_that_is_no_bundle(bundle: Path) -> None:
    (bundle / "golden.npz").unlink()
    ran = check(bundle)
    assert ran.returncode == 2
    assert "not a whole bundle" in ran.stderr


def damage_json(name: str, content: bytes | str) -> Any:
    def damage(bundle: Path) -> None:
        (bundle / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def in_place(name: str, make: Any) -> Any:
    def damage(bundle: Path) -> None:
        (bundle / name).unlink()
        make(bundle / name)

    return damage


def with_arrays(change: Any) -> Any:
    def damage(bundle: Path) -> None:
        arrays = dict(np.load(bundle / "golden.npz"))
        change(arrays)
        np.savez(bundle / "golden.npz", **arrays)

    return damage


def each_of(beginning: str, change: Any) -> Any:
    return lambda arrays: arrays.update({k: change(v) for k, v in arrays.items() if k.startswith(beginning)})


def huge(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(20 * 10**9)


def bomb(path: Path) -> None:
    np.savez_compressed(path, sequences=np.zeros((10**4, 100, 100), np.float32))


@pytest.mark.parametrize(
    ("damage", "code", "said"),
    [
        (damage_json("release.json", "[" * 100_000), 2, "not a whole bundle: release.json: "),
        (damage_json("release.json", b"\xff\xfe"), 2, "not a whole bundle: release.json: "),
        (damage_json("release.json", "5"), 2, "holds no object"),
        (damage_json("release.json", "{}"), 2, "names no models"),
        (damage_json("release.json", '{"models": ["a"]}'), 2, "names no models"),
        (damage_json("release.json", '{"models": {"../x.onnx": {"tolerance": 1e-3}}}'), 1, "no such model"),
        (damage_json("release.json", '{"models": {"/etc/passwd": {"tolerance": 1e-3}}}'), 1, "no such model"),
        (damage_json("release.json", '{"models": {"a\\u202e\\ud800.onnx": 5}}'), 1, r"a\u202e\ud800.onnx"),
        (damage_json("SHA256SUMS", f"{'0' * 64}  ../../secret\n"), 1, "../../secret: missing"),
        (damage_json("SHA256SUMS", f"{'0' * 64}  {'n' * 300}\n"), 1, "nnn: missing"),
        (damage_json("SHA256SUMS", b"\xff\x00  \x1b[2J\x00\n"), 1, r"\x1b[2J\x00: missing"),
        (damage_json("golden.npz", b"PK\x03\x04"), 2, "not a whole bundle: golden.npz: "),
        (in_place("golden.npz", bomb), 2, "would unpack to"),
        (in_place("golden.npz", os.mkfifo), 2, "golden.npz: no such file in it"),
        (in_place("release.json", os.mkfifo), 2, "release.json: no such file in it"),
        (in_place("release.json", huge), 2, "release.json: larger than any file"),
        (in_place("SHA256SUMS", Path.mkdir), 2, "SHA256SUMS: no such file in it"),
        (in_place("labels.json", os.mkfifo), 1, "labels.json: missing"),
        (in_place("labels.json", lambda path: path.symlink_to("/etc/passwd")), 1, "labels.json: missing"),
        (damage_json("added", "x"), 1, "added: not listed"),
        (with_arrays(lambda arrays: arrays.update(lengths=np.zeros(0, np.int32))), 2, "0 lengths"),
        (with_arrays(each_of("", lambda array: array[:0])), 2, "one at least"),
        (with_arrays(lambda arrays: arrays.pop("sequences")), 2, "no sequences of 3 axes"),
        (with_arrays(each_of("logits/", lambda array: array * np.nan)), 1, "error inf"),
    ],
)  # fmt: skip
def test_a_damaged_bundle_is_no_pass_and_one_line(bundle: Path, damage: Any, code: int, said: str) -> None:
    damage(bundle)
    ran = subprocess.run(
        [sys.executable, str(bundle / "verify.py")], cwd=bundle.parent, env=clean_environment(), timeout=60,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == code
    assert said in (ran.stderr if code == 2 else ran.stdout)
    assert "Traceback" not in ran.stderr


def test_where_nothing_is_fit_to_ship_the_bundle_says_so(workspace: Workspace, bundle: Path) -> None:
    file = workspace.folder / "metrics" / "verify.json"
    verdicts = read(file)
    for variants in verdicts.values():
        for verdict in variants.values():
            verdict |= {"outcome": "wrong", "passed": False, "problems": ["graph: it computes something else"]}
    file.write_text(json.dumps(verdicts))
    workspace.call("release")
    assert read(bundle / "release.json")["models"] == {}
    assert {path.name for path in bundle.iterdir()} == IN_EVERY_BUNDLE
    assert "**no file is fit to ship**" in (bundle / "model-card.md").read_text()
    assert check(bundle).returncode == 2


def test_a_key_signs_the_sums(workspace: Workspace, bundle: Path, tmp_path: Path) -> None:
    key, public = tmp_path / "key.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    workspace.set("release.signing_key", str(key))
    workspace.call("release")
    verify: list[str | Path] = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        public,
        "-rawin",
        "-in",
        bundle / "SHA256SUMS",
    ]
    subprocess.run([*verify, "-sigfile", bundle / "SHA256SUMS.sig"], check=True, capture_output=True)
    assert check(bundle).returncode == 0

    key.write_text("no key")
    assert workspace.refuses("release").startswith(f"release.signing_key = {key}: no key without a passphrase: ")


@pytest.mark.parametrize("key", ["/dev/zero", ".", "absent", "n" * 300, "nul\0", "half\ud800"])
def test_a_key_that_is_none_is_one_line_at_once(key: str) -> None:
    with pytest.raises(StageError, match=r"^release\.signing_key = ") as error:
        sign(b"sums", Path(key))
    assert "\n" not in str(error.value)


def test_the_page_is_part_of_the_bundle_where_it_is_asked_for(workspace: Workspace, bundle: Path) -> None:
    workspace.set("release.page", True)
    if not (ROOT / "web" / "node_modules").exists():
        assert "onnxruntime-web is not installed; `make web` installs it" in workspace.refuses("release")
        return
    workspace.call("release")
    assert b"Content-Security-Policy" in (bundle / "model.html").read_bytes()
    assert check(bundle).returncode == 0


def test_the_bill_of_materials_is_cyclonedx_and_names_what_the_models_were_made_with(bundle: Path) -> None:
    bill = read(bundle / "bill-of-materials.json")
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    parts = {part["name"]: part for part in bill["components"]}
    assert {"torch", "onnx", "coremltools"} <= set(parts)
    assert all(part["purl"] == f"pkg:pypi/{name}@{part['version']}" for name, part in parts.items() if "purl" in part)
    file = bundle / only_onnx(bundle)
    assert parts[file.name]["hashes"][0]["content"] == hashlib.sha256(file.read_bytes()).hexdigest()
    references = [part["bom-ref"] for part in bill["components"]]
    assert len(references) == len(set(references))
    assert {ref for each in bill["dependencies"] for ref in each["dependsOn"]} == set(references)


def test_a_signature_says_what_lengths_mean() -> None:
    interface = Interface(
        input_name="samples", lengths_name="steps", output_name="scores", input_axes=["batch", 5, 2],
        output_axes=["batch", 2], dtypes=["float32", "int32", "float32"], features=["x", "y"], classes=["a", "b"],
        largest_batch=None, dynamic_time=False, largest_time=5,
    )  # fmt: skip
    none: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    schema = Schema(
        features=["x", "y"], time_steps=5, classes=["a", "b"], ragged=True, rows=none,
        class_rows={split: [0, 0] for split in SPLITS},
        length_range=(1, 5), filled=0, mean=[0.0, 1.0], deviation=[1.0, 2.0],
    )  # fmt: skip
    signature = signature_of(interface, schema)
    sequence, lengths = signature["inputs"]
    assert sequence["name"] == "samples"
    assert sequence["shape"] == ["batch", 5, 2]
    assert [feature["name"] for feature in sequence["features"]] == ["x", "y"]
    assert (lengths["dtype"], lengths["range"]) == ("int32", [1, 5])
    assert "no softmax has been applied" in signature["outputs"][0]["meaning"]


# --- a release in DVC's own registry, and the gate that demands one ---

REGISTERED = {
    "stages": {"release": {"cmd": "cp -r made models/release", "deps": ["made"], "outs": ["models/release"]}},
    "artifacts": {"classifier-release": {"path": "models/release", "type": "model"}},
}
"""The end of our own pipeline: `made` is what the stage `release` wrote."""
GATE = {"release": True, "rules": [{"metric": "verify.*.*.passed", "better": "higher", "absolute": 0}]}
IDENTITY = {f"GIT_{who}_{what}": "ann@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@pytest.fixture(scope="module")
def registered(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A repository whose last commit has a bundle, registered as v1.0.0 and pushed to a remote."""
    folder = tmp_path_factory.mktemp("registry")
    project = Project(folder / "project")
    (project.folder / "models").mkdir(parents=True)
    shutil.copytree(ROOT / ".dvc", project.folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "*.local"))
    shutil.copytree(small_run / BUNDLE, project.folder / "made")
    shutil.copytree(small_run / "metrics", project.folder / "metrics")
    YAML().dump(REGISTERED, project.folder / "dvc.yaml")
    YAML().dump({"gate": GATE}, project.folder / "params.yaml")
    (project.folder / ".gitignore").write_text("/models/?*\n")
    project.git("init", "--quiet")
    project.dvc("remote", "modify", "storage", "url", str(folder / "storage"))
    project.dvc("repro")
    project.dvc("push")
    project.commit()
    for words in (["register"], ["assign", "--stage", "prod"]):
        project.run(sys.executable, "-m", "gto.cli", *words, "classifier-release", "--version", "v1.0.0", env=IDENTITY)
    return project


@pytest.fixture
def project(registered: Project, tmp_path: Path) -> Project:
    """A copy, to be changed."""
    return Project(Path(shutil.copytree(registered.folder, tmp_path / "project", symlinks=True)))


@pytest.fixture
def run_gate(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run the gate on the project: its exit code and what it printed."""
    monkeypatch.chdir(project.folder)

    def run(*options: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["gate", "--against", "HEAD", *options])
        with pytest.raises(SystemExit) as stopped:
            gate.main()
        return int(str(stopped.value.code)), capsys.readouterr().out

    return run


def test_an_app_team_takes_a_tagged_release_from_another_folder(project: Project, tmp_path: Path) -> None:
    shutil.rmtree(project.folder / ".dvc" / "cache")  # the remote has it
    app = Project(tmp_path / "app")
    app.folder.mkdir()
    app.dvc("artifacts", "get", str(project.folder), "classifier-release", "--stage", "prod")
    taken, given = ((at / "SHA256SUMS").read_bytes() for at in (app.folder / "release", project.folder / "made"))
    assert taken == given
    assert check(app.folder / "release").returncode == 0


def test_the_gate_passes_a_bundle_that_is_of_the_lock_and_right(run_gate: Callable[..., tuple[int, str]]) -> None:
    code, printed = run_gate("--all")
    assert code == 0
    assert re.search(r"^models/release .* ok$", printed, flags=re.MULTILINE)


def test_the_gate_stops_a_bundle_that_is_not_of_the_lock_or_wrong_or_absent(
    project: Project, run_gate: Callable[..., tuple[int, str]]
) -> None:
    project.git("tag", "good")
    (project.folder / "made" / "model-card.md").write_text("another run")
    code, printed = run_gate()
    assert code == 1
    assert re.search(r"^models/release +not that of dvc\.lock: see dvc status release$", printed, flags=re.MULTILINE)

    project.dvc("repro")  # of the lock, but its sums are not those of its files
    assert re.search(r"^models/release +does not pass its verify\.py$", run_gate()[1], flags=re.MULTILINE)
    project.commit()
    assert run_gate("--of", "good")[0] == 0
    code, printed = run_gate("--against", "good", "--of", "HEAD")
    assert code == 1
    assert re.search(r"^models/release +does not pass its verify\.py$", printed, flags=re.MULTILINE)

    shutil.rmtree(project.folder / "models" / "release")
    assert re.search(r"^models/release +missing$", run_gate("--against", "good")[1], flags=re.MULTILINE)
