"""deploy/compose.yaml against the Compose specification's schema, and against what its parts say of each other."""

import copy
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from bundles import linear_bundle
from jsonschema import Draft202012Validator
from processes import ENVIRONMENT, ROOT, cutpoint, serving

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
GPU = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text())
READS = yaml.safe_load((DEPLOY / "compose.prometheus.yml").read_text())


def errors(value: object) -> list[str]:
    schema = json.loads((Path(__file__).parent / "schemas" / "compose.json").read_text())
    schema.pop("$schema")  # an address under which nothing is kept; the draft is that of its `$defs`
    return [error.message for error in Draft202012Validator(schema).iter_errors(value)]


def mounts(service: str) -> dict[str, dict[str, Any]]:
    return {volume["target"]: volume for volume in SERVICES[service]["volumes"]}


def test_the_schema_finds_nothing() -> None:
    assert errors(COMPOSE) == []
    assert errors(GPU) == []


def test_the_schema_finds_what_is_broken_on_purpose() -> None:
    for change in (
        {"images": "x"},
        {"ports": "8001"},
        {"healthcheck": {"test": 1}},
        {"read_only": "perhaps", "cap_drop": "ALL"},
    ):
        broken = copy.deepcopy(COMPOSE)
        broken["services"]["server"].update(change)
        assert errors(broken), change


def test_on_a_gpu_the_server_is_another_image_with_a_device_and_all_else_is_the_same() -> None:
    assert set(GPU) == {"services"} and set(GPU["services"]) == {"server"}
    server, usual = GPU["services"]["server"], SERVICES["server"]
    assert set(server) == {"build", "image", "command", "deploy"}
    assert server["command"] == [*usual["command"], "--provider", "cuda"]
    assert server["build"] == {"args": {"EXTRA": "gpu"}} and set(usual["build"]["args"]) == {"EXTRA"}
    assert "gpu" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    # As the Compose specification fills in a variable that is not set, and one that is: neither is over the other.
    tags = [
        re.sub(r"\$\{EXTRA:-(\w+)\}", lambda found, extra=extra: extra or found[1], usual["image"]) for extra in ("", "gpu")
    ]
    assert tags == ["cutpoint:latest", server["image"]]
    (device,) = server["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_nothing_is_published_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service["ports"]]
    assert ports and all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in ports)


def test_images_of_others_have_a_version() -> None:
    images = {name: service["image"] for name, service in SERVICES.items() if "build" not in service}
    assert set(images) == {"prometheus", "grafana"}
    assert all(re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", image) for image in images.values())


def test_what_is_mounted_from_here_is_here_and_read_only() -> None:
    for name in SERVICES:
        for volume in mounts(name).values():
            if volume["type"] == "volume":
                assert volume["source"] in COMPOSE["volumes"]
                continue
            assert volume["read_only"] and not volume["bind"]["create_host_path"]
            if "$" not in volume["source"]:
                assert (DEPLOY / volume["source"]).exists()


def test_grafana_finds_dashboards_and_data_where_they_are() -> None:
    mounted = mounts("grafana")
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/cutpoint.yaml").read_text())["providers"]
    folder = DEPLOY / mounted[provider["options"]["path"]]["source"]
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"] and (folder / home.name).exists()
    assert (DEPLOY / mounted["/etc/grafana/provisioning"]["source"] / "datasources" / "prometheus.yaml").exists()
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert SERVICES[host]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_grafana_knows_how_often_prometheus_reads() -> None:
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["jsonData"]["timeInterval"] == READS["global"]["scrape_interval"]


def test_prometheus_reads_the_server_and_finds_its_rules(tmp_path: Path) -> None:
    (job,) = READS["scrape_configs"]
    ((target,),) = (each["targets"] for each in job["static_configs"])
    host, port = target.split(":")
    assert f"127.0.0.1:{port}:{port}" in SERVICES[host]["ports"]
    mounted = mounts("prometheus")
    folder = Path("/etc/prometheus")
    assert mounted[str(folder / "prometheus.yml")]["source"] == "./compose.prometheus.yml"
    assert all(str(folder / rules) in mounted for rules in READS["rule_files"])
    usual = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert [each["job_name"] for each in usual["scrape_configs"]] == [job["job_name"]], "rules know the job by its name"
    assert {**usual, "scrape_configs": None} == {**READS, "scrape_configs": None}
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    for target_path, volume in mounted.items():
        if volume["type"] == "bind":
            shutil.copy(DEPLOY / volume["source"], tmp_path / Path(target_path).name)
    config = tmp_path / "prometheus.yml"
    done = subprocess.run(["promtool", "check", "config", str(config)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_server_takes_its_command(tmp_path: Path) -> None:
    empty = tmp_path / "models"
    empty.mkdir()
    dockerfile = (ROOT / "Dockerfile").read_text()
    entry = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", dockerfile, re.M)[1])  # type: ignore[index]
    assert entry[:2] == ["/opt/cutpoint/bin/cutpoint", "serve"]
    assert {"/models", "/state"} <= set(mounts("server")) & set(entry)
    with serving(empty, *SERVICES["server"]["command"]):
        pass  # it starts, with nothing to serve yet
    assert "--provider" in GPU["services"]["server"]["command"] and "cuda" in cutpoint("serve", "--help").stdout
    assert cutpoint("serve", "--help").returncode == 0


def test_the_servers_health_check_tells_ready_from_gone(models: Path) -> None:
    linear_bundle(models)
    _, python, *arguments = SERVICES["server"]["healthcheck"]["test"]
    assert python == "/opt/cutpoint/bin/python"

    def checked(target: str) -> int:
        command = [each.replace("127.0.0.1:8001", target) for each in arguments]
        return subprocess.run(
            [sys.executable, *command], env=ENVIRONMENT, capture_output=True, timeout=60, check=False
        ).returncode

    with serving(models) as server:
        assert checked(server.target) == 0
    assert checked(server.target) != 0


def test_the_alerting_block_is_one_when_it_is_uncommented(tmp_path: Path) -> None:
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    commented = re.search(r"^# alerting:\n(#   .*\n)+", text, re.M)
    assert commented is not None
    config = text.replace(commented[0], re.sub("^# ", "", commented[0], flags=re.M))
    (manager,) = yaml.safe_load(config)["alerting"]["alertmanagers"]
    assert manager == {"static_configs": [{"targets": ["localhost:9093"]}]}
    (tmp_path / "prometheus.yml").write_text(config)
    shutil.copy(DEPLOY / "prometheus" / "cutpoint.rules.yml", tmp_path)
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    for path in (tmp_path / "prometheus.yml", DEPLOY / "prometheus" / "prometheus.yml"):
        done = subprocess.run(["promtool", "check", "config", path], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_its_flags() -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    known = subprocess.run(["prometheus", "--help"], capture_output=True, text=True, timeout=60, check=False)
    for flag in SERVICES["prometheus"]["command"]:
        assert flag.split("=")[0] in known.stdout + known.stderr
