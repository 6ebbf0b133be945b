"""What is asked: the same of every format, of real rows whatever follows them, and of codes nothing but codes."""

from pathlib import Path

from shared.data.sequences import Prepared, SplitArrays
from shared.execution.probes import accepts, describe, features_of, probes_of
from shared.execution.runtimes import open_runtime
from tests.support import write_prepared

import numpy as np
from numpy.typing import NDArray

CODES = np.array([3, 7, 9, 40], np.float32)


def prepared(folder: Path, *, ragged: bool) -> Prepared:
    """Two features, of which the second holds codes; rows of 2 to 8 steps."""
    random = np.random.default_rng(0)
    rows = 40
    lengths = random.integers(2, 9, rows).astype(np.int32)
    sequences = np.stack([random.normal(5, 2, (rows, 8)), random.choice(CODES, (rows, 8))], axis=2).astype(np.float32)
    if ragged:
        sequences[np.arange(8) >= lengths[:, None]] = 0
    split = SplitArrays(sequences, np.arange(rows) % 2, lengths if ragged else None)
    write_prepared(folder, {"train": split, "validation": split, "test": split}, ["x", "code"], ["a", "b"])
    return Prepared(folder)


def steps_that_count(sequences: NDArray[np.float32], lengths: NDArray[np.int32] | None) -> NDArray[np.float32]:
    """The values (steps, features) of all sequences, without padding."""
    if lengths is None:
        return sequences.reshape(-1, sequences.shape[2])
    return sequences[np.arange(sequences.shape[1]) < lengths[:, None]]


def test_a_feature_of_codes_gets_its_own_codes_alone(tmp_path: Path) -> None:
    for ragged in (False, True):
        data = prepared(tmp_path / str(ragged), ragged=ragged)
        numbers, codes = features_of(data)
        assert numbers.to_json()["kind"] == "numbers"
        assert codes.to_json() == {"kind": "codes", "seen": 4, "codes": [3, 7, 9, 40]}
        for probe in probes_of(data, [1, 20]):
            for rows in probe.parts:
                assert set(steps_that_count(*rows)[:, 1]) <= set(CODES), probe.name


def test_negative_integers_are_codes_if_they_are_few(tmp_path: Path) -> None:
    for count, coded in ((5, True), (3000, False)):
        values = (np.arange(count * 2, dtype=np.float32).reshape(-1, 2, 1) % count) - count // 2
        split = SplitArrays(values, np.arange(len(values)) % 2, None)
        write_prepared(tmp_path / str(count), {"train": split, "validation": split, "test": split}, ["x"], ["a", "b"])
        [feature] = features_of(Prepared(tmp_path / str(count)))
        assert (feature.codes is not None) == coded


def test_padding_is_asked_about_on_real_rows(tmp_path: Path) -> None:
    data = prepared(tmp_path / "ragged", ragged=True)
    probes = {probe.name: probe for probe in probes_of(data, [])}
    [(rows, lengths)] = probes["rows"].parts
    assert lengths is not None
    assert lengths.max() < 8, "each is padded"
    padded = {name: probe for name, probe in probes.items() if probe.same_as}
    assert padded.keys() == {"padding_values", "padding_nan", "padding_longer", "unpadded"}
    for probe in padded.values():
        sequences = [sequence for part, _ in probe.parts for sequence in part]
        for row, sequence, length in zip(rows, sequences, lengths, strict=True):
            np.testing.assert_array_equal(sequence[:length], row[:length])
    assert np.isnan(probes["padding_nan"].parts[0][0][lengths < 8][:, -1]).all()
    assert [part.shape[1] for part, _ in probes["unpadded"].parts] == lengths.tolist()
    assert not any(probe.same_as for probe in probes_of(prepared(tmp_path / "even", ragged=False), []))


def test_quiet_and_constant_inputs_are_what_they_are_called(tmp_path: Path) -> None:
    data = prepared(tmp_path / "even", ragged=False)
    probes = {probe.name: probe.parts[0][0][..., 0] for probe in probes_of(data, []) if len(probe.parts) == 1}
    assert not probes["zeros"].any()
    assert (probes["constant"] == probes["constant"][:, :1]).all()
    assert len(np.unique(probes["constant"][:, 0])) > 10
    assert np.abs(probes["quiet"]).max() < 0.02
    assert ((probes["gap"] == 0).sum(axis=1) == 1).all(), "one step of zeros (here the mean is zero too)"
    assert set(np.abs(probes["edge"]).ravel()) == {np.float32(65504)}
    assert np.float16(probes["edge"].max()) == np.finfo(np.float16).max


def test_the_probes_follow_from_the_data_alone(tmp_path: Path) -> None:
    data = prepared(tmp_path / "ragged", ragged=True)
    for first, second in zip(probes_of(data, [3]), probes_of(Prepared(data.folder), [3]), strict=True):
        assert describe(first) == describe(second)
        for one, other in zip(first.parts, second.parts, strict=True):
            np.testing.assert_array_equal(one[0], other[0])


def test_a_file_is_asked_what_its_time_axis_reads(small_run: Path) -> None:
    data = Prepared(small_run / "data" / "prepared")
    probes = probes_of(data, [3, 50])
    asked = {
        name: {probe.name for probe in probes if accepts(open_runtime(small_run / "models" / name).interface, probe, 6)}
        for name in ("pytorch/classifier.pt", "onnx/classifier-fp32.onnx")
    }
    assert asked["pytorch/classifier.pt"] - asked["onnx/classifier-fp32.onnx"] == {"far@3", "far@50"}


def test_the_record_of_a_probe_shows_one_of_its_sequences(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", ragged=True)
    for probe in probes_of(data, [300]):
        shown = describe(probe)["example"]
        sequences, _ = probe.parts[len(probe.parts) // 2]
        expected = sequences[len(sequences) // 2, :100].T
        assert [len(feature) for feature in shown] == [min(100, sequences.shape[1])] * 2, probe.name
        np.testing.assert_allclose(np.array(shown, np.float64), expected, rtol=1e-5)
