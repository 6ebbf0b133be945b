"""Which file is recommended, and one page that says so and shows everything else, beside its pictures."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

from shared.page.formatting import escape_markdown, format_change, format_size
from tests.report_inputs import File, write_inputs
from tests.support import ROOT, Workspace, clean_environment, command, write_params

import matplotlib.image as mpl_image
import numpy as np
import pandas as pd
import pytest

PICTURES = ("loss", "confusion", "size_accuracy", "parity")
OUTPUTS = ("report.html", "report.md", "size_accuracy.csv", *(f"{name}.png" for name in PICTURES))


class Page(HTMLParser):
    """A page's text, and what it refers to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL))
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}:
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def rendered(folder: Path) -> Page:
    return Page((folder / "metrics" / "report.html").read_text())


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Workspace:
    """A folder with made-up metrics of ten files, to be changed before `report` runs."""
    write_params(tmp_path)
    write_inputs(tmp_path)
    return Workspace(tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on the made-up metrics, written by a process of its own. Not to be changed."""
    folder = tmp_path_factory.mktemp("report")
    write_params(folder)
    write_inputs(folder)
    run_alone(folder, "1")
    return folder


def run_alone(folder: Path, hash_seed: str) -> None:
    _, script, *paths = command("report")
    environment = clean_environment() | {"PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, ROOT / script, *paths], cwd=folder, env=environment, check=True)


def test_figures_have_units_and_sensible_digits() -> None:
    assert [format_size(count) for count in (940, 45_650, 145_650, 2_345_678)] == [
        "0.9 kB", "45.6 kB", "146 kB", "2.3 MB"
    ]  # fmt: skip
    assert [format_change(loss) for loss in (0.009, -0.0001, 0.00004, -0.0)] == ["−0.90", "+0.01", "0.00", "0.00"]  # noqa: RUF001
    assert escape_markdown("a|b_c<d>`") == r"a\|b\_c\<d\>\`"


def trust_the_net(evaluated: dict[str, Any]) -> None:
    """Let PyTorch's net be better than always naming the commonest class."""
    evaluated["pytorch"]["fp32"] |= {"collapsed": False, "majority_accuracy": 0.5}


def test_of_a_net_that_names_one_class_alone_no_file_is_recommended(workspace: Workspace) -> None:
    """The small run trains too little to tell the classes apart."""
    metrics = workspace.folder / "metrics"
    assert json.loads((metrics / "evaluate.json").read_text())["pytorch"]["fp32"]["collapsed"]
    for shown in (rendered(workspace.folder).text, (metrics / "report.md").read_text()):
        assert "The trained net has collapsed: it names the same class, whatever it is shown." in shown
        assert "★" not in shown


def test_of_a_real_run_every_file_is_on_the_page_with_the_metrics_figures(workspace: Workspace) -> None:
    metrics = workspace.folder / "metrics"
    edit(metrics / "evaluate.json", trust_the_net)
    workspace.call("report")
    text, summary = rendered(workspace.folder).text, (metrics / "report.md").read_text()
    evaluated, verified, sizes = (
        json.loads((metrics / f"{name}.json").read_text()) for name in ("evaluate", "verify", "size")
    )
    exported = [(name, variant) for name in verified for variant in verified[name] if name != "pytorch"]
    assert f"Each of the {len(exported)} exported files was executed on the test split and verified" in text
    assert (text.count("★ recommended"), summary.count("★ recommended")) == (2, 2)
    assert text.count("✗") == 0
    for name, variant in exported:
        suffix = {"onnx": "onnx", "coreml": "mlpackage"}[name]
        assert f"classifier-{variant}.{suffix}" in text
        for shown in (text, summary):
            assert f"{100 * evaluated[name][variant]['accuracy']:.2f}%" in shown
            assert format_size(sizes[name][variant]["bytes"]) in shown
    points = pd.read_csv(metrics / "size_accuracy.csv").set_index("file")
    assert {f"{name} {variant}" for name, variant in exported} == set(points.index)
    for name, variant in exported:
        assert points.loc[f"{name} {variant}", "kilobytes"] == pytest.approx(sizes[name][variant]["bytes"] / 1000)
        assert points.loc[f"{name} {variant}", "accuracy"] == evaluated[name][variant]["accuracy"]


def test_the_page_needs_no_other_file(usual: Path) -> None:
    html = (usual / "metrics" / "report.html").read_text()
    page = Page(html)
    assert not page.tags & {"script", "link", "iframe", "img", "object", "video", "form"}
    assert {reference[:1] for reference in page.references} <= {"#"}
    assert "@import" not in html
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    assert set(re.findall(r"https?://[^\"]*", html)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_what_the_pictures_refer_to_is_there_once(usual: Path) -> None:
    html = (usual / "metrics" / "report.html").read_text()
    page = Page(html)
    used = {reference.removeprefix("#") for reference in (*page.references, *re.findall(r"url\((#\w+)", html))}
    assert used
    assert used <= set(page.ids)
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []


def test_everything_that_a_page_should_show_is_on_it(usual: Path) -> None:
    page = rendered(usual)
    for expected in (
        "✗ 2 of 10 exported files are wrong: not known to compute what PyTorch computes.",
        "Android, desktop, browser from ONNX Runtime 1.17 classifier-fp16.onnx",
        "24.3 kB on disk, 21.4 kB to download",
        "96.98%: −0.01 points against PyTorch",  # noqa: RUF001
        "2.4e-4 of the spread of PyTorch's logits",
        "if always “0” 50.00%",
        "accuracy (PyTorch) 96.64 to 97.31% 96.99%",
        "96.98% 96.63 to 97.30% \N{MINUS SIGN}0.01 \N{MINUS SIGN}0.06 to +0.03 ONNX Runtime 1.17",
        "0.024 ms a sequence (0.0233 to 0.0264), one thread",
        "reference evaluator, not Apple's runtime (Linux-x86_64)",
        "int8 (15.1 kB) is too lossy (accuracy_loss: 0.009 of the rows are lost against PyTorch; allowed: 0.005).",
        "iOS and macOS from iOS 17, macOS 14 classifier-palette4.mlpackage",
        "sparse50_palette4 (9.9 kB) is too lossy",
        "It is not worse than PyTorch as far as these 10,000 rows can tell",
        "the stock torch.onnx.export of the same checkpoint takes 0.037 ms (0.0359 to 0.0407)",
        "Not measured: Core ML runs on macOS only.",
        "classifier-sparse50.mlpackage executed: no prediction was found",
        "ONNX fp16 5 of 5 1.5e-7 1.0e-5 2.4e-4 2.9e-4 1.2e-3 2.2e-3",
        "fp16 1.17 20 9 \N{EN DASH} none: the CPU is best \N{EN DASH}",
        "palette4 iOS 17, macOS 14 8",
        "ONNX int8 112 1.12% ",
        "zeros nothing but zeros 16 6 0 to 0 not finite",
        "in combinations that the data do not hold, 50 steps long 64 50 -4 to 13.7",
        "refused: ValueError: too large",
        "value holds codes, 30 different ones (0, 1, 2,",
        "No flip in ONNX fp32, Core ML fp32.",
        "10,500 sequences of 6 time steps, with 1 feature at each step.",
        "value 4.995 2.891",
        "recall_loss 0.05",
        "accuracy_loss 0.005",
        "CPU AMD EPYC 9R14",
        "Memory 24.0 GB",
    ):
        assert expected in page.text
    for heading in ("Size against accuracy", "Loss of each epoch", "Confusion matrix", "Difference from PyTorch"):
        assert heading in page.text


def test_the_summary_fits_a_comment_and_is_a_table(usual: Path) -> None:
    summary = (usual / "metrics" / "report.md").read_text()
    assert len(summary) < 4000
    assert "- **Android, desktop, browser** (from ONNX Runtime 1.17): **classifier-fp16.onnx**, 24.3 kB" in summary
    assert r"  - int8 (15.1 kB) is too lossy (accuracy\_loss: 0.009 of the rows are lost" in summary
    rows = [line for line in summary.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 11
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}
    cells = [r"ONNX int8\_static", "14.9 kB", "13.1 kB", "83.87%", "\N{MINUS SIGN}13.12", "2.1e-1", "ONNX Runtime 1.17"]
    assert f"| {' | '.join([*cells, '✗ wrong: graph'])} |" in rows


def test_each_probe_can_be_seen(usual: Path) -> None:
    html = (usual / "metrics" / "report.html").read_text()
    [picture] = re.findall(r'<div class="wide-picture">(.*?)</div>', html, flags=re.DOTALL)
    assert [name in Page(picture).text for name in ("far", "far@50", "zeros", "edge")] == [True] * 4
    assert picture.count("clip-path") >= 4


def test_the_pictures_show_something(usual: Path) -> None:
    for name in PICTURES:
        pixels = mpl_image.imread(BytesIO((usual / "metrics" / f"{name}.png").read_bytes()), format="png")
        assert min(pixels.shape[:2]) > 300
        assert np.unique(pixels[::3, ::3].sum(axis=2)).size > 20


def test_equal_inputs_give_equal_bytes(usual: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a folder with another name"
    shutil.copytree(usual, folder)
    for name in OUTPUTS:
        (folder / "metrics" / name).unlink()
    run_alone(folder, "2")
    for name in OUTPUTS:
        assert (folder / "metrics" / name).read_bytes() == (usual / "metrics" / name).read_bytes(), name


def test_where_no_file_qualifies_the_page_says_so(made_up: Workspace) -> None:
    files = {
        ("onnx", "fp32"): File(45_650, 0.2, 0.3, ["graph: relative error 0.3 is above 1e-05"]),
        ("coreml", "fp16"): File(27_130, executed=False, problems=["executed: a file is truncated"]),
    }
    write_inputs(made_up.folder, files)
    made_up.call("report")
    text = rendered(made_up.folder).text
    assert text.count("No file qualifies.") == 2
    assert "recommended ONNX" not in text
    assert "★" not in text
    assert "fp32 (45.6 kB) failed verification (graph: relative error 0.3 is above 1e-05)." in text
    assert "fp16 (27.1 kB) failed verification (executed: a file is truncated)." in text
    assert (text.count("✗ wrong: graph"), text.count("✗ not executed")) == (1, 1)
    assert (made_up.folder / "metrics" / "report.md").read_text().count("no file qualifies") == 2


def test_without_any_executed_file_there_is_a_page_all_the_same(made_up: Workspace) -> None:
    write_inputs(made_up.folder, {("onnx", "fp32"): File(45_650, executed=False, problems=["executed: it is empty"])})
    made_up.call("report")
    text = rendered(made_up.folder).text
    assert "✗ 1 of 1 exported files is wrong" in text
    assert "No row of the test split gets another class" not in text
    assert text.count("No file qualifies.") == 1


def edit(file: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file in place."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_what_is_wrong_stands_in_red_at_the_top_with_its_check_and_what_to_do(usual: Path) -> None:
    html = (usual / "metrics" / "report.html").read_text()
    [alarm] = re.findall(r'<section class="alarm" role="alert">.*?</section>', html, flags=re.DOTALL)
    assert html.index("<h1>") < html.index(alarm) < html.index("Which file to ship")
    text = Page(alarm).text
    assert "classifier-int8_static.onnx graph: relative error 0.21 is above 0.05" in text
    assert "dvc repro --force compress_onnx@int8_static writes it anew" in text
    assert "take it off compress_onnx.variants" in text
    assert "too lossy" not in text
    summary = (usual / "metrics" / "report.md").read_text()
    assert "❌ **2 of 10 exported files are wrong:**" in summary
    assert r"- classifier-int8\_static.onnx: graph: relative error 0.21" in summary


def test_of_a_sound_run_nothing_is_red_at_the_top_and_a_lossy_file_is_no_alarm(made_up: Workspace) -> None:
    files = {("onnx", "fp32"): File(45_650), ("onnx", "int8"): File(15_070, 0.009, 0.02, flips=5)}
    write_inputs(made_up.folder, files)
    made_up.call("report")
    html = (made_up.folder / "metrics" / "report.html").read_text()
    assert "alarm" not in re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    text = Page(html).text
    assert "✓ Each of the 2 exported files was executed on the test split and verified against PyTorch." in text
    assert "1 of them costs too much on this task, and is not recommended." in text
    assert "❌" not in (made_up.folder / "metrics" / "report.md").read_text()


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"collapsed": True}, "The trained net has collapsed: it names the same class, whatever it is shown."),
        ({"majority_accuracy": 0.97}, "The trained net is no better than always naming the commonest class, 0:"),
    ],
)
def test_no_file_of_a_net_that_is_no_better_than_its_baseline_is_recommended(
    made_up: Workspace, figures: dict[str, Any], words: str
) -> None:
    edit(made_up.folder / "metrics/evaluate.json", lambda found: found["pytorch"]["fp32"].update(figures))
    made_up.call("report")
    text = rendered(made_up.folder).text
    assert text.index(f"✗ {words}") < text.index("Which file to ship")
    assert "★" not in text
    assert text.count("No file qualifies.") == 2
    summary = (made_up.folder / "metrics" / "report.md").read_text()
    assert f"❌ **{words[:20]}" in summary
    assert "★" not in summary


