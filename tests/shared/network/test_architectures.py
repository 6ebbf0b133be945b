"""Every architecture that there is, with its options in params.yaml: what `Architecture` promises, and both exports.

A file more among the architectures is tested by being there: no other row of its batch and no padding reaches its
logits, and the exports compute what torch does at any size.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import export_coreml
import export_onnx
from shared.conversion.export import ExportParams
from shared.execution.runtimes import open_runtime
from shared.kit.stage import StageError, write_bytes
from shared.network.architectures import ARCHITECTURES
from shared.network.architectures.recurrent import Recurrent
from shared.network.model import Checkpoint, SequenceClassifier
from tests.support import ROOT, classifier, clean_environment, set_params

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

TIME_STEPS = 5
MEAN, DEVIATION = (1e5, -3.0), (2e4, 0.0)  # of raw values: beyond float16, and a feature that never varies
NAMES = sorted(ARCHITECTURES)
RECURRENT = [name for name in NAMES if issubclass(ARCHITECTURES[name], Recurrent)]
DEEP = {"layers": 2, "bidirectional": True}
COREML = export_coreml.Params(deployment_target="iOS17", default_batch=1, largest_batch=16, largest_time=12)


def names(dynamic_time: bool) -> ExportParams:
    return ExportParams(
        formats=["onnx", "coreml"],
        input_name="samples",
        lengths_name="steps",
        output_name="scores",
        dynamic_time=dynamic_time,
        version="1.0.0",
        description="A description",
    )


def trained(name: str, *, ragged: bool, standardize: bool = False, **options: Any) -> SequenceClassifier:
    """A few steps away from its initial weights, where some parts compute nothing yet."""
    model = classifier(name, ragged=ragged, standardize=standardize, **options)
    if standardize:
        model.set_standardization(list(MEAN), list(DEVIATION))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    x, lengths = batch(model, 16, TIME_STEPS)
    for _ in range(10):
        optimizer.zero_grad()
        cross_entropy(model.train()(x, lengths), torch.arange(16) % 3).backward()
        optimizer.step()
    return model.eval()


def batch(model: SequenceClassifier, size: int, time: int) -> tuple[Tensor, Tensor | None]:
    """Random sequences, and if the model takes them, lengths from one step to all."""
    rng = np.random.default_rng([size, time])
    x = rng.normal(size=(size, time, 2))
    if model.config.standardize:
        x = x * [DEVIATION[0], 1.0] + MEAN
    lengths = torch.from_numpy(rng.integers(1, time, size, endpoint=True).astype(np.int32))
    return torch.from_numpy(x.astype(np.float32)), lengths if model.config.ragged else None


# --- padding ---


@pytest.fixture(scope="module", params=[*NAMES, *(f"{name} deep" for name in RECURRENT)])
def ragged(request: pytest.FixtureRequest) -> SequenceClassifier:
    name, _, deep = request.param.partition(" ")
    return trained(name, ragged=True, standardize=True, **DEEP if deep else {})


@pytest.mark.parametrize("padding", [0.0, 1e9, float("nan"), float("inf")])
@torch.inference_mode()
def test_what_is_in_the_padding_makes_no_difference(ragged: SequenceClassifier, padding: float) -> None:
    x, lengths = batch(ragged, 9, TIME_STEPS)
    assert lengths is not None
    padded = x.clone()
    padded[torch.arange(TIME_STEPS) >= lengths.unsqueeze(1)] = padding
    assert not torch.equal(padded, x)
    torch.testing.assert_close(ragged(padded, lengths), ragged(x, lengths), rtol=0, atol=0)


@torch.inference_mode()
def test_how_long_the_padding_is_makes_no_difference(ragged: SequenceClassifier) -> None:
    x, lengths = batch(ragged, 9, TIME_STEPS)
    assert lengths is not None
    together, padded = ragged(x, lengths), torch.cat([x, torch.rand(9, 4, 2)], dim=1)
    if not ragged.config.any_time:
        pytest.skip("reads one number of time steps")
    longer = ragged(padded, lengths)
    alone = torch.cat(
        [ragged(row[None, :length], lengths[i : i + 1]) for i, (row, length) in enumerate(zip(x, lengths, strict=True))]
    )
    torch.testing.assert_close(longer, together, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_a_sequence_without_padding_gives_what_a_model_without_lengths_gives(ragged: SequenceClassifier) -> None:
    config = ragged.config
    plain = classifier(config.architecture, standardize=True, **config.options)
    state = ragged.state_dict()
    if config.architecture in RECURRENT:
        for key in [key for key in state if key.startswith("network.rnn.")]:
            number, kind = key.removeprefix("network.rnn.").split(".")
            layer, backward = divmod(int(number), 2) if config.options["bidirectional"] else (int(number), 0)
            suffix = "_reverse" if backward else ""
            state[f"network.rnn.{kind.removesuffix('0')}{layer}{suffix}"] = state.pop(key)
    if state.keys() != plain.state_dict().keys():
        pytest.skip("is another module without lengths")
    plain.load_state_dict(state)
    x, _ = batch(ragged, 9, TIME_STEPS)
    full = torch.full((9,), TIME_STEPS, dtype=torch.int32)
    torch.testing.assert_close(ragged(x, full), plain(x), rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_lengths_out_of_range_are_taken_as_the_nearest(ragged: SequenceClassifier) -> None:
    x, _ = batch(ragged, 4, TIME_STEPS)
    odd, near = ([-3, 0, TIME_STEPS + 1, 1000], [1, 1, TIME_STEPS, TIME_STEPS])
    found, expected = (ragged(x, torch.tensor(lengths, dtype=torch.int32)) for lengths in (odd, near))
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


# --- batch ---


@pytest.mark.parametrize("name", NAMES)
def test_the_other_rows_of_a_batch_make_no_difference(name: str) -> None:
    model = trained(name, ragged=False)
    x, _ = batch(model, 9, TIME_STEPS)
    with torch.inference_mode():
        together, alone = model(x), torch.cat([model(row[None]) for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


# --- standardisation ---


def test_raw_values_are_standardised_and_a_feature_that_never_varies_is_only_centred() -> None:
    standardizing = trained("lstm", ragged=False, standardize=True)
    plain = classifier("lstm")
    plain.network.load_state_dict(standardizing.network.state_dict())
    x, _ = batch(standardizing, 9, TIME_STEPS)
    by_hand = (x - torch.tensor(MEAN)) / torch.tensor([DEVIATION[0], 1.0])
    with torch.inference_mode():
        torch.testing.assert_close(standardizing(x), plain(by_hand))


# --- exports ---


@dataclass(frozen=True)
class Case:
    """A model to export."""

    name: str
    ragged: bool
    dynamic_time: bool
    standardize: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [word for word in ("ragged", "dynamic_time", "standardize") if getattr(self, word)]
        return " ".join([self.name, *(["deep"] if self.options else []), *words])


def cases() -> Iterator[Case]:
    """Each architecture as plain as can be, and with all at once that it promises."""
    for name in NAMES:
        any_time = ARCHITECTURES[name].any_time
        yield Case(name, ragged=False, dynamic_time=False)
        yield Case(name, ragged=True, dynamic_time=any_time, standardize=True)
        if name in RECURRENT:
            yield Case(name, ragged=False, dynamic_time=True, options=DEEP)
            yield Case(name, ragged=True, dynamic_time=True, standardize=True, options=DEEP)


CASES = list(cases())
every_case = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture(scope="module")
def models() -> dict[str, SequenceClassifier]:
    return {
        str(case): trained(case.name, ragged=case.ragged, standardize=case.standardize, **case.options)
        for case in CASES
    }


def assert_parity(case: Case, model: SequenceClassifier, path: Path, tolerance: float) -> None:
    """At sizes that were not traced, the smallest and the largest among them; relative to the logits' deviation."""
    runtime = open_runtime(path)
    assert runtime.interface.lengths_name == ("steps" if case.ragged else None)
    assert runtime.interface.dynamic_time == case.dynamic_time
    assert runtime.interface.dtypes == ["float32", *(["int32"] if case.ragged else []), "float32"]
    for size in (1, 4, 16):
        for time in (1, 2, TIME_STEPS, 12) if case.dynamic_time else (TIME_STEPS,):
            x, lengths = batch(model, size, time)
            with torch.inference_mode():
                expected = model(x, lengths).numpy()
            given: tuple[NDArray[Any], ...] = tuple(part.numpy() for part in (x, lengths) if part is not None)
            found = runtime.logits(*given)
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= tolerance * max(expected.std(), 0.1)


