"""Verdicts on answers: padding that counts, quiet inputs, refused probes, and whose fault it is."""

from pathlib import Path
from typing import Any

import predict
from shared.execution.predictions import Prediction
from shared.judging.parity import Scale, measure
from shared.judging.precision import FLOAT16, FLOAT32, INT8
from shared.judging.probes import judge_file, judge_net
from shared.kit.params import StageParams
from shared.network.architectures import ARCHITECTURES
from shared.network.architectures.base import Architecture, mean_over_time
from shared.network.model import Checkpoint, ModelConfig, SequenceClassifier, save_checkpoint
from tests.shared.execution.test_probe_rows import prepared
from tests.support import classifier

import numpy as np
import pytest
import torch
from torch import Tensor, nn

PARAMS = predict.Params(
    batch_size=16, probe_batches=[1, 2], probe_times=[3, 20], memory_megabytes=2048, timeout_seconds=300
)


class Net(Architecture):
    """Two linear layers around what a test sets."""

    class Options(StageParams):
        """None."""

    def __init__(self, sizes: Any, options: Any) -> None:
        super().__init__(sizes, options)
        self.inner, self.outer = nn.Linear(sizes.features, 8), nn.Linear(8, sizes.classes)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        logits: Tensor = self.outer(mean_over_time(self.inner(sequence).tanh(), lengths, 1))
        return logits


class ReadsPadding(Net):
    """As the mean over all steps does, those after the end too."""

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        logits: Tensor = self.outer(self.inner(sequence).tanh().mean(1))
        return logits


class DividesByMaximum(Net):
    """No number where there is nothing but zeros."""

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        logits: Tensor = self.outer(self.inner(sequence / sequence.abs().amax((1, 2), keepdim=True)).tanh().mean(1))
        return logits


class Embeds(Net):
    """Knows the codes of the data and no others."""

    def __init__(self, sizes: Any, options: Any) -> None:
        super().__init__(sizes, options)
        self.embed = nn.Embedding(41, 8)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        logits: Tensor = self.outer(mean_over_time(self.embed(sequence[..., 1].long()), lengths, 1))
        return logits


class RefusesQuiet(Net):
    """Raises on what the data do not hold."""

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        if float(sequence[..., 0].abs().max()) < 1e-3:
            raise ValueError("silence")
        logits: Tensor = super().forward(sequence, lengths)
        return logits


def executed(
    net: type[Net], folder: Path, monkeypatch: pytest.MonkeyPatch, *, ragged: bool
) -> tuple[Prediction, Scale]:
    """PyTorch's prediction of an untrained net on rows of two features, the second one codes."""
    folder.mkdir(exist_ok=True)
    data = prepared(folder / "prepared", ragged=ragged)
    monkeypatch.setitem(ARCHITECTURES, "own", net)
    torch.manual_seed(0)
    config = ModelConfig(
        features=["x", "code"], time_steps=8, classes=["a", "b"], ragged=ragged,
        standardize=False, architecture="own", options={},
    )  # fmt: skip
    save_checkpoint(folder / "classifier.pt", Checkpoint(SequenceClassifier(config).eval(), {}))
    record = predict.execute(folder / "classifier.pt", data, PARAMS, folder / "logits.npy")
    prediction = Prediction("pytorch", "fp32", np.load(folder / "logits.npy"), record)
    return prediction, measure(prediction.logits)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_keeps_padding_out(tmp_path: Path, name: str) -> None:
    data = prepared(tmp_path / "prepared", ragged=True)
    model = classifier(name, time_steps=8, ragged=True, standardize=True)
    save_checkpoint(tmp_path / "classifier.pt", Checkpoint(model, {}))
    record = predict.execute(tmp_path / "classifier.pt", data, PARAMS, tmp_path / "logits.npy")
    reference = Prediction("pytorch", "fp32", np.load(tmp_path / "logits.npy"), record)
    assert {"padding_values", "padding_nan"} <= record["probes"].keys()
    assert ("unpadded" in record["probes"]) == ARCHITECTURES[name].any_time
    judgement = judge_net(reference, measure(reference.logits))
    assert judgement.problems == judgement.notes == []


def as_file(prediction: Prediction, **answers: Any) -> Prediction:
    """An exported file with the net's own answers, but for some."""
    record = prediction.record | {"probes": prediction.record["probes"] | answers}
    return Prediction("onnx", "fp32", prediction.logits, record)


def moved(prediction: Prediction, name: str, by: float | None) -> dict[str, Any]:
    """An answer whose first logit is another one."""
    answer = prediction.record["probes"][name]
    (first, *others), *rows = answer["logits"]
    return {name: answer | {"logits": [[None if by is None else first + by, *others], *rows]}}


def test_a_net_that_reads_padding_is_reported_as_such_and_its_files_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, scale = executed(ReadsPadding, tmp_path, monkeypatch, ragged=True)
    problems = judge_net(reference, scale).problems
    assert [problem.partition(" other")[0] for problem in problems] == [
        "padding: the net itself gives 'padding_longer'",
        "padding: the net itself gives 'unpadded'",
    ]
    assert judge_file(as_file(reference), reference, scale, FLOAT32).problems == []


