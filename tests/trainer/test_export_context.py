"""How far a window looks: what the layers say, what the graph does, and what the manifest keeps."""

import numpy as np
import pytest
import torch
from cutpoint.bundle import read_bundle
from cutpoint.errors import BadBundle
from cutpoint.signals import Windower
from cutpoint.trainer import Run, WindowEncoder, parse_config, train
from cutpoint.trainer.export import export_graph, export_run
from cutpoint.trainer.export.context import check_context, derive_context
from cutpoint.trainer.export.parity import answer_of

from .conftest import SETTINGS, settings_of

SMALL = {"channels": [4], "kernels": [5], "strides": [3], "event_width": 4}


def config_of(**model: object):
    kind = {"kind": "window_encoder", **SMALL, **model}
    return parse_config({"name": "m", "data": {"path": "x.npz"}, "out": "run", **SETTINGS["windows"], "model": kind})


@pytest.mark.parametrize(
    ("model", "context"),
    [
        ({"context": 0}, 0),
        ({"context": 0, "events": 0}, 0),
        ({"context": 5, "context_layers": 0, "events": 0}, 0),
        ({"context": 5, "context_layers": 1, "events": 0}, 1),
        ({"context": 5, "context_layers": 3, "events": 0, "window_norm": True}, 7),
        ({"context": 5, "context_layers": 2}, None),
        ({"context": 0, "sequence_norm": True, "events": 0}, None),
        ({"context": 5, "sequence_norm": True, "events": 0}, None),
    ],
)
def test_the_layers_say_how_far_a_window_looks(model, context):
    assert derive_context(config_of(**model)) == context


def graph_of(file, **model: object):
    torch.manual_seed(0)
    network = WindowEncoder(1, 2, config_of(**model).model).eval()
    export_graph(network, (12, 40), True, file)
    return answer_of(file)


def test_a_graph_is_seen_to_look_as_far_and_no_further(tmp_path):
    rows = np.random.default_rng(0).normal(size=(2, 12, 40)).cumsum(-1).astype(np.float32)
    layers = graph_of(tmp_path / "layers.onnx", context=5, context_layers=3, events=0)
    assert check_context(layers, rows, 7) == 7
    with pytest.raises(BadBundle, match=r"context of the exported graph is 7 windows at least; expected 6 by its layers"):
        check_context(layers, rows, 6)
    everywhere = graph_of(tmp_path / "everywhere.onnx", context=5, sequence_norm=True, events=0)
    with pytest.raises(BadBundle, match=r"is \d+ windows at least; expected 2 by its layers"):
        check_context(everywhere, rows, 2)


def test_other_models_are_of_unknown_context():
    rows = parse_config({"name": "m", "data": {"path": "x.npz"}, "out": "run", **SETTINGS["rows"]})
    assert derive_context(rows) is None


def test_the_manifest_keeps_context_and_the_length_trained_on(data, tmp_path, monkeypatch):
    settings = settings_of(data, "windows", tmp_path / "run", fit={"epochs": 1, "batch_size": 8})
    settings["model"] = {**settings["model"], "events": 0, "context_layers": 2}
    run = train(parse_config(settings), quiet=True)
    path = export_run(run, tmp_path / "models")
    windows = read_bundle(path).manifest.windows
    assert (windows.count, windows.trained_count, windows.context) == (None, 12, 3)
    # As a server does it: a signal in pieces is scored as the whole recording at once.
    answer = answer_of(path / "model.onnx")
    signal = np.random.default_rng(0).normal(size=64 * 50 + 7).astype(np.float32)
    windower, found = Windower.of(read_bundle(path).manifest), []
    for at in range(0, len(signal), 300):
        windower.push(signal[at : at + 300])
        while (block := windower.take()) is not None:
            found.append(block.answered(answer(block.x)))
    windower.finish()
    while (block := windower.take()) is not None:
        found.append(block.answered(answer(block.x)))
    np.testing.assert_allclose(np.concatenate(found), answer(signal[: 64 * 50].reshape(1, 50, 64))[0], atol=1e-5)
    assert windower.left_over == 7
    # A graph that looks further than it says is not written.
    monkeypatch.setattr("cutpoint.trainer.export.bundles.derive_context", lambda config: 2)
    with pytest.raises(BadBundle, match=r"3 windows at least; expected 2 by its layers; nothing was written"):
        export_run(Run(run.path, run.config, run.record), tmp_path / "models")
    assert [path.name for path in (tmp_path / "models" / "windows").iterdir()] == ["1"]
