"""Vast's API: which of its answers means what, and nothing believed that is not there."""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.providers.renting.vendor import Answer, Line, Unanswered, Urgency, VendorError
from gateway.providers.vast.api import (
    MANNERS,
    PAGES,
    Charge,
    Contract,
    VastApi,
    address,
    judge,
    read_charge,
    read_contract,
    read_ports,
    root_of,
    shown,
)
from tests.emulators.vast import VastCloud
from tests.support.simulated import run

AUTH = {"Authorization": "Bearer vast-key"}
TOO_OFTEN = Answer(429, {}, b"API requests too frequent: endpoint threshold=2.0")


def said(content: object, status: int = 200) -> Answer:
    return Answer(status, {}, json.dumps(content).encode())


class Played:
    """A transport with the answers of a test, in their order; the last one is given for ever."""

    def __init__(self, *answers: Answer | Unanswered) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, bytes | None]] = []

    async def __call__(self, method: str, path: str, body: bytes | None, within: float) -> Answer:
        self.asked.append((method, path, body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Unanswered):
            raise answer
        return answer


def api(*answers: Answer | Unanswered) -> tuple[VastApi, Played]:
    played = Played(*answers)
    return VastApi(Line(played, judge=judge, manners=MANNERS)), played


# --- What an answer means


@pytest.mark.parametrize(
    ("op", "answer", "kind"),
    [
        ("look", said({"success": False, "error": "auth_error", "msg": "Invalid user key"}, 401), "key"),
        ("look", said({"success": False, "error": "auth_error", "msg": "This action requires login."}, 403), "key"),
        ("bills", said({"success": False, "error": "auth_error", "msg": "Invalid user key"}, 404), "key"),
        ("stop", said({"success": False, "error": "no_such_instance", "msg": "Instance not found"}, 404), "not_found"),
        ("look", Answer(404, {}, b"<html>nginx</html>"), "failing"),
        ("look", said({"detail": "Not Found"}, 404), "failing"),
        (
            "start",
            said({"success": False, "error": "resources_unavailable", "msg": "state change queued."}),
            "capacity",
        ),
        ("start", said({"success": False, "error": "insufficient_credit", "msg": "no"}), "balance"),
        ("start", said({"success": False, "error": "spend_rate_limit", "msg": "no"}, 400), "balance"),
        ("start", said({"success": False, "msg": "Insufficient credit"}, 400), "balance"),
        ("start", said({"success": False, "error": "invalid_args", "msg": "no"}, 400), "unprocessable"),
        ("start", said({"success": False}), "unprocessable"),
        ("start", said({}), "failing"),
        ("start", said([]), "failing"),
        ("start", Answer(200, {}, b"OK"), "failing"),
        ("start", said({"success": "true"}), "failing"),
        ("look", said({"success": True}), "failing"),
        ("look", Answer(200, {}, b""), "failing"),
        ("list", said({"instances": []}, 500), "failing"),
        ("look", Answer(302, {"location": "https://example.com"}, b""), "failing"),
        ("look", TOO_OFTEN, "limited"),
        ("look", said({"success": False, "error": "auth_error"}, 503), "failing"),
    ],
)
def test_each_refusal_has_its_kind(op: str, answer: Answer, kind: str) -> None:
    error = judge(op, answer)
    assert error is not None and error.kind == kind


@pytest.mark.parametrize(
    ("op", "content"),
    [
        ("look", {"instances": None}),
        ("list", {"instances": []}),
        ("start", {"success": True}),
        ("bills", {"results": []}),
    ],
)
def test_what_went_well_is_no_refusal(op: str, content: object) -> None:
    assert judge(op, said(content)) is None


def test_a_vendor_that_is_asked_too_often_does_not_say_for_how_long() -> None:
    error = judge("look", TOO_OFTEN)
    assert error is not None and error.retry_after is None


def test_a_start_whose_answer_is_nonsense_may_have_begun() -> None:
    error = judge("start", said({}))
    assert error is not None and error.may_have_happened


def test_an_error_shows_the_vendors_words_and_nothing_of_a_contract() -> None:
    cloud = VastCloud()
    row = cloud.handle("GET", f"/api/v0/instances/{cloud.id}/", AUTH, None, 0.0)
    assert b"never to be shown" in row.body
    assert "never" not in shown(Answer(500, {}, row.body))
    assert "never" not in repr(read_contract(json.loads(row.body)["instances"]))


# --- Rows


def test_a_contract_is_read_as_the_emulator_and_the_schema_have_it() -> None:
    cloud = VastCloud(ends_at=2034617753.0, boot=[(0.0, "running")])
    cloud.handle("PUT", f"/api/v0/instances/{cloud.id}/", AUTH, b'{"state": "running"}', 1.0)
    answer = cloud.handle("GET", f"/api/v0/instances/{cloud.id}/", AUTH, None, 2.0)
    assert read_contract(answer.content()["instances"]) == Contract(
        "883",
        actual="running",
        intended="running",
        current="running",
        next="running",
        message="success, running",
        host="192.0.2.45",
        ports={"22/tcp": 20000, "8000/tcp": 33526},
        price=350_000,
        storage=10_000,
        ends_at=2034617753.0,
    )


SCHEMA: dict[str, tuple[type, ...]] = {
    "id": (int,),
    "actual_status": (str, type(None)),
    "intended_status": (str,),
    "cur_state": (str,),
    "next_state": (str,),
    "status_msg": (str, type(None)),
    "label": (str, type(None)),
    "start_date": (int, float),
    "end_date": (int, float, type(None)),
    "uptime_mins": (int, float, type(None)),
    "public_ipaddr": (str,),
    "ports": (dict, list, type(None)),
    "dph_base": (int, float),
    "dph_total": (int, float),
    "storage_total_cost": (int, float),
    "is_bid": (bool,),
    "gpu_name": (str,),
    "disk_space": (int, float),
}
"""Of vast-ai/docs `show_instance.yaml` and `show_instances.yaml`, as of 2026-11: the fields that the emulator tells and
their types there."""
STATES = {"running", "stopped", "unloaded", "frozen"}
STATUSES = {None, "created", "loading", "running", "stopped", "frozen", "exited", "rebooting", "unknown", "offline"}


def test_the_emulators_contracts_have_the_published_shape() -> None:
    cloud = VastCloud()
    for now in range(60):
        if now == 5:
            cloud.handle("PUT", f"/api/v0/instances/{cloud.id}/", AUTH, b'{"state": "running"}', now)
        if now == 40:
            cloud.handle("PUT", f"/api/v0/instances/{cloud.id}/", AUTH, b'{"state": "stopped"}', now)
        one = json.loads(cloud.handle("GET", f"/api/v0/instances/{cloud.id}/?owner=me", AUTH, None, now).body)
        assert set(one) == {"instances"}
        listed = json.loads(cloud.handle("GET", "/api/v1/instances/?limit=25", AUTH, None, now).body)
        assert {"success", "instances_found", "total_instances", "next_token", "instances"} <= set(listed)
        assert listed["instances"] == [one["instances"]]
        row = one["instances"]
        for name, kinds in SCHEMA.items():
            assert isinstance(row[name], kinds), name
        assert {row["cur_state"], row["next_state"], row["intended_status"]} <= STATES
        assert row["actual_status"] in STATUSES
        assert row["ports"] is None or row["actual_status"] == "running"
    assert cloud.started == 1


@pytest.mark.parametrize("row", [None, [], "x", {}, {"id": None}, {"id": True}, {"id": 1.5}, {"id": ""}, {"id": [883]}])
def test_what_has_no_id_is_no_contract(row: object) -> None:
    assert read_contract(row) is None


WRONG: Sequence[Any] = (None, "x", True, [], {}, Decimal("NaN"), Decimal("-1"), Decimal("1e999"))


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        (part, wrong)
        for part in ("dph_total", "storage_total_cost", "end_date", "public_ipaddr", "ports", "uptime_mins")
        for wrong in WRONG
    ],
)
def test_a_part_that_is_not_what_it_should_be_is_as_good_as_not_there(part: str, wrong: Any) -> None:
    assert read_contract({"id": 1, part: wrong}) == Contract("1", "", "", "", "")


