"""deploy/grafana/wakegate.json is a dashboard that Grafana reads whole, and that somebody can read at night."""

import enum
import json
import math
import types
import typing
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.deploy.conftest import Night

FILE = Path(__file__).parents[2] / "deploy" / "grafana" / "wakegate.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
CHARTS = [panel for panel in PANELS if panel["type"] != "row"]


@pytest.fixture(scope="module")
def as_grafana_reads_it() -> Dashboard:
    """Grafana's own types, generated from its schema."""
    plugins.register_default_plugins()
    return Dashboard.from_json(DASHBOARD)


def lost(ours: Any, theirs: Any, place: str = "") -> list[str]:
    """What of ours did not come back."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            fault
            for name, value in ours.items()
            for fault in (lost(value, theirs[name], f"{place}.{name}") if name in theirs else [f"{place}.{name}"])
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [fault for number, (one, other) in pairs for fault in lost(one, other, f"{place}[{number}]")]
    return [] if ours == theirs else [f"{place}: {ours!r} became {theirs!r}"]


def test_grafana_knows_every_field(as_grafana_reads_it: Dashboard) -> None:
    """A field that the schema has not, or has somewhere else, would be gone after reading and writing."""
    assert lost(DASHBOARD, json.loads(JSONEncoder().encode(as_grafana_reads_it))) == []


def misfits(value: Any, kind: Any, place: str) -> list[str]:
    """Where a value is not of the type that the schema has for it."""
    origin, words = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        tries = [misfits(value, each, place) for each in words]
        return [] if [] in tries else tries[0]
    if origin is typing.Literal:
        return [] if value in words else [f"{place}: {value!r} is none of {words}"]
    if origin is list or origin is dict:
        if not isinstance(value, origin):
            return [f"{place}: {value!r} is no {origin.__name__}"]
        parts = enumerate(value) if origin is list else value.items()
        return [fault for name, part in parts for fault in misfits(part, words[-1], f"{place}[{name}]")]
    if not isinstance(kind, type) or kind is object or getattr(kind, "_is_protocol", False):
        return fields(value, place)
    if issubclass(kind, enum.Enum):
        return [] if value in [each.value for each in kind] else [f"{place}: {value!r} is none of {list(kind)}"]
    if kind is float:
        kind = (int, float)
    if isinstance(value, bool) and kind is not bool:
        return [f"{place}: {value!r} is no {kind}"]
    return fields(value, place) if isinstance(value, kind) else [f"{place}: {value!r} is no {kind}"]


def fields(value: Any, place: str) -> list[str]:
    if not type(value).__module__.startswith("grafana_foundation_sdk"):
        return []
    hints = typing.get_type_hints(type(value))
    return [fault for name, kind in hints.items() for fault in misfits(getattr(value, name), kind, f"{place}.{name}")]


def test_every_value_is_of_the_type_that_grafanas_schema_has(as_grafana_reads_it: Dashboard) -> None:
    assert fields(as_grafana_reads_it, "dashboard") == []


def test_a_value_of_another_type_is_found() -> None:
    """The check itself, with a fault planted."""
    plugins.register_default_plugins()
    broken = json.loads(FILE.read_text("utf-8"))
    broken["refresh"] = 30
    broken["panels"][1]["gridPos"]["w"] = "4"
    found = fields(Dashboard.from_json(broken), "dashboard")
    assert [fault.partition(":")[0] for fault in found] == ["dashboard.refresh", "dashboard.panels[1].grid_pos.w"]


def test_it_is_found_again_when_it_is_imported_twice() -> None:
    assert DASHBOARD["uid"] == "wakegate" and DASHBOARD["title"] == "WakeGate"
    assert "id" not in DASHBOARD, "that is the database's"
    assert DASHBOARD["schemaVersion"] >= 39, "Grafana 11"


def test_panels_have_numbers_of_their_own_and_none_lies_on_another() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)

    def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
        return (
            one["x"] < other["x"] + other["w"]
            and other["x"] < one["x"] + one["w"]
            and one["y"] < other["y"] + other["h"]
            and other["y"] < one["y"] + one["h"]
        )

    for one, other in combinations(PANELS, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)


def test_every_panel_says_what_it_shows() -> None:
    for panel in CHARTS:
        assert panel["title"] and panel["description"].endswith("."), panel["title"]
        assert panel["targets"]


GRAFANAS_OWN = {
    "$__rate_interval": "1m",
    "$__range": "5m",
    "$__interval": "1s",
    "$instance": ".*",
    "$upstream": ".*",
}
QUERIES = [
    pytest.param(target, id=f"{panel['title']} {target['refId']}") for panel in CHARTS for target in panel["targets"]
]


def filled(expr: str) -> str:
    """As Grafana would send it."""
    for name, value in GRAFANAS_OWN.items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr


@pytest.mark.parametrize("target", QUERIES)
def test_every_query_returns_data(night: Night, target: dict[str, Any]) -> None:
    """Numbers, that is: a quantile of nothing is a series, too, of NaN."""
    expr = filled(target["expr"])
    assert any(map(math.isfinite, night.prometheus.numbers(expr, night.began))), expr


def test_it_works_with_any_prometheus_any_gateway_and_any_upstream() -> None:
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "instance", "upstream"]
    assert variables["datasource"]["type"] == "datasource"
    for panel in CHARTS:
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert target["expr"].count("{") == target["expr"].count('instance=~"$instance"'), target["expr"]
