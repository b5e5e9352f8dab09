"""Models come and go: what is loaded, what replaces what, and what stays; looks at the folder happen when a test says so."""

import dataclasses
import gc
import json
import shutil
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import linear_onnx, manifest, nan_onnx, policy
from cutpoint.bundle import Examples, write_bundle, write_policy
from cutpoint.errors import BadBundle, BadConfig, BadRequest, ModelNotFound, Unavailable
from cutpoint.server import server_config
from cutpoint.server.serving.catalogue import require_models
from cutpoint.server.serving.models import State
from workplace import asked, workplace

X = np.float32([[1, 2, 3, 4]])


def scaled_bundle(models: Path, factor: float, version: int = 1, name: str = "linear", **fields: Any) -> Path:
    """A bundle whose logits a, b are the first two features times `factor`."""
    weights = np.zeros((4, 2), np.float32)
    weights[[0, 1], [0, 1]] = factor
    scratch = linear_onnx(models.parent / f"scratch-{factor}.onnx", weights, ["batch", 4])
    return write_bundle(models, manifest(name, ("a", "b"), (-1, 4), version), scratch, **fields)


def elsewhere(models: Path) -> Path:
    folder = models.parent / "elsewhere"
    folder.mkdir(exist_ok=True)
    return folder


def foreign(models: Path, factor: float, version: int = 1) -> bytes:
    return linear_onnx(models.parent / f"f{factor}.onnx", np.eye(4, 2) * factor, ["n", 4]).read_bytes()


def first_logit(model: Any) -> float:
    return float(asked(model, X, ("logits",)).outputs["logits"][0, 0])


def test_a_new_version_answers_who_names_none_and_the_old_one_stays_beside_it(models: Path) -> None:
    scaled_bundle(models, 1)
    with workplace(models) as place:
        assert place.default() == 1
        scaled_bundle(models, 2, version=2)
        place.look()
        assert place.default() == 2
        assert [first_logit(place.models.get("linear", v)) for v in ("", "1", "2")] == [2, 1, 2]
        assert place.states() == {("linear", 1): "READY", ("linear", 2): "READY"}
        assert place.samples()['cutpoint_model_loads_total{model="linear",outcome="loaded"}'] == 2
        place.look(3)
        assert place.samples()['cutpoint_model_loads_total{model="linear",outcome="loaded"}'] == 2


