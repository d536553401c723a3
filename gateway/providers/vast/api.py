"""Vast.ai's API, as far as one contract needs it: look at it, start it, stop it, and what it has cost.

It knows the vendor and nothing of ours. A rented instance is a *contract* there. Where the shapes are odd, and what was
taken from where (2026-11; nobody ran it against an account):

1. `GET /v0/instances/{id}/` answers `{"instances": {one object}}`, and `{"instances": null}` when there is none
   (vast-cli `vastai/api/instances.py`, `show_instance`). The list is v1, in pages of 25 at most.
2. `ports` is docker's form, `{"8000/tcp": [{"HostIp": …, "HostPort": "33526"}]}`, and only there while it runs; one of
   the vendor's schemas says a list of numbers, which says nothing of where they lead.
3. A refusal may be a 200 with `"success": false`. One of them is *queued* all the same: a host without a free GPU says
   `resources_unavailable`, "state change queued", and may begin whenever the GPU is free: it must be stopped again.
4. A wrong key is a 401, 403 or 404, by the endpoint; `"error": "auth_error"` tells (`show_charges.yaml`).
5. Too often is a 429 in plain text without Retry-After, per endpoint and method: about 2 s for looks, 1 s for changes.
6. `dph_total` is the hourly price with the disk in it, and the same while it is stopped; `storage_total_cost` is the
   disk's part, per hour, which is paid as long as the contract exists.
7. Texts end in blanks and newlines ("10.2.0.1 \\n").
"""

import asyncio
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from gateway.providers.renting.vendor import (
    Answer,
    Kind,
    Line,
    Manners,
    Urgency,
    VendorError,
    judge_by_status,
    micros,
)

PAGE = 25
"""Contracts per page of the list; the vendor's own bound."""
CHARGES_PAGE = 500
PAGES = 40
"""After so many it is no list any more."""
TOKEN_MAX = 2000
BETWEEN_PAGES = 2.0
"""Seconds: the vendor's own bound for two looks at one place."""
MANNERS = Manners(limited=3.0)
"""It never says how long to wait; two seconds would do, if nobody else asks with the same key."""

ERRORS: dict[str, Kind] = {
    "auth_error": "key",
    "resources_unavailable": "capacity",
    "no_such_ask": "capacity",
    "no_such_instance": "not_found",
    "not_found": "not_found",
    "insufficient_credit": "balance",
    "missing_billing": "balance",
    "spend_rate_limit": "balance",
}
"""What the word in `error` means, whatever the status. Others go by the status."""
NO_CREDIT = "insufficient credit"
"""How the vendor says it in prose (`prepay_instance.yaml`)."""


@dataclass(frozen=True, slots=True)
class Contract:
    """One rented instance as the vendor tells it. A state that was null is empty."""

    id: str
    actual: str
    """The container: created, loading, running, stopped, frozen, exited, rebooting, unknown, offline, or empty."""
    intended: str
    """What was asked for last: running, stopped, frozen."""
    current: str
    """Who has the GPU: running (we), stopped, unloaded."""
    next: str
    message: str = field(default="", repr=False)
    host: str = ""
    """The public address; empty when it is none."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """"8000/tcp" to the public port. Empty unless it runs."""
    price: int | None = None
    """Micro-dollars per hour while it runs, its disk included."""
    storage: int | None = None
    """Micro-dollars per hour for its disk, running or not."""
    ends_at: float | None = None
    """Unix seconds at which the contract ends and it is stopped, never to start again."""
    uptime: float | None = None
    """Seconds since its container began. Often null."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What one contract cost in the span that was asked for. Whole micro-dollars, Unix seconds."""

    contract: str
    begins: float
    ends: float
    amount: int
    disk: int


def root_of(url: str) -> str:
    """The part of VAST_API_URL that stands before `/v0/…` and `/v1/…`: the vendor has both at once."""
    root = url.rstrip("/")
    if not urlsplit(root).path:
        return f"{root}/api"
    return root.removesuffix("/v0").removesuffix("/v1")


