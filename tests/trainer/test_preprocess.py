"""What the graph does to its input first, and what it measures on the training split."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from cutpoint.dataset import Dataset, SparseRows
from cutpoint.trainer.config import ImportModel, MLPModel, WindowEncoderModel
from cutpoint.trainer.embedding import PiecewiseLinear, quantile_bins
from cutpoint.trainer.export import export_graph
from cutpoint.trainer.preprocess import bins_of, blank_preprocess, describe, measure_preprocess
from cutpoint.trainer.score import open_session
from scipy.sparse import csr_array


def plain(**settings: object) -> MLPModel:
    return MLPModel(kind="mlp", **{"bins": 0, **settings})


def sparse(x: np.ndarray) -> SparseRows:
    matrix = csr_array(x)
    return SparseRows(matrix.data, matrix.indices, matrix.indptr, matrix.shape)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr("cutpoint.trainer.preprocess.CHUNK_BYTES", 5000)


@pytest.mark.parametrize("shape", [(50, 6), (20, 5, 30), (20, 5, 3, 30)])
@pytest.mark.parametrize("log", [False, True])
def test_preprocessing_is_measured_per_feature_or_channel(tmp_path, shape, log):
    windows = len(shape) > 2
    scale = np.arange(1, 4)[:, None] if len(shape) == 4 else np.arange(1, 7) if len(shape) == 2 else 2
    x = (np.random.default_rng(0).normal(size=shape) * scale + 100 * scale).astype(np.float32)
    rows = np.arange(0, len(x), 2)
    for settings in (plain(log_input=log), plain(log_input=log, normalize="standard")):
        preprocess = measure_preprocess(settings, Dataset(tmp_path, x), rows, windows)
        out = preprocess(torch.from_numpy(x[rows])).double()
        axes = {2: (0,), 3: (0, 1, 2), 4: (0, 1, 3)}[len(shape)]
        torch.testing.assert_close(out.mean(axes), torch.zeros_like(out.mean(axes)), rtol=0, atol=2e-3)
        torch.testing.assert_close(out.std(axes, correction=0), torch.ones_like(out.mean(axes)), rtol=2e-3, atol=0)


def test_constant_and_zero_input_stays_finite(tmp_path):
    x = np.zeros((10, 3), np.float32)
    x[:, 1] = 1e6
    for log in (False, True):
        for normalize in ("standard", "scale", "none"):
            settings = MLPModel(kind="mlp", log_input=log, normalize=normalize)
            preprocess = measure_preprocess(settings, Dataset(tmp_path, x), np.arange(10), False)
            assert torch.isfinite(preprocess(torch.from_numpy(x))).all()
            if normalize == "standard":
                assert preprocess(torch.from_numpy(x)).abs().max() < 1e-3


def test_sparse_rows_are_scaled_and_keep_their_zeros(tmp_path):
    rng = np.random.default_rng(0)
    x = np.where(rng.random((200, 30)) < 0.1, rng.normal(size=(200, 30)) + 3, 0).astype(np.float32)
    rows = np.arange(0, 200, 3)
    for settings, data in ((plain(), sparse(x)), (plain(normalize="scale"), x), (plain(normalize="scale"), sparse(x))):
        preprocess = measure_preprocess(settings, Dataset(tmp_path, data), rows, False)
        out = preprocess(torch.from_numpy(x)).numpy()
        filled = x[rows][x[rows] != 0].astype(np.float64)
        np.testing.assert_allclose(out, x / np.sqrt(np.mean(filled**2)), rtol=1e-6)
        assert (out[x == 0] == 0).all()
    centred = measure_preprocess(plain(normalize="standard"), Dataset(tmp_path, sparse(x)), rows, False)
    np.testing.assert_allclose(centred.mean.numpy(), x[rows].mean(axis=0), rtol=1e-5, atol=1e-7)


def test_windows_are_scaled_by_channel(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 5, 3, 30)).astype(np.float32) * np.array([1, 10, 100], np.float32)[:, None]
    settings = WindowEncoderModel(kind="window_encoder", normalize="scale")
    out = measure_preprocess(settings, Dataset(tmp_path, x), np.arange(20), True)(torch.from_numpy(x))
    np.testing.assert_allclose((out**2).mean((0, 1, 3)).numpy(), np.ones(3), rtol=1e-4)


def encoded(x: float, edges: list[float]) -> list[float]:
    """The paper's formula, equation 1, with its two open ends closed."""
    return [0.0 if x < a else 1.0 if x >= b else (x - a) / (b - a) for a, b in pairwise(edges)]