def test_a_fault_of_the_net_itself_is_said_to_be_the_net_s(made_up: Workspace) -> None:
    problem = "padding: the net itself gives 'padding_nan' other logits than 'rows', though only padding differs"
    found = {"outcome": "wrong", "passed": False, "problems": [problem], "losses": [], "notes": ["probes: refused"]}
    edit(made_up.folder / "metrics/verify.json", lambda verified: verified.update(pytorch={"fp32": found}))
    made_up.call("report")
    text = rendered(made_up.folder).text
    top, _, rest = text.partition("Which file to ship")
    assert "✗ The net itself is wrong, whatever it is exported to" in top
    assert f"The net itself, whatever it is exported to {problem}" in top
    assert "forward must use lengths" in top
    assert "fp32 ✗ padding" in rest
    assert "probes: refused (PyTorch)" in rest
    assert f"❌ {escape_markdown(problem)}" in (made_up.folder / "metrics" / "report.md").read_text()


@pytest.mark.parametrize(
    ("variant", "within", "cause"),
    [("fp16", True, "rounding"), ("palette4", True, "its weights"), ("fp16", False, "nothing known")],
)
def test_only_files_of_the_net_s_own_weights_flip_by_rounding(
    made_up: Workspace, variant: str, *, within: bool, cause: str
) -> None:
    edit(
        made_up.folder / "metrics/verify.json",
        lambda verified: verified["coreml"][variant].update(flips_within_margin=within, largest_flipped_margin=0.125),
    )
    made_up.call("report")
    assert re.search(rf"Core ML {variant} \d+ [\d.]+% 0.125 {cause}", rendered(made_up.folder).text)