class VastApi:
    """One call each. All raise VendorError. The line's transport begins at `root_of(VAST_API_URL)`."""

    def __init__(self, line: Line) -> None:
        self.line = line

    def __repr__(self) -> str:
        return f"<VastApi {self.line!r}>"

    async def contract(self, id: str, urgency: Urgency) -> Contract | None:
        """None: the vendor says that there is none of this id (any more)."""
        try:
            content = await self._ask("GET", f"/v0/instances/{quote(id, safe='')}/?owner=me", urgency, "look")
        except VendorError as error:
            if error.kind == "not_found":
                return None
            raise
        found = content["instances"]
        if isinstance(found, list):  # as older answers had it, and the list still has
            found = next((each for each in found if isinstance(each, dict) and str(each.get("id")) == id), None)
        if found is None:
            return None
        contract = read_contract(found)
        if contract is None or contract.id != id:
            raise self.line.distrust("a contract that is none, or another one")
        return contract

    async def listed(self, ids: Collection[str], urgency: Urgency) -> list[Contract]:
        """Those of these ids that are in the account's list, all of which was read."""
        numbers = sorted(int(id) for id in ids if id.isdecimal())
        ask = {"limit": PAGE, "select_filters": compact({"id": {"in": numbers}})}
        rows = await self._rows("/v1/instances/", ask, "list", urgency)
        return [contract for row in rows if (contract := read_contract(row)) is not None and contract.id in ids]

    async def start(self, id: str) -> None:
        """With `capacity` the wish may be in a queue, and has to be taken back by a stop."""
        await self._ask("PUT", f"/v0/instances/{quote(id, safe='')}/", Urgency.START, "start", {"state": "running"})

    async def stop(self, id: str) -> None:
        """Ask for it; whether it stops is to be seen."""
        await self._ask("PUT", f"/v0/instances/{quote(id, safe='')}/", Urgency.STOP, "stop", {"state": "stopped"})

    async def charges(self, begins: float, ends: float) -> list[Charge]:
        """What instances cost from `begins` to `ends`, all of the account's. Whole days of UTC count [U]."""
        filters = {"day": {"gte": int(begins), "lte": int(ends)}, "type": {"in": ["instance"]}}
        ask = {"select_filters": compact(filters), "format": "table", "limit": CHARGES_PAGE, "latest_first": "false"}
        rows = await self._rows("/v0/charges/", ask, "bills", Urgency.LOOK)
        return [charge for row in rows if (charge := read_charge(row)) is not None]

    async def _rows(self, path: str, ask: Mapping[str, object], op: str, urgency: Urgency) -> list[Any]:
        """Of all pages: a part of a list is no list."""
        rows: list[Any] = []
        token: object = None
        for _ in range(PAGES):
            query = {**ask, "after_token": token} if token else ask
            content = await self._ask("GET", f"{path}?{urlencode(query)}", urgency, op)
            if not isinstance(content[ROWS[op]], list):
                break
            rows += content[ROWS[op]]
            token = content.get("next_token")
            if not token:
                return rows
            if not isinstance(token, str) or len(token) > TOKEN_MAX:
                break
            await asyncio.sleep(BETWEEN_PAGES)
        raise self.line.distrust("a list that is none, or has no end")

    async def _ask(self, method: str, path: str, urgency: Urgency, op: str, body: object = None) -> Any:
        """Whoever has patience asks once more after "too often": the vendor counts what others ask with this key, too,
        and wants no more than two seconds."""
        patience = {Urgency.STOP: 600.0, Urgency.LOOK: 0.0, Urgency.START: 30.0}[urgency]
        sent = None if body is None else compact(body).encode()
        try:
            answer = await self.line.ask(method, path, sent, urgency=urgency, patience=patience, op=op)
        except VendorError as error:
            if error.kind != "limited" or not patience:
                raise
            answer = await self.line.ask(method, path, sent, urgency=urgency, patience=patience, op=op)
        return answer.content()


# --- What an answer means


ROWS = {"look": "instances", "list": "instances", "bills": "results"}
"""What an answer to each question has to have; a change has to say that it was a success."""