@every_case
def test_onnx_computes_what_torch_does(case: Case, models: dict[str, SequenceClassifier], tmp_path: Path) -> None:
    model = models[str(case)]
    content = export_onnx.export_onnx(Checkpoint(model, {}), names(case.dynamic_time), 20).lean
    write_bytes(tmp_path / "model.onnx", content)
    assert_parity(case, model, tmp_path / "model.onnx", 1e-5)


@every_case
def test_coreml_computes_what_torch_does(case: Case, models: dict[str, SequenceClassifier], tmp_path: Path) -> None:
    model = models[str(case)]
    # In half precision too where all comes together: raw values beyond its range, masks, step numbers.
    precisions: tuple[export_coreml.Precision, ...] = ("fp32", "fp16") if case.standardize else ("fp32",)
    for precision in precisions:
        package = export_coreml.export_coreml(Checkpoint(model, {}), names(case.dynamic_time), COREML, precision)
        export_coreml.save(package, tmp_path / f"{precision}.mlpackage")
        assert_parity(case, model, tmp_path / f"{precision}.mlpackage", 1e-5 if precision == "fp32" else 1e-2)


def test_a_dynamic_time_axis_is_refused_where_there_is_none(tmp_path: Path) -> None:
    checkpoint = Checkpoint(classifier("mlp"), {})
    message = r"export\.dynamic_time = true: architecture 'mlp' reads exactly 5 time steps; allowed: false, or another"
    with pytest.raises(StageError, match=message):
        export_onnx.export_onnx(checkpoint, names(dynamic_time=True), 20)
    with pytest.raises(StageError, match=message):
        export_coreml.export_coreml(checkpoint, names(dynamic_time=True), COREML, "fp32")


