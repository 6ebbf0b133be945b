"""A reference evaluator of Core ML programs: runs a saved mlpackage on any machine, op by op, in numpy.

    from shared.coreml_reference import CoreMLReference

    model = CoreMLReference("classifier.mlpackage")
    logits = model.predict({"sequence": batch})["logits"]

Each op is a short numpy function in `ops/`, to be read as the op's definition. `python stages/shared/coreml_reference
PACKAGE` shows and runs a package from the command line.
"""

from shared.coreml_reference.errors import (
    CoreMLReferenceError,
    EvaluationError,
    InputError,
    PackageError,
    UnsupportedError,
)
from shared.coreml_reference.features import Feature
from shared.coreml_reference.reference import CoreMLReference, ReferenceState

__all__ = [
    "CoreMLReference",
    "CoreMLReferenceError",
    "EvaluationError",
    "Feature",
    "InputError",
    "PackageError",
    "ReferenceState",
    "UnsupportedError",
]
