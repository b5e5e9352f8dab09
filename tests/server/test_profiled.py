"""A profile is applied where it was measured on a machine like this one; what was given on the command line goes before it."""

import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import linear_bundle
from cutpoint.bundle import PROFILE_FILE, Computation, Way, read_bundle
from cutpoint.errors import BadBundle, BadConfig
from cutpoint.server.config import ServerConfig, server_config
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.runs.lanes import Lanes
from cutpoint.server.runs.session import OnnxSession
from cutpoint.server.serving.loading import Loading
from cutpoint.server.serving.profiled import running_of, this_machine
from profiles import profile

WAY = Way(lanes=1, max_batch_rows=3, queue_delay_ms=2)


def config(**settings: object) -> ServerConfig:
    return server_config(models=Path("models"), **settings)


def test_this_machine_has_a_cpu_provider() -> None:
    here = this_machine()
    assert here.cores >= 1 and here.cpu and "CPUExecutionProvider" in here.providers


def test_without_a_profile_the_settings_of_the_server_hold() -> None:
    running = running_of(config(max_batch_rows=5, queue_delay_ms=1.5, lanes=3), "m/1", None)
    assert (running.batching.max_rows, running.batching.delay_s, running.wide) == (5, 0.0015, None)
    assert (running.provider.provider, running.provider.lanes) == ("cpu", 3)


@pytest.mark.parametrize(
    ("settings", "runs"),
    [
        ({}, 0),
        ({"provider": "cuda"}, 2),
        ({"provider": "cuda", "provider_option": ("devices=0,1",)}, 4),
        ({"provider": "tensorrt"}, 2),
        ({"provider": "cuda", "lanes": 3}, 0),  # who says how many knows better
        ({"provider": "openvino"}, 0),
    ],
)
def test_a_gpu_has_few_runs_at_a_time(settings: dict[str, object], runs: int) -> None:
    assert running_of(config(**settings), "m/1", None).batching.max_running == runs


