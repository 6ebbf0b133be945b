"""Put together what an app team takes: the recommended files and figures in; a bundle that can be checked anywhere out.

The bundle holds, for each class of devices of `report.targets`, the recommended file (an ONNX one in ORT format too,
with the operators that a build of ONNX Runtime needs for it); `labels.json`, `signature.json` (how a file is called),
`model-card.md`, golden vectors as JSON and as NumPy's .npz, a bill of materials (CycloneDX), `verify.py`, which checks
all of it with numpy and onnxruntime alone, `verifiers/`, which do in the languages of apps, and `SHA256SUMS`, signed if
there is a key.

Where no file is fit to ship, the bundle says so and holds no model.
"""

import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

from shared.conversion.export import ExportParams
from shared.data.sequences import Prepared
from shared.execution.predictions import find_reference, read_predictions
from shared.files.formats import EXPORTED, folders
from shared.judging.recommendation import Candidate, Choice, ReportParams, choose, collect
from shared.kit.params import read_params
from shared.kit.stage import StageError, parse_args, read_json, replacing, run, write_bytes, write_json
from shared.release.bill import bill_of_materials
from shared.release.card import render_card
from shared.release.golden import Asked, GoldenParams, Vector, ask, choose_vectors, tolerance_of
from shared.release.ort_format import ask_in_ort_format
from shared.release.signature import signature_of
from shared.release.signing import sign
from shared.release.webpage import describe, read_sources, render

import numpy as np
from pydantic import Field

RELEASE = Path(__file__).parent / "shared" / "release"
WEB = Path(__file__).resolve().parents[1] / "web"
SUMS = "SHA256SUMS"


class Params(GoldenParams, extra="forbid"):
    """Section `release`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=100)
    page: bool
    signing_key: str | None


def ask_files(choices: list[Choice], models: dict[str, Path], vectors: list[Vector]) -> list[tuple[Candidate, Asked]]:
    """Every recommended file, each once, with what it gives for the golden vectors.

    Raises:
        StageError: A file cannot be opened.
    """
    files = {choice.best.file: choice.best for choice in choices if choice.best}
    return [(file, ask(models[file.format] / name, vectors)) for name, file in sorted(files.items())]


def describe_release(
    params: Params, version: str, choices: list[Choice], released: list[tuple[Candidate, Asked]],
    converted: list[tuple[Asked, Asked]], left_out: dict[str, str],
) -> dict[str, Any]:  # fmt: skip
    """The content of release.json: what is recommended to whom, and what each model owes the golden vectors.

    Args:
        params: Section `release`.
        version: Of the model.
        choices: What is recommended.
        released: Each recommended file, and what it gave for the golden vectors.
        converted: ONNX files, each with the same in ORT format.
        left_out: Why others have none, by their names.
    """
    models = {
        asked.path.name: {
            "format": file.format,
            "variant": file.variant,
            "bytes": int(file.bytes),
            "requires": file.requires,
            "executed_by": asked.runtime.executor,
            "executor_version": asked.runtime.version,
            "tolerance": tolerance_of(asked.path),
        }
        for file, asked in released
    }
    for source, ort in converted:
        own = {"format": "ort", "bytes": ort.path.stat().st_size, "requires": {}, "made_from": source.path.name}
        models[ort.path.name] = models[source.path.name] | own
    return {
        "name": params.name,
        "version": version,
        "targets": [
            {"name": choice.target.name, "floors": choice.target.floors, "file": choice.best and choice.best.file}
            for choice in choices
        ],
        "models": models,
        "not_converted": left_out,
    }


def convert_all(
    asked: list[Asked], folder: Path, vectors: list[Vector]
) -> tuple[list[tuple[Asked, Asked]], dict[str, str]]:
    """Each ONNX file with the same in ORT format, written into a folder; and why the others have none."""
    converted, left_out = [], {}
    for each in asked:
        if each.path.suffix == ".onnx":
            try:
                converted.append((each, ask_in_ort_format(each, folder, vectors)))
            except StageError as error:
                left_out[each.path.name] = str(error)
                for path in folder.glob(f"{each.path.stem}.*"):
                    if path.name != each.path.name:
                        path.unlink()
    return converted, left_out


def write_golden(folder: Path, vectors: list[Vector], asked: list[Asked]) -> None:
    """Write the golden vectors twice: for programs as JSON, exactly, and for NumPy."""
    content = [
        {
            "kind": vector.kind,
            "length": vector.length,
            "sequence": vector.sequence.astype(np.float64).tolist(),
            "logits": {each.path.name: each.logits[index].astype(np.float64).tolist() for each in asked},
        }
        for index, vector in enumerate(vectors)
    ]
    write_json(folder / "golden.json", {"vectors": content})
    arrays: dict[str, Any] = {
        "sequences": np.stack([vector.sequence for vector in vectors]),
        "lengths": np.array([vector.length for vector in vectors], np.int32),
        **{f"logits/{each.path.name}": each.logits for each in asked},
    }
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    write_bytes(folder / "golden.npz", packed.getvalue())


def sums_of(folder: Path) -> str:
    """The SHA-256 of every file of a folder, as the program `sha256sum` writes and checks them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n" for path in files
    )