def test_a_state_that_is_no_text_is_one_that_nobody_knows() -> None:
    contract = read_contract({"id": 1, "actual_status": 7, "cur_state": None, "intended_status": " Running \n"})
    assert contract is not None
    assert (contract.actual, contract.current, contract.intended) == ("?", "", "running")


def test_prices_are_whole_micro_dollars_rounded_up() -> None:
    contract = read_contract({"id": 1, "dph_total": Decimal("1.0020740740740741")})
    assert contract is not None and contract.price == 1_002_075


@pytest.mark.parametrize(
    ("ports", "read"),
    [
        ({"8000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "33526"}]}, {"8000/tcp": 33526}),
        ({"8000/tcp": [{"HostIp": "::"}, {"HostPort": "33526"}, {"HostPort": "1"}]}, {"8000/tcp": 33526}),
        ({"8000/tcp": None, "22/tcp": []}, {}),
        ({"8000/tcp": [{"HostPort": "0"}]}, {}),
        ({"8000/tcp": [{"HostPort": "65536"}]}, {}),
        ({"8000/tcp": [{"HostPort": "33526/../"}]}, {}),
        ({"8000/tcp": [{"HostPort": "٣٣"}]}, {}),
        ({"8000/tcp": [{"HostPort": 33526}]}, {}),
        ([8080, 8081], {}),
        ("8000", {}),
        (None, {}),
    ],
)
def test_ports_are_read_in_dockers_form_only(ports: object, read: dict[str, int]) -> None:
    assert read_ports(ports) == read


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("63.135.50.11", "63.135.50.11"),
        (" 63.135.50.11 \n", "63.135.50.11"),
        ("2001:db8::1", "[2001:db8::1]"),
        ("0.0.0.0", ""),
        ("224.0.0.1", ""),
        ("evil.example.com", ""),
        ("63.135.50.11:80", ""),
        ("63.135.50.11/x", ""),
        ("", ""),
        (None, ""),
        (7, ""),
    ],
)
def test_only_an_ip_address_is_an_address(text: object, host: str) -> None:
    assert address(text) == host