def test_a_range_of_time_that_ends_below_the_data_s_is_refused() -> None:
    params = COREML.model_copy(update={"largest_time": 4})
    with pytest.raises(StageError, match=r"export_coreml\.largest_time = 4: should be at least 5, the time steps of"):
        export_coreml.export_coreml(Checkpoint(classifier(), {}), names(dynamic_time=True), params, "fp32")


# --- one more architecture ---

NEW_FILE = '''"""The mean of all values."""

from shared.network.architectures.base import Architecture, Sizes, mean_over_time
from shared.kit.params import Count, StageParams

from torch import Tensor, nn


class Average(Architecture, name="average"):
    """A perceptron on the mean of each feature."""

    class Options(StageParams):
        """Its options."""

        hidden_size: Count

    def __init__(self, sizes: Sizes, options: Options) -> None:
        super().__init__(sizes, options)
        self.layers = nn.Sequential(
            nn.Linear(sizes.features, options.hidden_size), nn.ReLU(), nn.Linear(options.hidden_size, sizes.classes)
        )

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        """See `Architecture`."""
        return self.layers(mean_over_time(sequence, lengths, time_axis=1))
'''


def test_one_more_architecture_is_one_file_and_a_block_of_options(small_run: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "stages", tmp_path / "stages")
    (tmp_path / "stages" / "shared" / "network" / "architectures" / "average.py").write_text(NEW_FILE)
    shutil.copy2(small_run / "params.yaml", tmp_path)
    set_params(tmp_path, {"architecture.average": {"hidden_size": 4}, "architecture.name": "average"})
    paths = [str(small_run / "data" / "prepared"), "classifier.pt", "train.json", "loss.csv"]
    command = [sys.executable, str(tmp_path / "stages" / "train.py"), *paths]
    subprocess.run(command, cwd=tmp_path, env=clean_environment(), check=True)
    config = torch.load(tmp_path / "classifier.pt", weights_only=True)["config"]
    assert (config["architecture"], config["options"]) == ("average", {"hidden_size": 4})