def digest_of(model: Path) -> str:
    """The SHA-256 of a file; of a package, of the sums of its files."""
    content = sums_of(model).encode() if model.is_dir() else model.read_bytes()
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    """Read the arguments and the parameters; fill the bundle."""
    args = parse_args(
        __doc__,
        inputs={
            "prepared": "the folder of prepared arrays",
            "predictions": "the folder of PyTorch's logits",
            **{name: folders()[name] for name in EXPORTED},
            "training": "the figures of training (JSON)",
            "evaluation": "what each file is worth (JSON)",
            "verification": "the verdict on each file (JSON)",
            "sizes": "the facts of each file (JSON)",
        },
        outputs={"bundle": "the folder that an app team takes"},
    )
    params = read_params("release", Params)
    targets = read_params("report", ReportParams).targets
    export = read_params("export", ExportParams)
    data = Prepared(args.prepared)
    evaluation, verification, sizes = (read_json(path) for path in (args.evaluation, args.verification, args.sizes))
    candidates = collect(evaluation, verification, sizes, {})
    formats = {file.format for file in candidates}  # of one that is left out there is nothing to say
    choices = [choose(candidates, target) for target in targets if target.format in formats]
    reference = find_reference(list(read_predictions(args.predictions))).logits
    vectors = choose_vectors(data, reference, params.seed)
    released = ask_files(choices, {name: getattr(args, name) for name in EXPORTED}, vectors)
    asked = [each for _, each in released]

    with replacing(args.bundle) as folder:
        folder.mkdir()
        for each in asked:
            (shutil.copytree if each.path.is_dir() else shutil.copyfile)(each.path, folder / each.path.name)
        converted, left_out = convert_all(asked, folder, vectors)
        asked += [ort for _, ort in converted]
        write_json(folder / "labels.json", data.schema.classes)
        signatures = {each.path.name: signature_of(each.runtime.interface, data.schema) for each in asked}
        write_json(folder / "signature.json", signatures)
        described = describe_release(params, export.version, choices, released, converted, left_out)
        write_json(folder / "release.json", described)
        write_golden(folder, vectors, asked)
        training = read_json(args.training)
        card = render_card(params.name, export, data.schema, choices, candidates[0], training, len(vectors), left_out)
        write_bytes(folder / "model-card.md", card)
        digests = {each.path.name: digest_of(folder / each.path.name) for each in asked}
        write_json(folder / "bill-of-materials.json", bill_of_materials(params.name, export.version, digests))
        shutil.copyfile(RELEASE / "verify_bundle.py", folder / "verify.py")
        shutil.copytree(RELEASE / "verifiers", folder / "verifiers", ignore=shutil.ignore_patterns(".*"))
        onnx = {file.variant: each for file, each in released if file.format == "onnx"}
        if params.page and onnx:
            page = describe(data, onnx, vectors, evaluation.get("onnx", {}), export)
            write_bytes(folder / "model.html", render(read_sources(WEB), page))
        sums = sums_of(folder).encode()
        write_bytes(folder / SUMS, sums)
        if params.signing_key is not None:
            write_bytes(folder / f"{SUMS}.sig", sign(sums, Path(params.signing_key)))


if __name__ == "__main__":
    run(main)
