"""What real clients send passes, and arrives as it was sent: tests/captures holds a body per client and use.

`provenance` is `captured` (the real package sent it to a recording server) or `constructed` (written after the source
that `source` names). Adding a client is adding a file.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.proxy.checks import Rules, check, check_type
from gateway.proxy.dialects import DIALECTS

FOLDER = Path(__file__).parents[1] / "captures"
CAPTURES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


@pytest.mark.parametrize("capture", CAPTURES.values(), ids=CAPTURES)
def test_a_real_clients_body_passes_and_is_forwarded_as_it_was_sent(capture: dict[str, Any]) -> None:
    """Equal as parsed JSON, and in the order of its keys at every level."""
    check_type([capture["headers"]["content-type"]])
    sent = json.loads(capture["body"])
    checked = check(capture["body"].encode(), capture["path"], Rules())
    assert json.dumps(json.loads(checked.whole())) == json.dumps(sent)
    assert checked.facts.model == sent["model"]
    assert checked.facts.stream == bool(sent.get("stream"))
    renamed = json.loads(checked.with_model("served").whole())
    assert json.dumps(renamed) == json.dumps(sent | {"model": "served"})


@pytest.mark.parametrize("capture", CAPTURES.values(), ids=CAPTURES)
def test_a_capture_says_where_it_comes_from(capture: dict[str, Any]) -> None:
    assert capture["provenance"] in ("captured", "constructed")
    assert capture["client"]
    assert capture["version"]
    assert capture["source"]
    assert capture["path"] in DIALECTS


def test_the_clients_that_people_bring_are_all_here() -> None:
    clients = {capture["client"] for capture in CAPTURES.values()}
    assert clients >= {"open-webui", "sillytavern", "continue", "cline", "litellm", "langchain"}