def test_a_split_by_groups_is_stated_with_their_number(made_up: Workspace) -> None:
    made_up.set("prepare.group_column", "person")
    groups = {"train": 12, "validation": 5, "test": 7}
    edit(made_up.folder / "data/prepared/schema.json", lambda schema: schema.update(groups=groups))
    made_up.call("report")
    assert (
        "Split by group (person): 12 in train, 5 in validation, 7 in test; none is in two splits."
        in rendered(made_up.folder).text
    )


def test_names_are_shown_as_they_are(made_up: Workspace) -> None:
    """Classes, features, variants and parameters with the meaning of HTML, of a formula, or of a missing value."""
    classes = ["<b>two</b>", "$x$", "NA", "None"]
    write_inputs(made_up.folder, {("onnx", "<i>x|y"): File(1000, flips=3)}, classes)
    made_up.set("export.description", "<script>alert(1)</script> & more")
    edit(made_up.folder / "data/prepared/schema.json", lambda schema: schema.update(features=["<u>f</u>"]))
    assert made_up.call("report") == ""
    page = rendered(made_up.folder)
    assert not page.tags & {"b", "i", "u", "script"}
    for name in (*classes, "<i>x|y", "<u>f</u>", "<script>alert(1)</script> & more"):
        assert name in page.text
    assert r"\<i\>x\|y" in (made_up.folder / "metrics" / "report.md").read_text()


