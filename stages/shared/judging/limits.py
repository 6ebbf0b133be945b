"""The few numbers of a verdict that a person chooses: what a right file may cost on the task."""

from typing import Annotated

from shared.files.formats import Exported
from shared.kit.params import StageParams

from pydantic import Field

Share = Annotated[float, Field(ge=0, le=1)]


class VerifyParams(StageParams):
    """Section `verify`.

    Attributes:
        accuracy_loss: The share of the test split's rows that a file may get wrong more often than PyTorch; one for all
            files, or one for each format.
        recall_loss: The same of the rows of one class, whichever class loses most.
        fail_if_too_lossy: Whether a file that loses more makes `accept` fail, as one that is wrong does.
    """

    accuracy_loss: Share | dict[Exported, Share]
    recall_loss: Share | dict[Exported, Share]
    fail_if_too_lossy: bool

    def allowed(self, limit: "Share | dict[Exported, Share]", file_format: str) -> float | None:
        """A limit for one format; None if only other formats have one."""
        if isinstance(limit, dict):
            return next((share for name, share in limit.items() if name == file_format), None)
        return limit
