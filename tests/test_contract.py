"""dvc.yaml says what the scripts do: their names, parameters, arguments, and every wing that they depend on."""

import argparse
import ast
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

from shared.execution import runners, runtimes, web_runtime
from shared.files import inspection, requirements
from shared.files.formats import EXPORTED, FORMATS, OTHER_EXECUTORS, Exported
from shared.judging import precision, stored, twin
from shared.kit import AVX2_KERNELS, has_avx2, stage
from shared.kit.params import StageParams
from shared.network.architectures import Choice
from shared.page import pictures
from shared.page import sections as page_sections
from shared.release import verify_bundle
from tests.support import items_of

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
STAGES = ROOT / "stages"
SHARED = STAGES / "shared"
FLOORS = [
    ["release"],
    ["page", "device_training"],
    ["judging"],
    ["execution", "training", "conversion"],
    ["data", "network", "files", "coreml_reference"],
    ["kit"],
]
"""The wings from the top of the house down: one imports from lower floors alone."""
WINGS = [wing for floor in FLOORS for wing in floor]
FOUND_BY_FOLDER = [SHARED / "network" / "architectures", SHARED / "coreml_reference"]
"""Folders whose files are imported by looking: to reach one file is to reach all."""
PIPELINE = YAML(typ="safe").load(ROOT / "dvc.yaml")
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
EXAMPLE = YAML(typ="safe").load(ROOT / "tests" / "params.yaml")


def expanded() -> dict[str, dict[str, Any]]:
    """Every stage by name; of a `foreach` stage the template, with its item left as it is written."""
    return {name: stage.get("do", stage) for name, stage in PIPELINE["stages"].items()}


EXPANDED = expanded()
every_stage = pytest.mark.parametrize("name", EXPANDED)


