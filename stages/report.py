"""Say which file to ship, and show the run: all metrics in; one self-contained page, a summary and pictures out.

The rule: for each class of devices in `report.targets`, of the files that are fit to ship (`verify`) and that the
oldest of these devices can run, the smallest on disk is recommended; of equally small ones the more accurate.
"""

from shared.judging.limits import VerifyParams
from shared.judging.recommendation import ReportParams
from shared.kit.params import read_params, read_sections
from shared.kit.stage import parse_args, run, write_bytes, write_table
from shared.page.page import draw_pictures, render_page, render_summary
from shared.page.pictures import to_png
from shared.page.run import INPUTS, read_run
from shared.page.sections.size_accuracy import points_of


def main() -> None:
    """Read the metrics; draw the pictures, write the page and the summary."""
    args = parse_args(
        __doc__,
        inputs=INPUTS,
        outputs={
            "page": "the report (HTML)",
            "summary": "its summary (Markdown)",
            "size_accuracy": "size and accuracy of each file (CSV)",
            "loss_picture": "PNG",
            "confusion_picture": "PNG",
            "size_accuracy_picture": "PNG",
            "parity_picture": "PNG",
        },
    )
    params = read_params("report", ReportParams)
    found = read_run(args, params.targets, read_params("verify", VerifyParams), read_sections())
    pictures = draw_pictures(found)
    files = {
        path: to_png(picture)
        for name, picture in pictures.items()
        if (path := getattr(args, f"{name}_picture", None))  # the others are on the page alone
    }
    points = [(f"{point.format} {point.variant}", point.kilobytes, point.accuracy) for point in points_of(found)]
    files[args.summary] = render_summary(found)
    files[args.page] = render_page(found, pictures)
    for path, content in files.items():
        write_bytes(path, content)
    write_table(args.size_accuracy, ("file", "kilobytes", "accuracy"), points)


if __name__ == "__main__":
    run(main)
