"""Hold a compressed file to its name: what was asked for is measured in the file, because toolkits skip in silence."""

from shared.files.inspection import FileFacts
from shared.kit.stage import StageError


def check_compressed(facts: FileFacts, variant: str, form: str, minimum_share: float, advice: str) -> None:
    """Check that enough of the weights are stored in a form, as `FileFacts.stored_as` names it.

    Raises:
        StageError: Fewer are; it says how the weights are stored instead, and gives the advice.
    """
    if facts.share(form) < minimum_share:
        found = ", ".join(f"{count} {form}" for form, count in sorted(facts.stored_as.items()))
        raise StageError(
            f"{variant}: {facts.share(form):.1%} of the weights are stored as {form}; minimum_share asks for "
            f"{minimum_share:.1%}; found {found}; {advice}"
        )
