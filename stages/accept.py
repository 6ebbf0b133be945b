"""The verdict, last of all: every finding and the page that shows them in; nothing but the exit code out.

It fails where a file is wrong, and where `verify.fail_if_too_lossy` says so, where one costs too much on the task. The
page is written by then, so that it can say what is wrong.
"""

from pathlib import Path
from typing import Any

from shared.judging.limits import VerifyParams
from shared.kit.params import read_params
from shared.kit.stage import StageError, parse_args, read_json, run


def objections(verdicts: dict[str, Any], params: VerifyParams) -> list[str]:
    """What keeps the run from being accepted: each file, and the checks that found something.

    Raises:
        StageError: The verdicts are no verdicts.
    """
    found = []
    try:
        for file_format, variants in verdicts.items():
            for variant, verdict in variants.items():
                checks = dict.fromkeys(problem.partition(":")[0] for problem in verdict["problems"])
                if checks or verdict["outcome"] == "wrong":
                    found.append(f"{file_format} {variant} is wrong ({', '.join(checks)})")
                elif verdict["outcome"] == "too_lossy" and params.fail_if_too_lossy:
                    found.append(f"{file_format} {variant} is too lossy ({'; '.join(verdict['losses'])})")
    except (AttributeError, KeyError, TypeError) as error:
        raise StageError(f"not what `verify` writes: {error!r} is missing; run `dvc repro`") from None
    return found


def main() -> None:
    """Read the arguments and the parameters; fail if there is an objection."""
    args = parse_args(
        __doc__,
        inputs={"verdicts": "the verdict on every file (JSON)", "page": "the page that shows them"},
        outputs={},
    )
    found = objections(read_verdicts(args.verdicts), read_params("verify", VerifyParams))
    if found:
        raise StageError(f"{'; '.join(found)}: {args.page} shows more")


def read_verdicts(file: Path) -> dict[str, Any]:
    """What `verify` wrote.

    Raises:
        StageError: It judged no file.
    """
    verdicts = read_json(file)
    if not verdicts:
        raise StageError(f"{file}: no file was judged")
    return verdicts


if __name__ == "__main__":
    run(main)