def test_a_charge_is_read_with_its_disk_apart() -> None:
    items = [{"type": "gpu", "amount": Decimal("37.344")}, {"type": "disk", "amount": Decimal("1.077")}, "x"]
    row = {"source": "instance-12345678", "start": 1730419200, "end": 1730678400, "amount": Decimal("38.421")}
    assert read_charge({**row, "items": items}) == Charge("12345678", 1730419200, 1730678400, 38_421_000, 1_077_000)
    assert read_charge({**row, "items": None}) == Charge("12345678", 1730419200, 1730678400, 38_421_000, 0)


@pytest.mark.parametrize(
    "row", [None, {}, {"source": "volume-1", "start": 1, "end": 2, "amount": 3}, {"source": "instance-1", "start": 1}]
)
def test_what_is_no_instances_charge_is_none(row: object) -> None:
    assert read_charge(row) is None


# --- Calls


def test_the_vendor_has_two_versions_under_one_root() -> None:
    assert root_of("https://console.vast.ai/api/v0") == "https://console.vast.ai/api"
    assert root_of("https://console.vast.ai/api/v0/") == "https://console.vast.ai/api"
    assert root_of("https://console.vast.ai") == "https://console.vast.ai/api"
    assert root_of("http://127.0.0.1:8080/vast/api/v1") == "http://127.0.0.1:8080/vast/api"


def test_an_instance_that_is_not_there_is_none_in_either_form() -> None:
    async def whole() -> None:
        gone = said({"success": False, "error": "no_such_instance", "msg": "Instance not found"}, 404)
        for answer in (said({"instances": None}), gone, said({"instances": [{"id": 7}]})):
            vast, _ = api(answer)
            assert await vast.contract("883", Urgency.LOOK) is None

    run(whole())


