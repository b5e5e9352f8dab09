"""What a file of runs and seeds becomes, and what is wrong with one."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from cutpoint.errors import BadConfig
from cutpoint.trainer.compare import read_plan

RUNS: dict[str, Any] = {
    "bce": {"loss": {"name": "weighted_bce", "pos_weight": 1}},
    "focal": {"loss": {"name": "focal"}, "fit": {"epochs": 9}},
    "sampled": {"sampler": "weighted"},
    "as_it_is": None,
}


@pytest.fixture
def plan_of(configure, tmp_path):
    def read(document: Any, kind: str = "rows", **changes: Any):
        path = tmp_path / "losses.yaml"
        path.write_text(document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False))
        return read_plan(path, configure(kind, **changes))

    return read


def test_one_configuration_for_every_run_and_seed(plan_of, configure) -> None:
    plan = plan_of({"seeds": [3, 1], "runs": RUNS}, seed=7)
    assert plan.runs == ("bce", "focal", "sampled", "as_it_is") and plan.baseline == "bce"
    assert list(plan.configs) == [(name, seed) for seed in (3, 1) for name in RUNS]  # whole seeds first
    base = configure("rows", seed=7)
    for (name, seed), config in plan.configs.items():
        assert config.seed == seed and config.split.seed == 7  # the seed of the split is the configuration's, for all
        assert config.run_path == base.run_path / f"{name}-{seed}"
        assert config.model == base.model and config.data == base.data
    focal = plan.configs["focal", 3]
    assert focal.loss.name == "focal"  # a section that names its kind replaces the section: no pos_weight is left over
    assert (focal.fit.epochs, focal.fit.batch_size) == (9, base.fit.batch_size)  # of another, the keys given are changed
    assert plan.configs["sampled", 1].sampler.kind == "weighted"
    assert plan.configs["as_it_is", 1].loss == base.loss


def test_a_baseline_a_split_of_its_own_seed_and_a_given_split(plan_of) -> None:
    plan = plan_of({"seeds": [0], "baseline": "focal", "runs": RUNS}, split={"by": "random", "seed": 5})
    assert plan.runs[0] == plan.baseline == "focal"
    assert {config.split.seed for config in plan.configs.values()} == {5}
    given = plan_of({"runs": {"a": {}}}, "labels")
    assert given.seeds == (0, 1, 2) and {config.split.by for config in given.configs.values()} == {"given"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("runs: [", "is not YAML"),
        ("- a", "document is list; expected a mapping with runs"),
        ("{}", "runs is missing"),
        ({"runs": {}}, "runs is {}"),
        ({"runs": {"a": {}}, "seed": [1]}, "seed is not a known key"),
        ({"runs": {"a": {}}, "seeds": [1, 1]}, r"seeds is \[1, 1\]; expected different seeds"),
        ({"runs": {"a": {}}, "seeds": []}, "seeds"),
        ({"runs": {"a": {}}, "seeds": [-1]}, "seeds"),
        ({"runs": {"a/b": {}}}, "runs.a/b"),
        ({"runs": {"a": {}, "b": 3}}, "runs.b is 3"),
        ({"runs": {"a": {}}, "baseline": "c"}, "baseline is c; expected one of the runs, a"),
        ({"runs": {"a": {}, "b": {"loss": {"name": "focl"}}}}, "runs.b: loss"),
        ({"runs": {"a": {}, "b": {"loss": {"name": "focal", "gama": 1}}}}, "runs.b: loss.gama is not a known key"),
        ({"runs": {"a": {}, "b": {"fit": {"epochs": 0}}}}, "runs.b: fit.epochs is 0"),
        ({"runs": {"a": {"split": {"by": "time"}}}}, "runs.a.split is .*; expected no split: all runs share it"),
        ({"runs": {"a": {"seed": 4}}}, "runs.a.seed is 4; expected no seed"),
    ],
)
def test_what_is_wrong_is_said_before_anything_trains(plan_of, document: Any, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        plan_of(document)


def test_one_device_only(plan_of) -> None:
    with pytest.raises(BadConfig, match=r"runs\.b\.fit\.devices is 2; expected 1, .*one process"):
        plan_of({"runs": {"a": {}, "b": {"fit": {"devices": 2}}}})
    with pytest.raises(BadConfig, match=r"runs\.a\.fit\.devices is 3; expected 1, here or in the configuration"):
        plan_of({"runs": {"a": {}}}, fit={"epochs": 1, "devices": 3})


def test_no_file(configure, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"--compare is .*nowhere\.yaml; expected a readable YAML file"):
        read_plan(tmp_path / "nowhere.yaml", configure("rows"))
