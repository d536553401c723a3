"""The rules from the gateway's last word to a probe's code, each as a row."""

import json

import pytest

from health.status import FRESH, MODES, Status, StatusFile, live_code, parse, ping_code, ready_code

NOW = 1000.0


def said(state="ready", *, age=0.5, mode="strict", listening=True, ever_ready=True, draining=False) -> Status:
    return Status(NOW - age, state, mode, listening, ever_ready, draining)


FIRST_START = said("starting", ever_ready=False)
NOT_LISTENING = said("starting", ever_ready=False, listening=False)
STALE = said(age=FRESH + 0.1)
DRAINING = said("draining", draining=True)

ROWS = [
    # what was said last                        strict hold always  livez
    ("nothing yet", None, 204, 204, 200, 200),
    ("not listening yet", NOT_LISTENING, 204, 204, 200, 200),
    ("not listening, nothing ordered yet", said("stopped", ever_ready=False, listening=False), 204, 204, 200, 200),
    ("first start under way", FIRST_START, 204, 200, 200, 200),
    ("ready", said(), 200, 200, 200, 200),
    ("stopped after idleness", said("stopped"), 200, 200, 200, 200),
    ("stopped, never started: waits for a request", said("stopped", ever_ready=False), 200, 200, 200, 200),
    ("asleep", said("asleep"), 200, 200, 200, 200),
    ("stopping", said("stopping"), 200, 200, 200, 200),
    ("starting again", said("starting"), 200, 200, 200, 200),
    ("failed at the first start", said("failed", ever_ready=False), 503, 200, 200, 200),
    ("failed later", said("failed"), 503, 200, 200, 200),
    ("draining by its flag", said(draining=True), 503, 503, 200, 200),
    ("draining by its state", said("draining"), 503, 503, 200, 200),
    ("draining during the first start", said("starting", ever_ready=False, draining=True), 503, 503, 200, 200),
    ("silent for just under ten seconds", said(age=FRESH - 0.1), 200, 200, 200, 200),
    ("silent for longer", STALE, 503, 503, 200, 503),
    ("silent during the first start", said("starting", age=11, ever_ready=False), 503, 503, 200, 503),
    ("from a future that a restored snapshot brought", said(age=-3600), 503, 503, 200, 503),
]


@pytest.mark.parametrize(
    ("status", "strict", "hold", "always", "live"), [pytest.param(*row[1:], id=row[0]) for row in ROWS]
)
def test_each_word_has_its_code_in_each_mode(status, strict, hold, always, live):
    assert ping_code("strict", status, NOW) == strict
    assert ping_code("hold", status, NOW) == hold
    assert ping_code("always", status, NOW) == always
    assert live_code(status, NOW) == live


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("status", [row[1] for row in ROWS], ids=[row[0] for row in ROWS])
def test_readyz_is_200_exactly_when_ping_is(mode, status):
    expected = 200 if ping_code(mode, status, NOW) == 200 else 503
    assert ready_code(mode, status, NOW) == expected


def test_auto_is_strict_until_the_gateway_has_chosen():
    assert ping_code("auto", None, NOW) == 204
    assert ping_code("auto", said("starting", ever_ready=False, mode="strict"), NOW) == 204
    assert ping_code("auto", said("starting", ever_ready=False, mode="hold"), NOW) == 200


def test_a_mode_that_the_operator_set_wins_over_the_gateways():
    assert ping_code("strict", said("starting", ever_ready=False, mode="hold"), NOW) == 204


def document(boot="this", **changes) -> dict:
    return {
        "boot": boot,
        "at": NOW,
        "state": "ready",
        "mode": "hold",
        "listening": True,
        "ever_ready": True,
        "draining": False,
    } | changes


def test_a_status_of_this_boot_is_read_whole():
    status = parse(json.dumps(document()).encode(), "this")
    assert repr(status) == "<Status ready hold at=1000.000 listening ever_ready>"


def test_a_status_of_another_boot_is_no_status():
    assert parse(json.dumps(document(boot="other")).encode(), "this") is None


def test_unknown_fields_of_a_newer_gateway_do_no_harm():
    assert parse(json.dumps(document(progress=0.4, upstreams=[])).encode(), "this") is not None


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"boot": "this"}', json.dumps(document(at=None)).encode()],
    ids=["empty", "cut", "list", "null", "not text", "fields missing", "wrong type"],
)
def test_what_is_not_a_status_is_a_value_error(data):
    with pytest.raises(ValueError):
        parse(data, "this")


def test_the_file_is_parsed_once_per_version(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    path.write_text(json.dumps(document()))
    file = StatusFile(str(path), "this")
    first = file.read()
    assert first is not None
    assert file.read() is first
    replace(path, document(state="asleep"))
    assert file.read().state == "asleep"


def test_a_file_that_is_missing_or_broken_leaves_the_last_word_to_age(tmp_path):
    path = tmp_path / "status.json"
    file = StatusFile(str(path), "this")
    assert file.read() is None
    replace(path, document())
    assert file.read().state == "ready"
    path.write_text("{")
    assert file.read().state == "ready"
    path.unlink()
    assert file.read().state == "ready"


def replace(path, content) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(content))
    fresh.rename(path)