def test_every_size_that_runs_are_padded_to_has_run_before_anybody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run = OnnxSession.run

    def seen(session: OnnxSession, inputs: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        sizes.append(len(inputs["x"]))
        return run(session, inputs, **more)

    monkeypatch.setattr(OnnxSession, "run", seen)
    lanes = Lanes(1, time.perf_counter)
    try:
        Loading(config(provider_option=("batch_sizes=2,6",)), Metrics(), lanes).load(linear_bundle(tmp_path / "models"))
    finally:
        lanes.close(10)
    assert {2, 6} <= set(sizes)
    assert not {3, 4, 5} & set(sizes), "batches are checked as they will run"


def test_a_profile_of_a_machine_like_this_is_applied(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    running = running_of(config(), "m/1", profile("0", way=WAY))
    batching = running.batching
    assert (batching.max_rows, batching.delay_s, batching.wide, running.wide) == (3, 0.002, False, False)
    assert batching.max_running == (0 if config().lane_count == 1 else 1)
    assert running.provider.wide_threads == 1
    assert "run as its profile says: fp32, cpu; 1 lane, up to 3 rows a run after 2 ms" in caplog.text


def test_a_profile_may_say_that_every_run_takes_all_cores() -> None:
    running = running_of(config(), "m/1", profile("0", way=Way(wide=True), wide_threads=2))
    assert (running.batching.wide, running.wide, running.provider.wide_threads) == (True, True, 2)


def test_what_was_given_goes_before_the_profile_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    running = running_of(config(max_batch_rows=7, queue_delay_ms=0.0), "m/1", profile("0", way=WAY))
    assert (running.batching.max_rows, running.batching.delay_s) == (7, 0.0)
    assert "--max-batch-rows 7 was given and goes before its profile's 3" in caplog.text
    assert "--queue-delay-ms 0.0 was given" in caplog.text


@pytest.mark.parametrize(
    ("fields", "settings", "said"),
    [
        ({"machine": this_machine().model_copy(update={"cores": 96})}, {}, "measured on 96 cores, here are "),
        ({"computation": Computation(provider="tensorrt")}, {}, "tensorrt, which onnxruntime .* has not here"),
        ({"computation": Computation(provider="openvino")}, {"provider": "cpu"}, "--provider cpu was given"),
    ],
)
def test_a_profile_of_another_machine_is_not_applied_and_the_log_says_why(
    fields: dict[str, object], settings: dict[str, object], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = profile("0", way=WAY, **fields)
    assert running_of(config(**settings), "m/1", made) == running_of(config(**settings), "m/1", None)
    (record, *_) = [each for each in caplog.records if "profile is not used" in each.message]
    assert re.search(said, record.message)


def test_thresholds_that_were_chosen_on_other_logits_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    running_of(config(), "m/1", profile("0", Computation(provider="tensorrt", hint="bf16")))
    assert "its thresholds were chosen on logits of fp32, tensorrt in bf16; cpu gives others" in caplog.text


def test_another_processor_is_said_and_the_profile_applied(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made = profile("0", way=WAY, machine=this_machine().model_copy(update={"cpu": "Z80"}))
    assert running_of(config(), "m/1", made).batching.max_rows == 3
    assert "measured with cpu Z80, here is " in caplog.text


def test_a_model_is_loaded_as_its_profile_says_and_answers(tmp_path: Path) -> None:
    path = linear_bundle(tmp_path / "models")
    made = profile(read_bundle(path).digest, way=Way(wide=True, max_batch_rows=3), wide_threads=2)
    (path / PROFILE_FILE).write_text(made.to_json())
    lanes = Lanes(2, time.perf_counter)
    try:
        model = Loading(config(lanes=2), Metrics(), lanes).load(path)
        assert (model.batcher.batching.max_rows, model.batcher.batching.wide) == (3, True)
        x = np.arange(8, dtype=np.float32).reshape(2, 4)
        np.testing.assert_array_equal(model.session.run({"x": x}, wide=True)["logits"], x[:, :2])
    finally:
        lanes.close(10)


def test_a_profile_of_another_graph_is_an_error_at_load(tmp_path: Path) -> None:
    path = linear_bundle(tmp_path / "models")
    (path / PROFILE_FILE).write_text(profile("0" * 64).to_json())
    lanes = Lanes(1, time.perf_counter)
    try:
        with pytest.raises(BadBundle, match="another graph"):
            Loading(config(), Metrics(), lanes).load(path)
    finally:
        lanes.close(10)


def test_options_of_the_provider_are_its_settings_and_pad_runs(models: Path) -> None:
    config = server_config(
        models=models,
        provider="cuda",
        provider_option=["devices=0,1", "batch_sizes=1,4,8", "cuda_graphs=true", "gpu_memory_mib=512"],
    )
    running = running_of(config, "m/1", None)
    settings = running.provider
    assert (settings.devices, settings.batch_sizes, settings.cuda_graphs, settings.gpu_memory_mib) == (
        ("0", "1"), (1, 4, 8), True, 512,
    )  # fmt: skip
    assert running.batching.sizes == (1, 4, 8)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("device=0", "provider_option is device=0; expected NAME=VALUE, each name once, of batch_sizes, cuda_graphs"),
        ("tf32", "provider_option is tf32"),
        ("devices=a", r"devices are \['a'\]; expected numbers of GPUs"),
        ("batch_sizes=4,1", "expected 1 or more, increasing"),
        ("gpu_memory_mib=much", "gpu_memory_mib is 'much'"),
    ],
)
def test_a_wrong_option_of_the_provider_is_named(models: Path, option: str, said: str) -> None:
    config = server_config(models=models, provider="cuda", provider_option=[option])
    with pytest.raises(BadConfig, match=said):
        running_of(config, "m/1", None)
