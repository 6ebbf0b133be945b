"""The loss curve."""

from shared.page.pictures import BLUE, ORANGE, name_figure
from shared.page.run import Run

from matplotlib.figure import Figure


def draw(run: Run) -> Figure:
    """Training and validation loss over the epochs."""
    loss = run.loss
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for column, label, color in (("train_loss", "training", BLUE), ("validation_loss", "validation", ORANGE)):
        axes.plot(loss["epoch"], loss[column], label=f"{label}: {loss[column].iloc[-1]:.4f}", color=color)
    axes.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None))
    name_figure(figure, "Loss of each epoch")
    if len(loss) > 1:
        axes.set_xlim(loss["epoch"].iloc[0], loss["epoch"].iloc[-1])
    axes.legend(title="at the last epoch")
    return figure
