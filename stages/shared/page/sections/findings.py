"""What is wrong, in which file, by which check, and what to do: nothing at all on the page of a sound run."""

from typing import Any

from shared.files.formats import FORMATS
from shared.judging.recommendation import Candidate
from shared.page.run import Run

from markupsafe import Markup

ADVICE = {
    name: Markup(words)  # noqa: S704 - ours
    for name, words in {
        "verified": "Nobody judged it: <code>dvc repro</code> does.",
        "executed": "No runtime could run it, so nothing is known of it.",
        "interface": "It does not declare the names, axes, types, features or classes of the checkpoint and of section "
        "<code>export</code>.",
        "shapes": "It was made for one size of a batch, or the rows of a batch change each other: in the net's "
        "<code>forward</code>, take sizes from the tensors themselves, and nothing from the whole batch.",
        "weights": "Weights are not what the file's name says: it is damaged, or the step that compressed it erred.",
        "graph": "It computes something else than its own weights should, or these than PyTorch: the converter erred, "
        "or the file is damaged.",
        "padding": "What follows the end of a sequence changes its logits: the net's <code>forward</code> must use "
        "<code>lengths</code> wherever it looks along the time axis.",
        "probes": "It answers sequences that the data do not hold unlike PyTorch: the converter erred, or the net "
        "leaves the range of numbers that the file computes in.",
    }.items()
}
"""What each check's problem means."""


def check_of(problem: str) -> str:
    """The check that found a problem."""
    return problem.partition(":")[0]


def stage_of(file: Candidate) -> str:
    """The stage that wrote a file, as `dvc repro` takes it."""
    exported = file.variant in FORMATS[file.format].exported
    return f"export_{file.format}" if exported else f"compress_{file.format}@{file.variant}"


def remedy(file: Candidate) -> Markup:
    """What to do about a wrong file, beyond what its checks say."""
    again = Markup("<code>dvc repro --force {}</code> writes it anew; if the problem stays, ").format(stage_of(file))
    if stage_of(file).startswith("compress"):
        return again + Markup("take it off <code>compress_{}.variants</code>.").format(file.format)
    return again + "it is in the net or in its conversion, and no other file of the format is safe."


def content(run: Run) -> dict[str, Any]:
    """Each wrong file with its problems, what they mean and what to do; and the same of the net itself."""
    wrong = [
        {
            "file": file,
            "problems": file.problems,
            "advice": [ADVICE[check] for check in dict.fromkeys(map(check_of, file.problems)) if check in ADVICE],
            "remedy": remedy(file),
        }
        for file in run.exported
        if file.problems
    ]
    net = run.reference.parity or {}
    problems = net.get("problems", [])
    return {
        "wrong": wrong,
        "net_problems": problems,
        "net_advice": [ADVICE[check] for check in dict.fromkeys(map(check_of, problems)) if check in ADVICE],
    }