def test_a_net_that_keeps_padding_out_is_not_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, scale = executed(Net, tmp_path, monkeypatch, ragged=True)
    assert judge_net(reference, scale).problems == judge_net(reference, scale).notes == []
    assert judge_file(as_file(reference), reference, scale, FLOAT32).problems == []


@pytest.mark.parametrize("name", ["padding_values", "padding_nan", "padding_longer", "unpadded"])
def test_a_file_whose_logits_depend_on_padding_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    reference, scale = executed(Net, tmp_path, monkeypatch, ragged=True)
    for by in (1e-3, None):
        found = judge_file(as_file(reference, **moved(reference, name, by)), reference, scale, FLOAT32).problems
        assert any(problem.startswith(f"padding: the logits of {name!r} are not those of 'rows'") for problem in found)


def test_where_the_net_gives_no_number_its_files_need_not_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, scale = executed(DividesByMaximum, tmp_path, monkeypatch, ragged=False)
    assert reference.record["features"]["code"]["kind"] == "codes"
    reference.record["probes"]["zeros"]["logits"] = [[None, None]] * 16  # its codes are never all zero
    assert judge_net(reference, scale).notes == ["probes: the net itself gives logits that are not finite in 'zeros'"]
    zeros = reference.record["probes"]["zeros"] | {"logits": [[1.0, 2.0]] * 16}
    assert judge_file(as_file(reference, zeros=zeros), reference, scale, FLOAT32).problems == []


@pytest.mark.parametrize("name", ["zeros", "constant", "quiet", "gap", "far", "far@20"])
def test_a_file_that_gives_no_number_where_the_net_does_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As a normalisation does that divides by the largest value."""
    reference, scale = executed(Net, tmp_path, monkeypatch, ragged=False)
    assert judge_file(as_file(reference, **moved(reference, name, None)), reference, scale, FLOAT32).problems == [
        f"probes: in {name!r} some logits are not finite, where PyTorch's are"
    ]


def test_half_precision_may_leave_its_range_at_its_edge_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, scale = executed(Net, tmp_path, monkeypatch, ragged=False)
    overflowing = moved(reference, "edge", None)
    half = judge_file(as_file(reference, **overflowing), reference, scale, FLOAT16)
    assert half.problems == []
    assert [note.partition(":")[2] for note in half.notes] == [
        " in 'edge' some logits are not finite, where PyTorch's are: inside the net, numbers leave the range of float16"
    ]
    [problem] = judge_file(as_file(reference, **overflowing), reference, scale, FLOAT32).problems
    assert problem == "probes: in 'edge' some logits are not finite, where PyTorch's are"


def test_8_bit_activations_are_judged_on_real_rows_and_noted_outside_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the steps of a whole batch add up to what no rounding of the net foretells."""
    reference, scale = executed(Net, tmp_path, monkeypatch, ragged=True)
    for name in ("zeros", "constant", "far"):
        found = judge_file(as_file(reference, **moved(reference, name, 3.0)), reference, scale, INT8)
        assert found.problems == []
        assert [note.startswith(f"probes: relative error of a logit in {name!r}") for note in found.notes] == [True]
        [problem] = judge_file(as_file(reference, **moved(reference, name, None)), reference, scale, INT8).problems
        assert problem == f"probes: in {name!r} some logits are not finite, where PyTorch's are"
    assert judge_file(as_file(reference, **moved(reference, "rows", 3.0)), reference, scale, INT8).problems


def test_embeddings_get_tokens_and_so_refuse_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ragged in (False, True):
        reference, scale = executed(Embeds, tmp_path / str(ragged), monkeypatch, ragged=ragged)
        assert judge_net(reference, scale).notes == []


def test_what_the_net_refuses_is_no_fault_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, scale = executed(RefusesQuiet, tmp_path, monkeypatch, ragged=False)
    refused = ["probes: the net itself refuses 'zeros': ValueError: silence"]
    assert judge_net(reference, scale).notes == refused
    found = judge_file(as_file(reference), reference, scale, FLOAT32)
    assert (found.problems, found.notes) == ([], refused)


def test_what_a_file_refuses_or_was_not_asked_is_never_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, scale = executed(Net, tmp_path, monkeypatch, ragged=False)
    failed = as_file(reference, far={"failure": "RuntimeError: no"})
    assert judge_file(failed, reference, scale, FLOAT32).problems == [
        "probes: pytorch fails in 'far': RuntimeError: no"
    ]
    del failed.record["probes"]["far"]
    assert judge_file(failed, reference, scale, FLOAT32).problems == ["probes: 'far' was not run"]


def test_the_bound_is_of_the_precision_and_of_how_far_rounding_takes_the_net(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, scale = executed(Net, tmp_path, monkeypatch, ragged=False)
    for precision, right, wrong in ((FLOAT32, 5e-6, 1e-4), (FLOAT16, 1e-3, 0.05)):
        for by, problems in ((right, 0), (wrong, 1)):
            found = as_file(reference, **moved(reference, "far", by * scale.deviation))
            assert len(judge_file(found, reference, scale, precision).problems) == problems, (precision, by)
    wide = reference.record["probes"]["far"] | {"rounding": 1e-3 * scale.deviation}
    reference.record["probes"]["far"] = wide
    assert not judge_file(
        as_file(reference, **moved(reference, "far", 1e-3 * scale.deviation)), reference, scale, FLOAT32
    ).problems