@pytest.mark.parametrize("found", [{"id": 884}, {}, "x", 7])
def test_another_contract_than_the_one_that_was_asked_for_is_believed_nothing(found: object) -> None:
    async def whole() -> None:
        vast, _ = api(said({"instances": found}))
        with pytest.raises(VendorError) as refused:
            await vast.contract("883", Urgency.LOOK)
        assert refused.value.kind == "failing"

    run(whole())


def test_a_start_and_a_stop_are_wishes_for_a_state() -> None:
    async def whole() -> None:
        vast, played = api(said({"success": True}))
        await vast.start("883")
        await vast.stop("883")
        assert played.asked == [
            ("PUT", "/v0/instances/883/", b'{"state":"running"}'),
            ("PUT", "/v0/instances/883/", b'{"state":"stopped"}'),
        ]

    run(whole())


def test_an_id_stays_one_part_of_the_path() -> None:
    async def whole() -> None:
        vast, played = api(said({"success": True}))
        await vast.stop("../users?x=1")
        assert played.asked[0][1] == "/v0/instances/..%2Fusers%3Fx%3D1/"

    run(whole())


def test_a_list_is_read_to_its_last_page() -> None:
    async def whole() -> None:
        first = said({"instances": [{"id": 1}], "next_token": "abc=="})
        second = said({"instances": [{"id": 883}], "next_token": None})
        vast, played = api(first, second)
        assert [one.id for one in await vast.listed({"883", "7"}, Urgency.LOOK)] == ["883"]
        queries = [parse_qs(urlsplit(path).query) for _, path, _ in played.asked]
        assert json.loads(queries[0]["select_filters"][0]) == {"id": {"in": [7, 883]}}
        assert [query.get("after_token") for query in queries] == [None, ["abc=="]]

    run(whole())


@pytest.mark.parametrize(
    "answers",
    [
        [said({"instances": "x"})],
        [said({"instances": [], "next_token": ["x"]})],
        [said({"instances": [], "next_token": "x" * 5000})],
        [said({"instances": [], "next_token": "again"})],
        [said({"instances": [], "next_token": "again"}), said({"instances": None})],
    ],
)
def test_a_part_of_a_list_is_no_list(answers: Sequence[Answer]) -> None:
    async def whole() -> None:
        vast, played = api(*answers)
        with pytest.raises(VendorError):
            await vast.listed({"883"}, Urgency.LOOK)
        assert len(played.asked) <= PAGES

    run(whole())


@pytest.mark.parametrize("urgent", [Urgency.START, Urgency.STOP])
def test_whoever_has_patience_asks_again_after_too_often(urgent: Urgency) -> None:
    async def whole() -> None:
        vast, played = api(TOO_OFTEN, said({"success": True}))
        await (vast.start("883") if urgent is Urgency.START else vast.stop("883"))
        assert len(played.asked) == 2

    run(whole())


def test_a_look_has_none() -> None:
    async def whole() -> None:
        vast, played = api(TOO_OFTEN, said({"instances": None}))
        with pytest.raises(VendorError, match="limited"):
            await vast.contract("883", Urgency.LOOK)
        assert len(played.asked) == 1

    run(whole())


def test_a_start_that_was_not_answered_may_have_begun() -> None:
    async def whole() -> None:
        vast, played = api(Unanswered("no answer within 20 s", may_have_happened=True))
        with pytest.raises(VendorError) as refused:
            await vast.start("883")
        assert refused.value.may_have_happened
        assert len(played.asked) == 1

    run(whole())


def test_charges_are_asked_for_by_their_days() -> None:
    async def whole() -> None:
        cloud = VastCloud()
        vast = VastApi(Line(cloud.transport(lambda: 7200.0), judge=judge))
        assert [charge.contract for charge in await vast.charges(3600.0, 7200.0)] == ["883"]
        query = parse_qs(urlsplit(cloud.calls[-1][2]).query)
        assert json.loads(query["select_filters"][0]) == {
            "day": {"gte": 3600, "lte": 7200},
            "type": {"in": ["instance"]},
        }

    run(whole())
