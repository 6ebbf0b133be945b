"""The loss curve."""

from shared.page.pictures import BLUE, ORANGE, name_figure
from shared.page.run import Run

from matplotlib.figure import Figure


def draw(run: Run) -> Figure:
    """Training and validation loss over the epochs."""
    epochs = [row.epoch for row in run.loss]
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for label, losses, color in (
        ("training", [row.train_loss for row in run.loss], BLUE),
        ("validation", [row.validation_loss for row in run.loss], ORANGE),
    ):
        axes.plot(epochs, losses, label=f"{label}: {losses[-1]:.4f}", color=color)
    axes.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None))
    name_figure(figure, "Loss of each epoch")
    if len(epochs) > 1:
        axes.set_xlim(epochs[0], epochs[-1])
    axes.legend(title="at the last epoch")
    return figure
