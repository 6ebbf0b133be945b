"""One sequence through the exported file, the stock export and PyTorch."""

from pathlib import Path

from commands.benchmarks.judging import print_times
from commands.benchmarks.tutorial import TutorialModel
from shared.conversion.stock_export import export_stock
from shared.data.sequences import Prepared
from shared.execution.runners import Batch, OnnxRunner, PyTorchRunner
from shared.execution.timing import alternate

import torch


def bench(clone: Path) -> None:
    """One sequence through the exported file, the stock export and PyTorch, at one thread.

    The stock export is of the tutorial's own model with our weights; that of our model shows what is due to the model.
    """
    checkpoint = clone / "models" / "pytorch" / "classifier.pt"
    eager = PyTorchRunner(checkpoint, threads=1)
    tutorial = TutorialModel(eager.model.config.options["hidden_size"]).eval()
    for part, ours in ((tutorial.lstm, eager.model.network.rnn), (tutorial.linear, eager.model.network.linear)):
        part.load_state_dict(ours.state_dict())  # type: ignore[union-attr]
    data = Prepared(clone / "data" / "prepared").split("test")
    example = (torch.from_numpy(data.sequences[:2]),)
    stock = {"tutorial's": tutorial, "our": eager.model}
    sessions = {"ours": OnnxRunner(clone / "models" / "onnx" / "classifier-fp32.onnx", threads=1)}
    for name, model in stock.items():
        export_stock(model, example, clone / "stock.onnx")
        sessions[f"stock export of {name} model"] = OnnxRunner(clone / "stock.onnx", threads=1)
    one = Batch(data.sequences[:1], None)
    seconds = alternate(
        {name: session.call(one) for name, session in sessions.items()}
        | {"ours with I/O binding": sessions["ours"].bound_call(one), "torch eager": eager.call(one)},
        rounds=50,
        turn_seconds=0.005,
    )
    stock_name = "stock export of tutorial's model"
    targets = {
        ("ours", stock_name): 0.75,
        ("ours with I/O binding", stock_name): 0.6,
        ("ours", "torch eager"): 0.2,
    }
    print_times("Latency of one sequence, one thread", seconds, targets)
