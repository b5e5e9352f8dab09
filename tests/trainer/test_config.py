import pytest
import yaml
from cutpoint.errors import BadConfig
from cutpoint.trainer import parse_config, read_config

MINIMAL = {
    "name": "m",
    "task": "binary",
    "data": {"path": "d.npz"},
    "split": {"by": "random"},
    "model": {"kind": "mlp"},
}
WINDOWS = {**MINIMAL, "task": "windows", "model": {"kind": "window_encoder"}}


def test_defaults_and_overrides(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(MINIMAL | {"loss": {"name": "weighted_bce"}}))
    config = read_config(file)
    assert str(config.run_path) == "runs/m"
    assert (config.sampler.kind, config.seed, config.split.train) == ("none", 0, 0.6)
    overrides = [
        "fit.epochs=7",
        "fit.learning_rate=1e-2",
        "model.hidden=[8, 4]",
        "loss.pos_weight=[2.5]",
        "seed=3",
        "fit.epochs=9",
    ]
    changed = read_config(file, overrides, tmp_path / "run")
    assert (changed.fit.epochs, changed.fit.learning_rate, changed.seed) == (9, 0.01, 3)
    assert (changed.model.hidden, changed.loss.pos_weight, changed.run_path) == ((8, 4), (2.5,), tmp_path / "run")
    whole = tmp_path / "whole.yaml"
    whole.write_text(changed.to_yaml())
    assert read_config(whole) == changed
    assert changed.digest() != config.digest()
    assert config.digest() == read_config(file, ["data.path=elsewhere.npz"], tmp_path).digest()
    for same in ("fit.devices=2", "fit.log=tensorboard", "fit.accelerator=cpu"):
        assert config.digest() == read_config(file, [same]).digest()
    for other in ("fit.threads=2", "fit.micro_batch=2", "fit.precision=bf16-mixed"):
        assert config.digest() != read_config(file, [other]).digest()


def test_what_is_left_out_of_fit_is_by_the_kind_of_model():
    rows, windows = parse_config(MINIMAL).fit, parse_config(WINDOWS | {"fit": {"epochs": 3}}).fit
    own = parse_config(MINIMAL | {"model": {"kind": "import", "path": "a:B"}, "fit": {}}).fit
    assert (rows.learning_rate, rows.batch_size, rows.keep, rows.ema) == (0.003, 64, "best", None)
    assert (windows.epochs, windows.batch_size, windows.keep, windows.ema) == (3, 4, "last", 0.98)
    assert own.learning_rate == 0.001


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 3}, r"c: epochs is not a known key"),
        ({"fit": {"epochs": 0}}, r"c: fit.epochs is 0: .*greater than 0"),
        ({"fit": {"learning_rate": ".nan"}}, r"c: fit.learning_rate"),
        ({"fit": {"precision": 16}}, r"c: fit.precision is 16"),
        ({"task": "regression"}, r"c: task is 'regression'"),
        ({"name": "a/b"}, r"c: name is 'a/b'"),
        ({"sampler": "smote"}, r"c: sampler is 'smote'"),
        ({"model": {"kind": "resnet"}}, r"c: model is .*'mlp', 'window_encoder', 'import'"),
        ({"model": {"kind": "mlp", "hiden": [3]}}, r"c: model.hiden is not a known key"),
        ({"model": {"kind": "mlp", "dropout": 1}}, r"c: model.dropout is 1: .*less than 1"),
        ({"model": {"kind": "import", "path": "os.system"}}, r"c: model.path is 'os.system'"),
        (
            {"loss": {"name": "weighted_bce", "pos_weight": -1}},
            r"c: loss.pos_weight is -1: .*auto, sqrt, effective, .*a positive number, a list",
        ),
        ({"loss": {"name": "weighted_bce", "pos_weight": [1, "x"]}}, r"c: loss.pos_weight is \[1, 'x'\]"),
        ({"loss": {"name": "weighted_bce", "pos_weight": []}}, r"c: loss.pos_weight is \[\]"),
        ({"loss": {"name": "weighted_bce", "gamma": 2}}, r"c: loss.gamma is not a known key"),
        ({"loss": {"name": "focal", "alpha": 1}}, r"c: loss.alpha is 1"),
        ({"split": {"by": "random", "train": 0.9}}, r"c: split is 0.9 \+ 0.2 \+ 0.2; expected shares that sum to 1"),
        ({"split": {"by": "given", "train": 0.9}}, r"c: split.train is not a known key"),
        ({"model": {"kind": "window_encoder"}}, r"c: model.kind is window_encoder; expected mlp or import for task binary"),
        ({"task": "multilabel", "loss": {"name": "weighted_ce"}}, r"c: loss.name is weighted_ce"),
        ({"data": {"path": "d", "rate_hz": 3}}, r"c: data.rate_hz is 3"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(BadConfig, match=message):
        parse_config({**MINIMAL, **change}, "c")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"kernels": [3, 3]}, "lengths of channels, kernels and strides"),
        ({"kernels": [3, 4, 3]}, "model.kernels is .*odd"),
        ({"channels": []}, "model.channels"),
    ],
)
def test_layers_must_agree(model, message):
    with pytest.raises(BadConfig, match=message):
        parse_config({**WINDOWS, "model": {**WINDOWS["model"], **model}})


def test_files_and_overrides_that_cannot_be_read(tmp_path):
    file = tmp_path / "c.yaml"
    for text, message in (
        ("a: [", "is not YAML"),
        ("3", "a mapping"),
        ("", "a mapping"),
        ("!!python/object:os.system {}", "YAML"),
    ):
        file.write_text(text)
        with pytest.raises(BadConfig, match=message):
            read_config(file)
    with pytest.raises(BadConfig, match="readable YAML file"):
        read_config(tmp_path / "none.yaml")
    file.write_text(yaml.safe_dump(MINIMAL | {"loss": {"name": "weighted_bce"}}))
    for override, message in (
        ("fit.epochs", "key.key=value"),
        ("=3", "key.key=value"),
        ("name.x=3", "a section"),
        ("fit.epoch=3", "fit.epoch is not a known key"),
        ("fit.epochs=[", "a YAML value"),
    ):
        with pytest.raises(BadConfig, match=message):
            read_config(file, [override])