def test_bins_lie_between_quantiles_and_follow_the_formula_of_the_paper():
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=999), rng.exponential(size=999) ** 4], axis=1).astype(np.float32)
    found = quantile_bins(x, 8)(torch.from_numpy(x)).reshape(-1, 2, 8).numpy()
    for feature in (0, 1):
        edges = np.quantile(x[:, feature], np.linspace(0, 1, 9), method="inverted_cdf").tolist()
        wanted = [encoded(float(value), edges) for value in x[:, feature]]
        np.testing.assert_allclose(found[:, feature], wanted, atol=1e-4)


def test_repeated_values_make_fewer_bins_and_constant_ones_none():
    x = np.zeros((100, 4), np.float32)
    x[90:, 0] = 1
    x[:, 1] = 7
    x[:, 2] = np.arange(100) % 3
    x[:, 3] = 1e9 + np.arange(100)  # steps that float32 does not hold
    encoding = quantile_bins(x, 20)
    assert (encoding.slope > 0).sum(1).tolist() == [1, 0, 2, 0]
    out = encoding(torch.from_numpy(x)).reshape(100, 4, 20)
    np.testing.assert_array_equal(out[:, 0, 0], x[:, 0])
    np.testing.assert_array_equal(out[:, 2, :2], np.stack([x[:, 2] >= 1, x[:, 2] >= 2], axis=1))
    assert out[:, [1, 3]].abs().max() == 0


def test_values_outside_the_training_split_stay_in_range():
    encoding = quantile_bins(np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32), 5)
    largest = float(np.finfo(np.float32).max)
    out = encoding(torch.tensor([[-largest] * 3, [largest] * 3, [1e-40] * 3]))
    assert torch.isfinite(out).all()
    assert (out[0] == 0).all()
    assert (out[1] == 1).all()


def test_an_outlier_does_not_blur_the_bins(tmp_path):
    x = np.random.default_rng(0).normal(size=(400, 1)).astype(np.float32)
    x[0] = 1e12
    preprocess = measure_preprocess(MLPModel(kind="mlp", bins=4), Dataset(tmp_path, x), np.arange(400), False)
    out = preprocess(torch.from_numpy(x))
    assert out.shape == (400, 5)
    wanted = [
        encoded(float(value), np.quantile(x[:, 0], np.linspace(0, 1, 5), method="inverted_cdf").tolist()) for value in x[:, 0]
    ]
    np.testing.assert_allclose(out[:, 1:], wanted, atol=1e-5)


@pytest.mark.parametrize("log", [False, True])
def test_edges_are_of_the_training_split_alone_and_of_what_the_graph_sees(tmp_path, log):
    x = np.exp(np.random.default_rng(0).normal(size=(300, 2))).astype(np.float32)
    x[1::2] *= 50
    rows = np.arange(0, 300, 2)
    settings = MLPModel(kind="mlp", bins=8, log_input=log)
    preprocess = measure_preprocess(settings, Dataset(tmp_path, x), rows, False)
    filled = preprocess(torch.from_numpy(x[rows]))[:, 2:].reshape(-1, 2, 8).mean(0)  # each bin holds an eighth of the rows
    np.testing.assert_allclose(filled, np.tile(1 - (np.arange(8) + 0.5) / 8, (2, 1)), atol=0.05)


