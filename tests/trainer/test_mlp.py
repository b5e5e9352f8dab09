"""The model of rows, dense and sparse."""

import numpy as np
import pytest
import torch
from cutpoint.bundle import read_bundle
from cutpoint.calibration import average_precision, exact_curve
from cutpoint.dataset import Dataset, SparseRows, read_dataset
from cutpoint.trainer import MLP, export_run, parse_config, score_rows, train
from cutpoint.trainer.config import MLPModel
from cutpoint.trainer.models import build_network
from cutpoint.trainer.preprocess import measure_preprocess
from scipy.sparse import csr_array


def test_mlp_without_hidden_layers_is_logistic_regression():
    assert sum(p.numel() for p in MLP(7, 3, ()).parameters()) == 7 * 3 + 3
    assert MLP(7, 3, (5, 4), 0.1)(torch.zeros(2, 7)).shape == (2, 3)


def test_dropout_is_of_training_only():
    torch.manual_seed(0)
    x = torch.randn(50, 7)
    for dropped in (MLP(7, 3, (5,), 0.5), MLP(7, 3, (5,), input_dropout=0.5), MLP(7, 3, (), input_dropout=0.5)):
        plain = MLP(7, 3, tuple(layer.out_features for layer in dropped.body if isinstance(layer, torch.nn.Linear)))
        plain.load_state_dict({name.replace("body.1.", "body.0."): value for name, value in dropped.state_dict().items()})
        assert not torch.equal(dropped(x), plain(x))
        assert torch.equal(dropped.eval()(x), plain(x))


def config(path: str, **changes: object):
    return parse_config(
        {
            "name": "m",
            "task": "binary",
            "data": {"path": str(path)},
            "split": {"by": "random"},
            "model": {"kind": "mlp"},
            "loss": {"name": "weighted_bce", "pos_weight": 1},
            **changes,
        }
    )


def test_bins_let_a_linear_model_follow_a_band(tmp_path):
    x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
    y = ((x[:, :1] > 0.3) & (x[:, :1] < 0.6)).astype(np.float32)
    found = {}
    for bins in (0, 16):
        settings = config("d", model={"kind": "mlp", "bins": bins, "hidden": []})
        preprocess = measure_preprocess(settings.model, Dataset(tmp_path, x), np.arange(600), False)
        network = build_network(settings, (2,), 1, preprocess)
        optimizer = torch.optim.LBFGS(network.parameters(), max_iter=100)

        def loss(network=network, optimizer=optimizer):
            optimizer.zero_grad()
            value = torch.nn.functional.binary_cross_entropy_with_logits(network(torch.from_numpy(x)), torch.from_numpy(y))
            value.backward()
            return value

        optimizer.step(loss)
        with torch.no_grad():
            logits = network(torch.from_numpy(x)).numpy()[:, 0]
        found[bins] = average_precision(exact_curve(logits, y[:, 0].astype(np.uint8)))
    assert found[0] < 0.3
    assert found[16] > 0.9


def test_a_network_is_wide_enough_for_its_bins(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    for model, width in ((MLPModel(kind="mlp"), 3 * 17), (MLPModel(kind="mlp", bins=2), 9), (MLPModel(kind="mlp", bins=0), 3)):
        settings = config("d", model=model.model_dump())
        preprocess = measure_preprocess(settings.model, Dataset(tmp_path, x), np.arange(50), False)
        network = build_network(settings, (3,), 2, preprocess)
        assert network.model.body[0].in_features == width
        assert network(torch.from_numpy(x)).shape == (50, 2)


@pytest.fixture
def sparse_files(tmp_path):
    """The same rows twice: dense.npz, and sparse, a memory-mapped folder."""
    rng = np.random.default_rng(1)
    x = np.where(rng.random((600, 40)) < 0.1, rng.exponential(size=(600, 40)), 0).astype(np.float32)
    y = (rng.random(600) < 1 / (1 + np.exp(3 - 3 * x[:, 0] - 2 * x[:, 1]))).astype(np.uint8)
    np.savez(tmp_path / "dense.npz", x=x, y=y, label_names=["a"])
    matrix = csr_array(x)
    (tmp_path / "sparse").mkdir()
    for key, array in {
        "x_data": matrix.data, "x_indices": matrix.indices, "x_indptr": matrix.indptr, "x_shape": matrix.shape, "y": y,
        "label_names": ["a"],
    }.items():  # fmt: skip
        np.save(tmp_path / "sparse" / f"{key}.npy", np.array(array))
    return tmp_path


def test_sparse_rows_train_export_and_score_as_dense_ones_do(sparse_files):
    fit = {"epochs": 2, "batch_size": 100, "learning_rate": 0.01, "threads": 1}
    runs = {}
    for name in ("dense.npz", "sparse"):
        model = {"kind": "mlp", "hidden": [8], "bins": 4, "normalize": "scale" if name == "dense.npz" else "auto"}
        runs[name] = train(config(sparse_files / name, model=model, fit=fit, out=str(sparse_files / f"run-{name}")), quiet=True)
    dense, sparse = runs.values()
    assert dense.record.history[-1].valid_ap == sparse.record.history[-1].valid_ap
    assert dense.record.splits == sparse.record.splits
    bundle = read_bundle(export_run(sparse, sparse_files / "models"))
    assert bundle.manifest is not None
    assert bundle.manifest.parity.max_abs_difference < 1e-5
    data = read_dataset(sparse_files / "sparse")
    assert isinstance(data.x, SparseRows)
    scores = score_rows(bundle, data)
    np.testing.assert_array_equal(scores, score_rows(bundle, read_dataset(sparse_files / "dense.npz")))
    np.testing.assert_allclose(score_rows(bundle, data, np.array([5, 3]), batch_size=1), scores[[5, 3]], atol=1e-5)
