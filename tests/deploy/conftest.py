"""A real server's page of metrics, which dashboards and rules are held against."""

from collections.abc import Iterator, Mapping
from urllib.request import urlopen

import pytest
from bundles import linear_bundle
from processes import serving
from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[Mapping[str, str], ...]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Labels]]:
    """Every name of a series that a server's /metrics has, with the labels of each; of some there is none yet."""
    models = tmp_path_factory.mktemp("exported") / "models"
    models.mkdir()
    linear_bundle(models)
    names: dict[str, Labels] = {}
    with serving(models) as server, urlopen(server.metrics_url, timeout=10) as answer:
        for family in text_string_to_metric_families(answer.read().decode()):
            ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
            names |= {f"{family.name}{end}": () for end in ends}
            for sample in family.samples:
                names[sample.name] = (*names.get(sample.name, ()), sample.labels)
    yield names
