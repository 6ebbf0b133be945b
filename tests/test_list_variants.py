"""A variant taken off its list is gone from the run: from the folder, the figures and the page, and in every clone."""

import json
import re
from pathlib import Path

import compress_onnx
from compress_coreml import parse_variant
from shared.files.artifacts import discard_unlisted, find_artifacts, write_list
from shared.files.formats import FORMATS
from shared.kit.stage import StageError
from tests.support import Project

import pytest


def compressed_by_list(name: str, variant: str) -> bool:
    pattern = FORMATS[name].compressed
    return pattern is not None and pattern.fullmatch(variant) is not None


@pytest.mark.parametrize(
    "variant", ["sparse50", "palette4", "palette6", "int8", "int4", "sparse50_palette4", "sparse5_int8"]
)
def test_every_variant_of_an_mlpackage_is_known_as_one(variant: str) -> None:
    assert parse_variant(variant)
    assert compressed_by_list("coreml", variant)


def test_every_variant_of_an_onnx_file_is_known_as_one() -> None:
    assert all(compressed_by_list("onnx", variant) for variant in compress_onnx.RECIPES)


def test_only_files_of_variants_that_the_list_lacks_are_deleted(tmp_path: Path) -> None:
    for name in ("fp32.onnx", "fp16.onnx", "int8.onnx", "my_own.onnx"):
        (tmp_path / f"classifier-{name}").touch()
    discard_unlisted(tmp_path)  # there is no list
    assert list(find_artifacts(tmp_path)) == ["fp16", "fp32", "int8", "my_own"]
    write_list(tmp_path / "variants.json", ["int8"])
    discard_unlisted(tmp_path)
    assert list(find_artifacts(tmp_path)) == ["fp32", "int8", "my_own"]


def test_the_exported_packages_stay_whatever_is_listed(tmp_path: Path) -> None:
    for variant in ("fp32", "fp16", "sparse50_palette4"):
        (tmp_path / f"classifier-{variant}.mlpackage" / "Data").mkdir(parents=True)
    write_list(tmp_path / "variants.json", [])
    discard_unlisted(tmp_path)
    assert list(find_artifacts(tmp_path)) == ["fp16", "fp32"]


def test_a_damaged_list_deletes_nothing(tmp_path: Path) -> None:
    (tmp_path / "classifier-int8.onnx").touch()
    (tmp_path / "variants.json").write_text('{"variants": "int8"}')
    with pytest.raises(StageError, match=r"variants\.json: found no list of variants; `dvc repro` writes it"):
        discard_unlisted(tmp_path)
    assert list(find_artifacts(tmp_path)) == ["int8"]


def recommended(project: Project) -> str:
    """The variant that the summary recommends for Core ML."""
    summary = (project.folder / "metrics" / "report.md").read_text().replace("\\", "")
    return str(re.findall(r"\*\*classifier-(\w+)\.mlpackage\*\*", summary)[0])


def test_a_variant_taken_off_the_list_leaves_the_run_and_a_clone_reproduces_that(
    reproduced: Project,
) -> None:
    listed = ["palette6", "sparse50_palette4"]
    gone = recommended(reproduced)
    assert gone in listed
    package = f"models/coreml/classifier-{gone}.mlpackage"
    reproduced.set("compress_coreml.variants", [variant for variant in listed if variant != gone])

    ran = reproduced.repro()

    assert set(ran) == {
        "list_variants",
        "predict@coreml",
        "evaluate",
        "verify",
        "benchmark",
        "report",
        "release",
        "accept",
    }
    assert not (reproduced.folder / package).exists()
    for name in ("evaluate", "verify", "size"):
        assert gone not in json.loads((reproduced.folder / "metrics" / f"{name}.json").read_text())["coreml"]
    assert gone not in (reproduced.folder / "metrics" / "report.md").read_text().replace("\\", "")
    assert recommended(reproduced) != gone
    assert reproduced.repro() == []

    # A fresh clone pulls the same folders, so that nothing is left to run there.
    reproduced.commit()
    reproduced.dvc("push")
    clone = Project(reproduced.folder.parent / "clone")
    reproduced.git("clone", "--quiet", ".", str(clone.folder))
    clone.dvc("pull")
    assert clone.repro() == []
    assert clone.git("status", "--short") == ""

    # The file comes back as an older commit does, and is gone again with the newer one.
    lock = (reproduced.folder / "dvc.lock").read_bytes()
    reproduced.git("checkout", "--quiet", "HEAD~")
    reproduced.dvc("checkout")
    assert (reproduced.folder / package).is_dir()
    reproduced.git("checkout", "--quiet", "-")
    reproduced.repro()
    assert not (reproduced.folder / package).exists()
    assert reproduced.git("status", "--short") == ""
    assert (reproduced.folder / "dvc.lock").read_bytes() == lock