def test_many_classes_are_listed_by_how_often_they_are_confused(made_up: Workspace) -> None:
    write_inputs(made_up.folder, classes=[f"class {index}" for index in range(30)])
    made_up.call("report")
    text = rendered(made_up.folder).text
    assert "The classes that PyTorch confuses most often" in text
    assert "actual ↓ predicted →" not in text


def test_what_is_unusual_is_said(made_up: Workspace) -> None:
    """A class without rows, a file executed one sequence at a time, sequences of different lengths."""
    metrics = made_up.folder / "metrics"
    evaluated = json.loads((metrics / "evaluate.json").read_text())
    for figures in (figures for variants in evaluated.values() for figures in variants.values()):
        figures["recall"]["2"] = None
    (metrics / "evaluate.json").write_text(json.dumps(evaluated))
    edit(metrics / "verify.json", lambda verified: verified["onnx"]["int8"].update(batch_dependent=True))
    edit(
        made_up.folder / "data/prepared/schema.json",
        lambda schema: schema.update(ragged=True, length_range=[2, 6], filled=12),
    )
    made_up.call("report")
    text = rendered(made_up.folder).text
    assert "int8 2 too lossy" in text
    assert "2 Executed one sequence at a time, since its result depends on what else is in the batch." in text
    assert "sequences of 2 to 6 time steps, with 1 feature at each step; 12 missing values were filled in." in text
    assert re.search(r" 2 2,658( \N{EN DASH}){10} The share of the rows", text)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("verify.json", "[]", "metrics/verify.json: found a JSON list; expected an object"),
        ("flips.csv", "format,variant\n", "metrics/flips.csv: column 'actual' is missing; found format, variant"),
        ("loss.csv", "epoch,train_loss,validation_loss\n1,x,2\n", "metrics/loss.csv: not a readable table: "),
        ("parity.csv", "", "metrics/parity.csv: not a readable table: "),
        ("evaluate.json", "{}", "PyTorch's figures lack 'pytorch': nothing to judge a file by; run `dvc repro`"),
    ],
)
def test_a_damaged_input_is_named(made_up: Workspace, name: str, content: str, message: str) -> None:
    (made_up.folder / "metrics" / name).write_text(content)
    assert made_up.refuses("report").startswith(message)