def paths_of(stage: dict[str, Any], *kinds: str) -> list[str]:
    """The paths that a stage lists under these keys, without their options."""
    entries = [entry for kind in kinds for entry in stage.get(kind, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(file: Path) -> set[Path]:
    """The files of `shared` that a file imports itself, inside functions too, but not for its annotations alone."""
    modules: set[str] = set()
    module_tree = tree(file)
    for node in ast.walk(module_tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(module_tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            modules |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    found = set()
    for module in modules:
        names = module.split(".")
        if names[0] == "shared":
            paths = [STAGES.joinpath(*names[:depth]) for depth in range(1, len(names) + 1)]
            found |= {file for path in paths for file in (path.with_suffix(".py"), path / "__init__.py")}
    return {file for file in found if file.is_file()}


def reached(script: Path) -> set[Path]:
    """The script and every file of `shared` that it reaches."""
    found, waiting = set(), {script}
    while waiting:
        file = waiting.pop()
        found.add(file)
        waiting |= imported(file) - found
        for folder in set(FOUND_BY_FOLDER) & set(file.parents):
            waiting |= set(folder.rglob("*.py")) - found
    return found


def wing_of(file: Path) -> str | None:
    """The wing of `shared` that a file belongs to; None for a script and for `shared` itself."""
    return file.relative_to(SHARED).parts[0] if SHARED in file.parents and file.parent != SHARED else None


def dependencies(script: Path) -> set[str]:
    """The script and the wings that it reaches."""
    parts = {SHARED / wing if (wing := wing_of(file)) else file for file in reached(script)}
    return {str(part.relative_to(ROOT)) for part in parts - {SHARED / "__init__.py"}}


def sections(script: Path) -> dict[str, str]:
    """The sections of params.yaml that a script reads, and the name of the class that validates each."""
    found = {}
    for node in ast.walk(tree(script)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "read_params":
            section, model = node.args
            assert isinstance(section, ast.Constant)
            assert isinstance(model, ast.Name)
            found[str(section.value)] = model.id
    return found


def reads_everything(script: Path) -> bool:
    """Whether a script reads all sections of params.yaml."""
    calls = [node.func for node in ast.walk(tree(script)) if isinstance(node, ast.Call)]
    return any(isinstance(function, ast.Name) and function.id == "read_sections" for function in calls)


def declared_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How many inputs and outputs a script asks for on its command line."""

    class Asked(Exception):  # noqa: N818 - no error
        pass

    def ask(description: str, inputs: dict[str, str], outputs: dict[str, str]) -> argparse.Namespace:
        raise Asked(len(inputs), len(outputs))

    module = importlib.import_module(name)
    monkeypatch.setattr(module, "parse_args", ask)
    with pytest.raises(Asked) as asked:
        module.main()
    inputs, outputs = asked.value.args
    return inputs, outputs


def test_every_script_is_a_stage_and_every_stage_a_script() -> None:
    """But for `generate`, which own data take the place of."""
    scripts = {file.stem for file in STAGES.glob("*.py")}
    assert set(EXPANDED) <= scripts
    assert scripts - set(EXPANDED) <= {"generate"}


@every_stage
def test_the_command_runs_the_stage_s_own_script_on_its_inputs_and_outputs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = EXPANDED[name]
    python, script, *arguments = stage["cmd"].split()
    assert (python, script) == ("python", f"stages/{name}.py")
    inputs, outputs = declared_arguments(name, monkeypatch)
    assert len(arguments) == inputs + outputs
    given = {path for path in paths_of(stage, "deps") if not path.startswith(("stages/", "params.yaml"))}
    assert set(arguments[:inputs]) == given
    assert set(arguments[inputs:]) == set(paths_of(stage, "outs", "metrics", "plots"))


@every_stage
def test_deps_are_the_script_and_the_wings_that_it_reaches(name: str) -> None:
    listed = [path for path in paths_of(EXPANDED[name], "deps") if path.startswith("stages/")]
    assert sorted(listed) == sorted(dependencies(STAGES / f"{name}.py"))


def test_imports_inside_functions_count_as_dependencies() -> None:
    assert {"stages/shared/network", "stages/shared/coreml_reference"} <= dependencies(STAGES / "predict.py")


def test_every_folder_of_shared_is_a_wing_that_says_what_flows_through_it() -> None:
    assert sorted(path.name for path in SHARED.iterdir() if path.is_dir() and path.name != "__pycache__") == sorted(
        WINGS
    )
    for wing in WINGS:
        docstring = ast.get_docstring(tree(SHARED / wing / "__init__.py"))
        assert docstring, wing


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_imports_from_lower_floors_alone(wing: str) -> None:
    [floor] = [index for index, wings in enumerate(FLOORS) if wing in wings]
    below = {other for wings in FLOORS[floor + 1 :] for other in wings}
    for file in sorted((SHARED / wing).rglob("*.py")):
        found = {wing_of(path) for path in imported(file)} - {wing, None}
        assert found <= below, f"{file.relative_to(ROOT)} imports from {sorted(map(str, found - below))}"


def test_shared_itself_imports_the_kit_and_does_nothing_more() -> None:
    """So no stage needs to depend on it."""
    docstring, *statements = tree(SHARED / "__init__.py").body
    assert isinstance(docstring, ast.Expr)
    assert [ast.unparse(statement) for statement in statements] == ["import shared.kit as shared_kit"]


def test_the_core_ml_evaluator_imports_nothing_of_shared_but_itself() -> None:
    """But for the kernel pins that `shared` itself imports, which a copy of the folder elsewhere does without."""
    evaluator = SHARED / "coreml_reference"
    for file in evaluator.rglob("*.py"):
        outside = {path for path in imported(file) if evaluator not in path.parents} - {SHARED / "__init__.py"}
        assert not outside, file


def test_tests_mirror_the_wings() -> None:
    mirrored = {path.name for path in (ROOT / "tests" / "shared").iterdir() if path.is_dir()}
    assert mirrored - {"__pycache__"} <= set(WINGS)


@every_stage
def test_params_are_the_sections_that_the_script_reads(name: str) -> None:
    listed = EXPANDED[name].get("params", [])
    assert sorted({entry.partition(".")[0] for entry in listed}) == sorted(sections(STAGES / f"{name}.py"))
    assert ("params.yaml" in EXPANDED[name]["deps"]) == reads_everything(STAGES / f"{name}.py")


@every_stage
def test_a_section_is_listed_whole_or_all_its_keys_but_the_list_that_dvc_repeats_the_stage_for(name: str) -> None:
    """Of a choice, only what is chosen and its own options: the blocks of the others stand by."""
    repeated = PIPELINE["stages"][name].get("foreach", "")
    for section, model_name in sections(STAGES / f"{name}.py").items():
        keys = getattr(importlib.import_module(name), model_name).model_fields
        expected = [f"{section}.{key}" for key in keys if f"${{{section}.{key}}}" != repeated]
        listed = [entry for entry in EXPANDED[name]["params"] if entry.partition(".")[0] == section]
        choice = [f"{section}.${{{section}.name}}", f"{section}.name"]
        is_choice = issubclass(getattr(importlib.import_module(name), model_name), Choice)
        assert sorted(listed) in ([choice] if is_choice else [[section], sorted(expected)])


def models() -> dict[str, type[StageParams]]:
    """What validates each section of params.yaml, which a stage reads or, one of them, a command."""
    scripts = {name: STAGES / f"{name}.py" for name in EXPANDED} | {"commands.gate": ROOT / "commands" / "gate.py"}
    found = {}
    for module, script in scripts.items():
        for section, model_name in sections(script).items():
            model = getattr(importlib.import_module(module), model_name)
            assert issubclass(model, StageParams)
            if model.model_config["extra"] == "forbid":  # another reads a part of a section that this one validates
                found[section] = model
    return found


def test_every_section_and_key_of_params_yaml_is_read_and_nothing_else_is() -> None:
    read = {section: set(model.model_fields) for section, model in models().items()}
    assert {section: set(keys) for section, keys in PARAMS.items()} == read


def test_every_key_has_no_default_in_code() -> None:
    """Each value lives in params.yaml alone."""
    for model in models().values():
        assert all(field.is_required() for field in model.model_fields.values())


def test_no_stage_depends_on_the_gate() -> None:
    """What a regression is can be changed without running anything but the page that shows every parameter."""
    assert not [name for name, stage in EXPANDED.items() if "gate" in stage.get("params", [])]


def test_every_format_is_in_the_table_of_each_wing() -> None:
    """And no table has one that there is not: docs/adding-a-format.md lists them."""
    suffixes = {each.suffix for each in FORMATS.values()}
    of_all = inspection.READERS, requirements.READERS, runtimes.MODULES, runtimes.OPENERS, runners.TIMINGS
    of_exported = stored.READERS, precision.READERS, twin.SOURCES
    assert all(set(table) == suffixes for table in of_all)
    exported = {FORMATS[name].suffix for name in EXPORTED}
    assert all(set(table) == exported for table in of_exported)
    assert set(verify_bundle.OPENERS) == exported | {".ort"}  # made of ONNX files, for the bundle alone
    assert list(pictures.FORMAT_COLORS) == list(FORMATS)
    assert list(page_sections.size_accuracy.FORMAT_MARKERS) == list(page_sections.requirements.TABLES) == EXPORTED
    assert get_args(Exported) == tuple(EXPORTED)
    assert {each.suffix for each in FORMATS.values() if each.is_folder} == set(filter(None, stage.FOLDERS))
    folders = [f"models/{name}" for name in FORMATS]
    assert PIPELINE["stages"]["predict"]["foreach"] == {name: name for name in FORMATS} | OTHER_EXECUTORS
    for name, read in {"verify": folders, "benchmark": folders, "release": folders[1:]}.items():
        assert [word for word in EXPANDED[name]["cmd"].split() if word in folders] == read


def test_the_runtime_for_browsers_is_pinned_once() -> None:
    """By its lock file; the constant makes it a part of what stages depend on."""
    lock = json.loads((ROOT / "web" / "package-lock.json").read_text())
    assert lock["packages"]["node_modules/onnxruntime-web"]["version"] == web_runtime.VERSION


def test_every_model_of_the_example_is_a_dvc_artifact_and_every_artifact_a_model() -> None:
    """DVC repeats stages, but not artifacts: a team that lists other variants names those that it wants to publish."""
    artifacts = {artifact["path"] for artifact in PIPELINE["artifacts"].values()}
    outs = {
        name: [
            out for out in paths_of(EXPANDED[name], "outs") if out.startswith("models/") and not out.endswith(".json")
        ]
        for name in EXPANDED
    }
    example = {
        out.replace("${item}", item)
        for name, stage in PIPELINE["stages"].items()
        for item in (items_of(stage, EXAMPLE) if "foreach" in stage else [""])
        for out in outs[name]
    }
    assert example <= artifacts
    templates = [re.escape(out).replace(re.escape("${item}"), r"\w+") for paths in outs.values() for out in paths]
    for path in artifacts:
        assert any(re.fullmatch(template, path) for template in templates), path


def test_the_tests_own_parameters_name_every_key() -> None:
    """But for an architecture of one's own: a new key belongs into tests/params.yaml as well."""
    found = models()
    for section, values in EXAMPLE.items():
        if section in found:
            keys = set(found[section].model_fields)
            assert set(values) <= keys if section == "architecture" else set(values) == keys, section


def test_every_plot_and_metric_is_an_output() -> None:
    outputs = {path for stage in EXPANDED.values() for path in paths_of(stage, "outs", "metrics")}
    pictures = {plot for plot in PIPELINE["plots"] if isinstance(plot, str)}
    plots = [entry for plot in PIPELINE["plots"] if isinstance(plot, dict) for entry in plot.values()]
    assert pictures | {file for entry in plots for axis in "xy" for file in entry[axis]} <= outputs


@every_stage
def test_no_script_shadows_a_library(name: str) -> None:
    """Its folder is the first on the import path of every stage."""
    assert name not in sys.stdlib_module_names
    assert name not in importlib.metadata.packages_distributions()


@every_stage
def test_shared_is_imported_before_any_library(name: str) -> None:
    """Importing it pins the numeric kernels, which the libraries choose when they load."""
    for node in tree(STAGES / f"{name}.py").body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name) or ""
            if module.split(".")[0] not in sys.stdlib_module_names:
                assert module.split(".")[0] == "shared"
                return
    pytest.fail("imports nothing of `shared`")


SLOW_IMPORTS = {"coremltools", "matplotlib", "onnx", "onnxruntime", "pandas", "pyarrow", "scipy", "sklearn", "torch"}
"""Libraries that take from a tenth of a second to two seconds to import."""


@pytest.mark.parametrize(("name", "needed"), [("accept", set()), ("list_variants", set()), ("report", {"matplotlib"})])
def test_a_short_stage_imports_no_slow_library_that_it_does_not_need(name: str, needed: set[str]) -> None:
    command = [sys.executable, "-c", f"import sys, {name}; print(sorted(sys.modules))"]
    printed = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(STAGES)}, capture_output=True, text=True, check=True
    ).stdout
    assert SLOW_IMPORTS & set(ast.literal_eval(printed)) == needed


def test_the_kernels_are_pinned_when_torch_and_numpy_load() -> None:
    script = """
import os, sys
class Watch:
    seen = {}
    def find_spec(self, name, path=None, target=None):
        if name in ("numpy", "torch") and name not in self.seen:
            self.seen[name] = {variable: os.environ.get(variable) for variable in sys.argv[1:]}
sys.meta_path.insert(0, Watch())
import train
print(Watch.seen)
"""
    environment = {key: value for key, value in os.environ.items() if key not in AVX2_KERNELS}
    printed = subprocess.run(
        [sys.executable, "-c", script, *AVX2_KERNELS],
        env=environment | {"PYTHONPATH": str(STAGES)}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    expected = AVX2_KERNELS if has_avx2() else dict.fromkeys(AVX2_KERNELS)
    assert ast.literal_eval(printed) == {"numpy": expected, "torch": expected}
