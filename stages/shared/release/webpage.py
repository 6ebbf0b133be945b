"""One page that runs the model: runtime, models and golden vectors inside it, so that it works from a file, offline.

The runtime is onnxruntime-web, from npm: its script stands in front of the page's own, and its WebAssembly module,
compressed, in a block of text. The page's Content Security Policy allows this script and one style by their hashes,
WebAssembly, and nothing else: no connection, no other source.
"""

import base64
import functools
import gzip
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.conversion.export import ExportParams
from shared.data.sequences import Prepared
from shared.execution.predictions import find_reference, read_predictions
from shared.execution.web_runtime import MODULE, PACKAGE, SCRIPT
from shared.files.artifacts import find_artifacts
from shared.kit.params import read_params
from shared.kit.stage import StageError, read_json, rounded
from shared.release.golden import Asked, GoldenParams, Vector, ask, choose_vectors, tolerance_of

import jinja2
import numpy as np
from markupsafe import Markup


@dataclass(frozen=True)
class Sources:
    """Everything that the page is made of.

    Attributes:
        template: The page's frame, as a Jinja2 template.
        style: CSS.
        script: The page's own JavaScript, for a module in which `ort` is the runtime.
        runtime_script: The runtime's JavaScript, an ES module.
        runtime_module: Its WebAssembly.
    """

    template: str
    style: str
    script: str
    runtime_script: str
    runtime_module: bytes


def read_sources(folder: Path) -> Sources:
    """Read the folder `web/`.

    Raises:
        StageError: The runtime is not installed.
    """
    if not (folder / MODULE).is_file():
        raise StageError(f"{folder / PACKAGE}: onnxruntime-web is not installed; `make web` installs it, with npm")
    return Sources(
        template=(folder / "index.html").read_text(encoding="utf-8"),
        style=(folder / "style.css").read_text(encoding="utf-8"),
        script=(folder / "app.js").read_text(encoding="utf-8"),
        runtime_script=(folder / SCRIPT).read_text(encoding="utf-8"),
        runtime_module=(folder / MODULE).read_bytes(),
    )


def as_constant(module: str, name: str) -> str:
    """An ES module's text as a part of another, in which a constant of this name holds what it exports.

    Raises:
        StageError: Its last statement exports nothing.
    """
    text = re.sub(r"\n?//# sourceMappingURL=.*\s*$", "", module)
    found = re.search(r"export\{([^{}]*)\};?\s*$", text)
    if not found:
        raise StageError(
            "onnxruntime-web: its script does not end with its exports; another version than the pinned one?"
        )
    pairs = [part.split(" as ") for part in found[1].split(",")]
    members = ", ".join(f"{exported.strip()}: {local.strip()}" for local, exported in pairs)
    return f"{text[: found.start()]}\nconst {name} = {{ {members} }};\n"


@functools.cache
def pack(module: bytes) -> str:
    """Bytes, compressed, as text."""
    return base64.b64encode(gzip.compress(module, mtime=0)).decode()


def inline(text: str) -> str:
    """A script's text where HTML would end the script at what looks like its end tag."""
    return re.sub(r"</(script)", r"<\\/\1", text, flags=re.IGNORECASE)


def render(sources: Sources, model: dict[str, Any]) -> bytes:
    """Put the page together; equal sources and model give equal bytes.

    Args:
        sources: What it is made of.
        model: What it shows: `name`, `version`, `description`, `features`, `classes`, `range` (of each feature),
            `steps` (the fewest and the most), `interface` (`input`, `lengths`, `output`, `time_steps`), `example`,
            `files` and `golden`; see `web/app.js`.
    """
    script = inline(as_constant(sources.runtime_script, "ort") + sources.script)
    # `<` is escaped so that no text of a model, such as a class's name, can end the block that it stands in.
    data = json.dumps(model, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    module = pack(sources.runtime_module)
    policy = (
        f"default-src 'none'; script-src {hash_of(script)} 'wasm-unsafe-eval'; style-src {hash_of(sources.style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(sources.template)
    blocks = {"style": sources.style, "data": data, "runtime": module, "script": script}
    page = template.render(model=model, policy=policy, **{name: Markup(text) for name, text in blocks.items()})  # noqa: S704
    return page.encode()


def describe_run(project: Path) -> dict[str, Any]:
    """What the page shows of the run in a project's folder, which must be the current one: params.yaml is read there.

    Raises:
        StageError: The folder holds no run, or one without ONNX files.
    """
    data = Prepared(project / "data" / "prepared")
    reference = find_reference(list(read_predictions(project / "data" / "predictions"))).logits
    evaluation = read_json(project / "metrics" / "evaluate.json")
    export = read_params("export", ExportParams)
    files = find_artifacts(project / "models" / "onnx")
    if not files:
        raise StageError(f"{project / 'models' / 'onnx'}: no ONNX file; the page runs nothing else")
    vectors = choose_vectors(data, reference, read_params("release", GoldenParams).seed)
    asked = {variant: ask(path, vectors) for variant, path in files.items()}
    return describe(data, asked, vectors, evaluation.get("onnx", {}), export)


def describe(
    data: Prepared, asked: dict[str, Asked], vectors: list[Vector], evaluation: dict[str, Any], export: ExportParams
) -> dict[str, Any]:
    """What the page shows; see `render`.

    Args:
        data: The prepared data, for what a sequence looks like.
        asked: The ONNX files, by variant, and their logits for the golden vectors. All have one interface.
        vectors: The golden vectors.
        evaluation: Of each variant, its `accuracy`.
        export: Section `export` of params.yaml.
    """
    schema = data.schema
    interface = next(iter(asked.values())).runtime.interface
    fewest = 1 if schema.ragged or interface.dynamic_time else schema.time_steps
    return {
        "name": "Sequence classifier",
        "version": export.version,
        "description": export.description,
        "features": schema.features,
        "classes": schema.classes,
        "range": [feature_range(*moments) for moments in zip(schema.mean, schema.deviation, strict=True)],
        "steps": [fewest, schema.time_steps],
        "interface": {
            "input": interface.input_name,
            "lengths": interface.lengths_name,
            "output": interface.output_name,
            "time_steps": None if interface.dynamic_time else schema.time_steps,
        },
        "example": plain(vectors[0].sequence[: vectors[0].length]),
        "files": [
            {
                "name": file.path.name,
                "size": file.path.stat().st_size,
                "accuracy": evaluation.get(variant, {}).get("accuracy"),
                "tolerance": tolerance_of(file.path),
                "bytes": base64.b64encode(file.path.read_bytes()).decode(),
            }
            for variant, file in asked.items()
        ],
        "golden": [
            {
                "kind": vector.kind,
                "sequence": plain(vector.sequence),
                "length": vector.length,
                "logits": {file.path.name: plain(file.logits[index]) for file in asked.values()},
            }
            for index, vector in enumerate(vectors)
        ],
    }


def feature_range(mean: float, deviation: float) -> tuple[float, float]:
    """Between which values a feature is asked for: two standard deviations around its mean."""
    spread = 2 * deviation or 1.0
    return rounded(mean - spread, 3), rounded(mean + spread, 3)


def plain(values: Any) -> Any:
    """An array of float32 as numbers that JSON holds exactly."""
    return np.asarray(values, dtype=np.float64).tolist()


def hash_of(text: str) -> str:
    """How a Content Security Policy names the one script or style of this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
