"""What can go wrong, each as one line that a user can act on."""


class CoreMLReferenceError(ValueError):
    """Anything that the evaluator reports."""


class PackageError(CoreMLReferenceError):
    """The saved package cannot be read; the message names the file, what was found and what is expected."""


class InputError(CoreMLReferenceError):
    """The values passed to `predict` do not fit the inputs (or the state) that the model declares."""


class EvaluationError(CoreMLReferenceError):
    """An op cannot be computed, or its result is not what the program declares."""


class UnsupportedError(CoreMLReferenceError):
    """The package is sound, but asks for something that this evaluator does not do; the message gives the reason."""