def test_edges_of_many_rows_are_of_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("cutpoint.trainer.preprocess.QUANTILE_ROWS", 500)
    x = np.random.default_rng(0).uniform(size=(20_000, 1)).astype(np.float32)
    first, second = (
        measure_preprocess(MLPModel(kind="mlp", bins=4), Dataset(tmp_path, x), np.arange(20_000), False) for _ in "ab"
    )
    np.testing.assert_allclose(first.encoding.left[0].numpy(), [0, 0.25, 0.5, 0.75], atol=0.06)
    assert torch.equal(first.encoding.left, second.encoding.left)


def test_how_many_bins():
    assert bins_of(MLPModel(kind="mlp"), (256,)) == 16
    assert bins_of(MLPModel(kind="mlp"), (257,)) == 0
    assert bins_of(MLPModel(kind="mlp", bins=3), (1000,)) == 3
    assert bins_of(ImportModel(kind="import", path="a:B"), (4,)) == 0
    assert bins_of(WindowEncoderModel(kind="window_encoder"), (4, 5)) == 0


def test_saved_figures_are_loaded_into_a_blank(tmp_path):
    x = np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32)
    for settings in (MLPModel(kind="mlp"), plain(), MLPModel(kind="mlp", log_input=True, normalize="scale")):
        for data in (x, sparse(x)):
            measured = measure_preprocess(settings, Dataset(tmp_path, data), np.arange(90), False)
            blank = blank_preprocess(settings, (3,), False)
            blank.load_state_dict(measured.state_dict())
            assert torch.equal(blank(torch.from_numpy(x)), measured(torch.from_numpy(x)))


def test_it_is_exported_with_the_graph(tmp_path):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(500, 2)), rng.exponential(size=(500, 2)) ** 5 + 1e4], axis=1).astype(np.float32)
    preprocess = measure_preprocess(MLPModel(kind="mlp"), Dataset(tmp_path, x), np.arange(500), False).eval()
    export_graph(preprocess, (4,), False, tmp_path / "a.onnx")
    session = open_session(tmp_path / "a.onnx")
    for size in (1, 2, 7, 500):
        (theirs,) = session.run(None, {"x": x[:size]})
        np.testing.assert_allclose(theirs, preprocess(torch.from_numpy(x[:size])).numpy(), atol=1e-5)


class Counted(np.ndarray):
    """An array that remembers the largest part of it that was asked for."""

    most = 0

    def __getitem__(self, rows):
        part = np.asarray(self)[rows]
        Counted.most = max(Counted.most, part.nbytes)
        return part


@pytest.mark.parametrize("settings", [plain(log_input=True), plain(normalize="scale"), MLPModel(kind="mlp", bins=4)])
def test_x_is_never_read_whole(tmp_path, settings):
    x = np.random.default_rng(0).normal(size=(2000, 20)).astype(np.float32).view(Counted)
    Counted.most = 0
    measure_preprocess(settings, Dataset(tmp_path, x), np.arange(2000), False)
    assert 0 < Counted.most <= 5000


def test_the_manifest_says_what_is_done():
    assert describe(plain(normalize="none"), (4,), False) == "none"
    assert describe(plain(normalize="scale", log_input=True), (4,), False) == (
        "log(|x| + floor), divided by the root mean square of what is not 0 in the training split"
    )
    assert describe(MLPModel(kind="mlp", normalize="standard"), (4,), False) == (
        "minus the mean of each feature and divided by its standard deviation, as measured on the training split, "
        "and beside it each feature in 16 piecewise-linear bins between quantiles of the training split"
    )
    assert "sparse rows" in describe(MLPModel(kind="mlp"), (4,), False)
    assert "sparse rows" not in describe(WindowEncoderModel(kind="window_encoder"), (4, 5), True)


def test_an_encoding_without_bins_in_use_is_zero():
    assert PiecewiseLinear(torch.zeros(2, 3), torch.zeros(2, 3))(torch.randn(4, 2)).tolist() == [[0.0] * 6] * 4