@pytest.mark.parametrize(
    "order", [("manifest.json", "model.onnx", "policy.json"), ("model.onnx", "policy.json", "manifest.json")]
)
def test_a_bundle_that_is_written_piece_by_piece_answers_nobody_before_it_is_whole(
    models: Path, order: tuple[str, ...]
) -> None:
    first = scaled_bundle(models, 1)
    write_policy(first, policy(first, {"a": 0.5, "b": 0.5}))
    source = scaled_bundle(elsewhere(models), 2, version=2)
    write_policy(source, policy(source, {"a": 0.25, "b": 0.25}))
    with workplace(models) as place:
        target = models / "linear" / "2"
        target.mkdir()
        place.look()
        for name in order:
            data = (source / name).read_bytes()
            for part in range(4):
                with (target / name).open("ab") as file:
                    file.write(data[len(data) * part // 4 : len(data) * (part + 1) // 4])
                place.look()
                whole = part == 3 and name == order[-1]
                if not whole:
                    answer = asked(place.models.get("linear"), X)
                    assert (answer.outputs["logits"][0, 0], answer.active.policy.labels[0].threshold) == (1, 0.5)
        place.look(2)
        answer = asked(place.models.get("linear"), X)
        assert (answer.outputs["logits"][0, 0], answer.active.policy.labels[0].threshold) == (2, 0.25)


def test_a_folder_without_a_manifest_is_whole_when_it_stayed_as_it_is_for_two_looks(models: Path) -> None:
    data = foreign(models, 3)
    file = models / "m" / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    with workplace(models, start=False) as place:
        for end in (len(data) // 3, len(data) // 2, len(data)):
            file.write_bytes(data[:end])
            place.look()
            with pytest.raises(ModelNotFound):
                place.models.get("m")
        place.look()
        assert first_logit(place.models.get("m")) == 3


def test_what_cannot_be_served_is_tried_again_when_it_changes_and_only_then(models: Path) -> None:
    scaled_bundle(models, 1)
    with workplace(models) as place:
        bad = scaled_bundle(models, 2, version=2)
        whole = (bad / "model.onnx").read_bytes()
        (bad / "model.onnx").write_bytes(whole[:-1])
        place.look(5)
        failed = 'cutpoint_model_loads_total{model="linear",outcome="failed"}'
        assert place.samples()[failed] == 1
        assert place.states()["linear", 2] == "UNAVAILABLE"
        assert "truncated or altered" in place.reason("linear", 2)
        assert place.samples()['cutpoint_model_ready{model="linear",version="2"}'] == 0
        assert place.default() == 1
        (bad / "model.onnx").write_bytes(whole)
        place.look(2)
        assert place.default() == 2
        assert place.samples()['cutpoint_model_ready{model="linear",version="2"}'] == 1


def test_a_version_whose_files_become_bad_stays_as_it_was(models: Path) -> None:
    path = scaled_bundle(models, 1)
    with workplace(models) as place:
        before = place.models.get("linear")
        (path / "model.onnx").write_bytes(foreign(models, 5))
        place.look(3)
        assert place.models.get("linear") is before
        assert place.states()["linear", 1] == "READY"
        assert "as it was before its files changed" in place.reason("linear", 1)
        assert first_logit(before) == 1


def test_a_version_that_changed_is_replaced_and_its_counters_go_on(models: Path) -> None:
    path = scaled_bundle(models, 1)
    write_policy(path, policy(path, {"a": 0.5, "b": 0.5}))
    with workplace(models) as place:
        old = place.models.get("linear")
        asked(old, X)
        decisions = 'cutpoint_decisions_total{label="a",model="linear",version="1"}'
        assert place.samples()[decisions] == 1
        shutil.rmtree(path)
        path = scaled_bundle(models, 7)
        write_policy(path, policy(path, {"a": 0.5, "b": 0.5}))
        place.look(2)
        new = place.models.get("linear")
        assert new is not old
        assert asked(new, X).outputs["logits"][0, 0] == 7
        assert place.samples()[decisions] == 2
        infos = [name for name in place.samples() if name.startswith("cutpoint_model_info")]
        assert len(infos) == 1
        assert new.bundle.digest[:12] in infos[0]


def test_examples_that_the_graph_does_not_give_keep_a_version_out(models: Path) -> None:
    scaled_bundle(models, 1)
    x = np.float32([[1, 2, 3, 4], [5, 6, 7, 8]])
    with workplace(models) as place:
        scaled_bundle(models, 2, version=2, examples=Examples(x, 2 * x[:, :2] + np.float32(3e-4)))
        scaled_bundle(models, 3, version=3, examples=Examples(x, 3 * x[:, :2] + np.float32(5e-5)))
        place.look(2)
        assert place.states() == {("linear", 1): "READY", ("linear", 2): "UNAVAILABLE", ("linear", 3): "READY"}
        reason = place.reason("linear", 2)
        assert "examples.npz: largest difference" in reason
        assert "0.0003; expected at most 0.0001" in reason


@pytest.mark.parametrize(
    ("x", "logits", "text"),
    [
        (np.zeros((2, 4)), np.zeros((2, 3)), r"shape of logits is \[2, 3\]; expected \[2, 2\], as the graph gives"),
        (np.zeros((2, 5)), np.zeros((2, 2)), "the graph fails on its recorded rows"),
        (np.zeros((2, 4)), np.zeros((1, 2)), "rows is 2 of x and 1 of logits"),
        (np.zeros((2, 4)), np.full((2, 2), np.inf), r"logits is float32 \[2, 2\]; expected float32 .* all finite"),
    ],
)
def test_examples_that_do_not_fit_the_graph_are_named(models: Path, x: np.ndarray, logits: np.ndarray, text: str) -> None:
    scaled_bundle(models, 1, examples=Examples(np.float32(x), np.float32(logits)))
    with pytest.raises(BadBundle, match=text), workplace(models, model_control="none"):
        pass


def test_what_is_gone_for_two_looks_is_dropped_and_so_are_its_series(models: Path) -> None:
    scaled_bundle(models, 1)
    second = scaled_bundle(models, 2, version=2)
    other = scaled_bundle(models, 1, name="other")
    with workplace(models) as place:
        held = place.models.get("linear", "2")
        shutil.rmtree(second)
        place.look()
        assert place.default() == 2
        place.look()
        assert place.default() == 1
        with pytest.raises(ModelNotFound, match=r"'linear' version 2 is not found; served: \[1\]"):
            place.models.get("linear", "2")
        assert not [name for name in place.samples() if 'model="linear"' in name and 'version="2"' in name]
        assert place.states() == {("linear", 1): "READY", ("other", 1): "READY"}
        assert first_logit(held) == 2  # somebody found it before
        shutil.rmtree(other.parent)
        place.look(2)
        with pytest.raises(ModelNotFound, match="'other' is not found"):
            place.models.get("other")
        assert not [name for name in place.samples() if 'model="other"' in name and "loads" not in name]


def test_a_folder_that_is_away_for_a_moment_or_a_repository_that_is_empty_drops_nothing(models: Path) -> None:
    path = scaled_bundle(models, 1)
    with workplace(models) as place:
        before = place.models.get("linear")
        away = path.with_name(".away")
        path.rename(away)
        place.look()
        away.rename(path)
        place.look(3)
        assert place.models.get("linear") is before
        (models / "linear").rename(models.parent / "linear")
        place.look(4)
        assert place.models.get("linear") is before
        shutil.rmtree(models)
        place.look(2)
        assert place.models.get("linear") is before


def test_another_policy_file_alone_loads_no_graph(models: Path) -> None:
    path = scaled_bundle(models, 1)
    write_policy(path, policy(path, {"a": 0.5, "b": 0.5}))
    with workplace(models) as place:
        before = place.models.get("linear")
        write_policy(path, policy(path, {"a": 1.5, "b": 0.5}))
        place.look(2)
        assert place.models.get("linear") is before
        assert asked(before, X).active.policy.labels[0].threshold == 1.5
        (path / "policy.json").write_text("{")
        place.look(2)
        assert place.states()["linear", 1] == "READY"
        assert asked(place.models.get("linear"), X).active.policy.labels[0].threshold == 1.5
        (path / "report.html").write_text("new")
        place.look(2)
        assert place.models.get("linear") is before


def test_serving_json_pins_the_default_and_one_rename_switches_it(models: Path) -> None:
    for version in (1, 2, 3):
        scaled_bundle(models, version, version=version)
    file = models / "linear" / "serving.json"
    with workplace(models) as place:
        assert place.default() == 3
        for content, default in [
            ({"default": 2}, 2),
            ({"default": 1}, 1),
            ({"default": 9}, 1),  # not there: what was the default stays
            ({"default": "3"}, 1),  # wrong: likewise
            ({"shadow": 3}, 2),  # the shadow never answers who names none
            ({}, 3),
        ]:
            new = file.with_name(".serving.json")
            new.write_text(json.dumps(content))
            new.replace(file)
            place.look()
            assert place.default() == default, content
        file.unlink()
        place.look()
        assert place.default() == 3


def test_a_pin_of_the_command_line_goes_before_the_file_and_has_to_be_there(models: Path) -> None:
    scaled_bundle(models, 1)
    scaled_bundle(models, 2, version=2)
    (models / "linear" / "serving.json").write_text('{"default": 2}')
    with workplace(models, pin=["linear=1"]) as place:
        assert place.default() == 1
    there = r"pin is linear=3; expected a version that is served: \[1, 2\]"
    with pytest.raises(BadConfig, match=there), workplace(models, pin=["linear=3"], model_control="none"):
        pass
    with workplace(models, pin=["linear=1", "later=1"], model_control="explicit") as place:
        place.catalogue.load("linear")
        assert place.default() == 1
    for wrong in ("linear", "linear=", "linear=x", "linear=0", "../x=1"):
        with pytest.raises((BadConfig, BadRequest)), workplace(models, pin=[wrong]):
            pass
    twice = "pin is given twice for 'linear'; expected once for a model"
    with pytest.raises(BadConfig, match=twice), workplace(models, pin=["linear=1", "linear=2"]):
        pass


def test_a_pin_to_what_is_not_there_answers_nobody_who_names_no_version(models: Path) -> None:
    scaled_bundle(models, 1)
    with workplace(models, pin=["linear=2"]) as place:
        with pytest.raises(ModelNotFound, match="no default version"):
            place.models.get("linear")
        assert first_logit(place.models.get("linear", "1")) == 1


def test_a_version_that_cannot_decide_does_not_take_over_from_one_that_does(models: Path) -> None:
    path = scaled_bundle(models, 1)
    write_policy(path, policy(path, {"a": 0.5, "b": 0.5}))
    with workplace(models) as place:
        new = scaled_bundle(models, 2, version=2)
        place.look(2)
        assert place.states()["linear", 2] == "READY"
        assert place.default() == 1
        write_policy(new, policy(new, {"a": 0.5, "b": 0.5}))
        place.look(2)
        assert place.default() == 2


def test_one_bad_version_stops_the_start_unless_told_otherwise_or_polling(models: Path) -> None:
    scaled_bundle(models, 1)
    bad = scaled_bundle(models, 2, version=2)
    (bad / "model.onnx").write_bytes(b"no model")
    with pytest.raises(BadBundle, match="truncated or altered"), workplace(models, model_control="none"):
        pass
    for settings in ({"model_control": "none", "exit_on_error": False}, {"model_control": "poll"}):
        with workplace(models, **settings) as place:
            assert place.default() == 1
            assert place.states() == {("linear", 1): "READY", ("linear", 2): "UNAVAILABLE"}


def test_polling_may_begin_with_nothing_and_none_may_not(models: Path) -> None:
    with workplace(models) as place:
        scaled_bundle(models, 1)
        place.look()
        assert place.default() == 1
    for name in list(models.iterdir()):
        shutil.rmtree(name)
    require_models(server_config(models=models, model_control="poll"))
    with pytest.raises(BadBundle, match=r"no models"):
        require_models(server_config(models=models))


def test_explicit_control_serves_what_was_asked_for(models: Path) -> None:
    scaled_bundle(models, 1)
    scaled_bundle(models, 2, name="other")
    with workplace(models, model_control="explicit", load=["linear"]) as place:
        assert place.states() == {("linear", 1): "READY", ("other", 1): "UNAVAILABLE"}
        assert place.reason("other", 1) == "not loaded"
        place.catalogue.load("other")
        assert first_logit(place.models.get("other")) == 2
        same = place.models.get("other")
        place.catalogue.load("other")
        assert place.models.get("other") is same
        scaled_bundle(models, 5, name="other", version=2)
        place.catalogue.load("other")
        assert place.default("other") == 2
        place.catalogue.unload("other")
        with pytest.raises(ModelNotFound, match="'other' has no available versions"):
            place.models.get("other")
        assert place.reason("other", 1) == "unloaded"
        place.catalogue.unload("other")
        place.catalogue.load("other")
        assert first_logit(place.models.get("other")) == 5
        with pytest.raises(ModelNotFound, match="failed to load 'none', the model repository has no such model"):
            place.catalogue.load("none")
        with pytest.raises(ModelNotFound, match="failed to unload 'none'"):
            place.catalogue.unload("none")
        bad = scaled_bundle(models, 3, name="other", version=3)
        (bad / "manifest.json").write_text("{")
        for _ in range(2):
            with pytest.raises(BadRequest, match=r"failed to load 'other', .*manifest.json"):
                place.catalogue.load("other")
        assert place.default("other") == 2
    with pytest.raises(ModelNotFound), workplace(models, model_control="explicit", load=["none"]):
        pass


def test_a_version_that_is_being_loaded_asks_for_a_retry(models: Path) -> None:
    with workplace(models) as place:
        place.models.set_state("linear", 1, State("LOADING"))
        for version in ("", "1"):
            with pytest.raises(Unavailable, match="is not at ready state"):
                place.models.get("linear", version)
        with pytest.raises(ModelNotFound, match="no available versions"):
            place.models.get("linear", "2")


def test_who_found_a_model_before_it_was_retired_is_answered(models: Path) -> None:
    path = scaled_bundle(models, 1)
    with workplace(models) as place:
        held = place.models.get("linear")
        for _ in range(3):
            shutil.rmtree(path)
            path = scaled_bundle(models, 2)
            place.look(2)
            assert first_logit(place.models.get("linear")) == 2
            for _ in range(3):
                assert first_logit(held) == 1
                assert held.logits({"x": X})[0, 0] == 1
        assert held.requests == 0
        assert held.batcher not in place.lanes._queues
        assert len(place.lanes._queues) == 1


def test_a_model_that_was_replaced_is_freed_without_the_collector(models: Path) -> None:
    path = scaled_bundle(models, 1)
    gc.collect()
    gc.disable()
    try:
        with workplace(models) as place:
            gone = threading.Event()
            model = place.models.get("linear")
            model.batcher.batching = dataclasses.replace(model.batcher.batching, quick_s=0.0)  # by lanes, as larger ones are
            weakref.finalize(model.session, gone.set)
            for _ in range(5):
                asked(model, X)
            del model
            shutil.rmtree(path)
            scaled_bundle(models, 2)
            place.look(2)
            assert gone.wait(30)
    finally:
        gc.enable()


def test_reloading_while_many_ask_loses_nothing_and_every_answer_is_of_its_version(models: Path) -> None:
    scaled_bundle(models, 1)
    stop, wrong, counts = threading.Event(), list[object](), [0] * 4
    with workplace(models, lanes=2) as place:

        def ask(i: int) -> None:
            try:
                while not stop.is_set():
                    model = place.models.get("linear")
                    found = first_logit(model)
                    if found != model.version:
                        wrong.append((model.version, found))
                    counts[i] += 1
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for version in range(2, 22):
            scaled_bundle(models, version, version=version)
            place.look()
            assert place.default() == version
            if version > 3:
                shutil.rmtree(models / "linear" / str(version - 2))
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert min(counts) > 0


def test_a_policy_that_is_activated_while_its_version_is_loaded_anew_is_not_lost(models: Path) -> None:
    path = scaled_bundle(models, 1)
    write_policy(path, policy(path, {"a": 0.5, "b": 0.5}))
    with workplace(models) as place:
        old = place.models.get("linear")
        made = place.store.add(policy(path, {"a": 9.0, "b": 9.0}))
        (path / "model.onnx").touch()
        place.look(2)
        new = place.models.get("linear")
        assert new is not old
        active = place.store.activate("linear", 1, made.version, 1.0)
        place.models.apply(old, active.prepared())  # by who found the old one
        assert new.active.policy.version == old.active.policy.version == made.version


def test_a_graph_that_cannot_be_warmed_up_with_random_numbers_is_served(models: Path) -> None:
    nan_onnx(models / "log" / "1" / "model.onnx")
    with workplace(models) as place, np.errstate(all="ignore"):
        assert place.states() == {("log", 1): "READY"}


def test_files_that_change_while_they_are_loaded_are_loaded_again(models: Path) -> None:
    scaled_bundle(models, 1)
    with workplace(models) as place:
        loading, loads = place.catalogue._loading, 0

        class Disturbed:
            """Loads, and finds the files changed when it is done: the first time."""

            def load(self, path: Path) -> Any:
                nonlocal loads
                loads += 1
                made = loading.load(path)
                if loads == 1:
                    shutil.rmtree(path)
                    scaled_bundle(models, 3, version=2)
                return made

        place.catalogue._loading = Disturbed()  # type: ignore[assignment]
        scaled_bundle(models, 2, version=2)
        place.look()
        assert place.default() == 1
        place.look(2)
        assert first_logit(place.models.get("linear")) == 3
        assert loads == 2