def judge(op: str, answer: Answer) -> VendorError | None:
    """By the vendor's word where it has one, else by the status. A 200 may be a refusal, or nonsense."""
    content = answer.content()
    words = content if isinstance(content, dict) else {}
    by_status = judge_by_status(op, answer)
    error, message = str(words.get("error") or ""), str(words.get("msg") or words.get("message") or "")
    kind = ERRORS.get(error) or ("balance" if NO_CREDIT in message.lower() else None)
    if by_status is not None:
        if by_status.kind == "not_found" and kind is None:  # some router's 404: nobody said that the contract is gone
            return VendorError("failing", shown(answer), may_have_happened=True)
        if kind is None or by_status.kind in ("failing", "limited"):
            return VendorError(
                by_status.kind,
                shown(answer),
                retry_after=by_status.retry_after,
                may_have_happened=by_status.may_have_happened,
            )
        return VendorError(kind, shown(answer))
    if words.get("success") is False:
        return VendorError(kind or "unprocessable", shown(answer))
    needed = ROWS.get(op)
    if not words or (words.get("success") is not True if needed is None else needed not in words):
        return VendorError("failing", f"cannot be read: {shown(answer)}", may_have_happened=True)
    return None


def shown(answer: Answer) -> str:
    """A refusal's beginning. Never a contract's: that carries its environment, and tokens."""
    content = answer.content()
    if isinstance(content, dict):
        said = [str(content[name]) for name in ("error", "msg", "message") if content.get(name)]
        return f"{answer.status} {': '.join(said)[:300]}".strip()
    return f"{answer.status}, {len(answer.body)} bytes"


# --- Rows


def read_contract(row: object) -> Contract | None:
    """None: this is no contract at all. A part that is not what it should be is as good as not there."""
    if not isinstance(row, dict):
        return None
    id = row.get("id")
    if isinstance(id, bool) or not isinstance(id, int | str) or id == "":
        return None
    return Contract(
        str(id),
        actual=word(row.get("actual_status")),
        intended=word(row.get("intended_status")),
        current=word(row.get("cur_state")),
        next=word(row.get("next_state")),
        message=" ".join(str(row.get("status_msg") or "").split())[:300],
        host=address(row.get("public_ipaddr")),
        ports=read_ports(row.get("ports")),
        price=micros(row.get("dph_total")),
        storage=micros(row.get("storage_total_cost")),
        ends_at=moment(row.get("end_date")),
        uptime=None if (minutes := moment(row.get("uptime_mins"))) is None else minutes * 60,
    )


def read_ports(ports: object) -> dict[str, int]:
    found = {}
    for name, places in ports.items() if isinstance(ports, dict) else ():
        for place in places if isinstance(places, list) else ():
            port = place.get("HostPort") if isinstance(place, dict) else None
            if isinstance(port, str) and port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536:
                found[str(name)] = int(port)
                break
    return found


def read_charge(row: object) -> Charge | None:
    if not isinstance(row, dict):
        return None
    kind, _, id = str(row.get("source") or "").partition("-")
    begins, ends, amount = moment(row.get("start")), moment(row.get("end")), micros(row.get("amount"))
    if kind != "instance" or not id or begins is None or ends is None or amount is None:
        return None
    items = row.get("items")
    disk = sum(
        micros(item.get("amount")) or 0
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, dict) and item.get("type") == "disk"
    )
    return Charge(id, begins, ends, amount, min(disk, amount))


def word(state: object) -> str:
    """A state's name in lower case; empty for null. What is no text at all is a name that nobody knows."""
    if state is None:
        return ""
    return state.strip().lower()[:40] if isinstance(state, str) else "?"


def address(text: object) -> str:
    """A public IP address as it may stand in a URL. Empty: it is none, and nothing is ever sent there."""
    try:
        found = ip_address(text.strip()) if isinstance(text, str) else None
    except ValueError:
        found = None
    if found is None or found.is_unspecified or found.is_multicast:
        return ""
    return str(found) if found.version == 4 else f"[{found}]"


def moment(seconds: object) -> float | None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | Decimal):
        return None
    exact = Decimal(seconds)
    return float(exact) if exact.is_finite() and 0 < exact < 1 << 40 else None


def compact(content: object) -> str:
    return json.dumps(content, separators=(",", ":"))
