"""What can go wrong, each as one line that a user can act on."""

from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_PART = 300  # characters, of a library's message
LONGEST_MESSAGE = 1000


class CoreMLReferenceError(ValueError):
    """Anything that the evaluator reports, in one line, however long the names in it are."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(shortened(message, LONGEST_MESSAGE).splitlines()))


class PackageError(CoreMLReferenceError):
    """The saved package cannot be read; the message names the file, what was found and what is expected."""


class InputError(CoreMLReferenceError):
    """The values passed to `predict` do not fit the inputs (or the state) that the model declares."""


class EvaluationError(CoreMLReferenceError):
    """An op cannot be computed, or its result is not what the program declares."""


class UnsupportedError(CoreMLReferenceError):
    """The package is sound, but asks for something that this evaluator does not do; the message gives the reason."""


@contextmanager
def reported(kind: type[CoreMLReferenceError], subject: object) -> Iterator[None]:
    """Turn whatever the libraries below raise into one line: their exceptions have no common base.

    Raises:
        CoreMLReferenceError: The evaluator's own errors as they are, any other as this `kind`, with what it is about.
    """
    try:
        yield
    except CoreMLReferenceError:
        raise
    except MemoryError as error:
        raise kind(f"{subject}: it needs more memory than there is ({one_line(error)})") from error
    except RecursionError:
        raise kind(f"{subject}: it is nested too deeply") from None
    except OSError as error:
        raise kind(f"{subject}: cannot be read ({error.strerror or one_line(error)})") from error
    except Exception as error:
        raise kind(f"{subject}: {type(error).__name__}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """A library's message, however many lines it has and however long it is."""
    return shortened(" ".join(str(error).split()))


def shortened(text: str, longest: int = LONGEST_PART) -> str:
    """A text, or its beginning."""
    return text if len(text) <= longest else f"{text[:longest]}…"
