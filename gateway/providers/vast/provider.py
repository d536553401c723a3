"""One instance at Vast.ai, in our words: what each of the vendor's states means, and where the instance answers.

It is started and stopped, never created or destroyed: what is on its disk is its owner's. What the states mean, and
what must not be believed at once (2026-11; nobody tried it with an account, so each figure is an argument):

1. `cur_state` says who has the GPU, `intended_status` what was wished for. Both stopped, and it costs nothing but its
   disk, whatever `actual_status` still says; a stopped one usually says `exited`.
2. Wished for and not given (`scheduling`) may last for ever, and may begin when nobody waits any more. So may a start
   that was refused with "state change queued". Both are stopped, after `scheduling` seconds and at once.
3. Right after a start the status may be the one from before. The same `exited` is believed after `scheduling` seconds;
   another one at once: a container that ended, or a machine that lost its line, will not come up.
4. People saw `loading` and `offline` told of machines that served. What has run once is not given up for a status
   alone: the instance itself is asked, too.
5. Each start has another public port. The address of an earlier run is somebody else's by now: for a minute after a
   start it is not believed even if the vendor says it, and no key is sent there.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address

from gateway.providers.base import Bill, Endpoint, Profile
from gateway.providers.renting.prices import Price, believed
from gateway.providers.renting.rented import Look, Offer, Phase, RentedProvider, Seen, Tempo
from gateway.providers.renting.vendor import Line, Transport, Urgency, VendorError
from gateway.providers.vast.api import MANNERS, Contract, VastApi, judge

log = logging.getLogger(__name__)

TEMPO = Tempo(booting=3.0, confirm=3.0)
HOURS = 744
"""Of the longest month: a disk's price by the hour, made one by the month, is never too low."""
PRICE_KEPT = 60.0
"""Seconds for which a price is not asked for again, whoever wants to know it."""
LAG = 60.0
"""Seconds after a start in which the address of the run before it is not believed."""
BETWEEN_LOOKS = 2.2
"""Seconds. The vendor's bound is 2 at one endpoint, and its clock is not ours."""
TOO_SHORT = 300.0
"""A contract that ends within so many seconds is not started any more."""
WARNED_AT = (3 * 86_400.0, 86_400.0, 3_600.0)
"""Seconds before a contract's end at which its owner is told: what is on the disk may be deleted after it."""

RUNNING, STOPPED, UNLOADED = "running", "stopped", "unloaded"
ENDED = frozenset({"exited", "stopped"})
CUT_OFF = frozenset({"unknown", "offline"})
UNFINISHED = frozenset({"running", "frozen", "rebooting"})
"""What a container may still be doing though its contract has ended."""
COMING = {
    "created": "its container is made",
    "loading": "its image is loaded",
    "rebooting": "it starts again",
    "running": "its port is not known yet",
}

NO_GPU = "The GPU of the instance at Vast is rented to somebody else."
HAS_ENDED = "The container at Vast has ended; its log there says why."
NO_LINE = "The machine at Vast has lost its connection."
FROZEN = "The instance at Vast was frozen."
TAKEN = "The vendor took the machine away."


async def nothing() -> None:
    """There is nothing to close."""


@dataclass(slots=True)
class Run:
    """What was seen since the last start, or since it was found running."""

    asked_at: float | None = None
    """Loop time of our start; None: it ran already."""
    before: str = ""
    """The container's state before that."""
    moved: bool = False
    """Another one was seen since: what is told now is of this run."""
    waiting_since: float | None = None
    """Since when it is wished for, and nothing comes of it."""
    portless_since: float | None = None
    refused: bool = False
    """The start was refused, and may be in a queue."""
    ran: bool = False
    place: tuple[str, int] | None = None


class Vast:
    """The vendor's verbs for one instance (renting/rented.py). All raise VendorError."""

    name = "vast"
    title = "Vast"

    def __init__(
        self,
        line: Line,
        instance: str,
        *,
        now: Callable[[], float],
        port: int = 8000,
        key: str | None = None,
        fingerprint: str | None = None,
        plain_http: bool = False,
        public_only: bool = True,
        hourly_price: int | None = None,
        scheduling: float = 40.0,
        between: float = BETWEEN_LOOKS,
        alarm: Callable[[str, str], None] = lambda kind, text: None,
        close: Callable[[], Awaitable[None]] = nothing,
    ) -> None:
        """`port`: inside of the instance. `fingerprint`: of the certificate that is served there; without one keys and
        prompts cross the internet in the clear, which `plain_http` has to allow. `public_only`: whether an address
        that the vendor tells must be a public one, since a key is sent there. `scheduling`: seconds; the vendor itself
        gives up hope after 30."""
        if fingerprint is None and not plain_http:
            raise ValueError("Vast's ports have no TLS: TLS_FINGERPRINT or ALLOW_PLAIN_HTTP is needed.")
        self.line = line
        self._api = VastApi(line)
        self._id = instance
        self._ids = {instance}
        """Ours: the one that is set, and others that the ledger knows of from before."""
        self._now = now
        self._port = port
        self._key = key
        self._fingerprint = fingerprint
        self._public_only = public_only
        self._hourly_price = hourly_price
        self._scheduling = scheduling
        self._between = between
        self._alarm = alarm
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._run = Run()
        self._old_place: tuple[str, int] | None = None
        """Where an earlier run answered."""
        self._storage: int | None = None
        self._priced: tuple[float, Price | None] | None = None
        self._looks_at = 0.0
        self._lists_at = 0.0
        """The earliest loop times of the next look at an instance, and at the list."""
        self._warned = len(WARNED_AT) * [False]
        self._strange: set[str] = set()

    def __repr__(self) -> str:
        return f"<Vast {self._id} {self._run!r}>"

    async def seen(self, instance: str, urgency: Urgency) -> Seen | None:
        contract = await self._look(instance, urgency)
        if instance != self._id:
            return None if contract is None else self._stranger(contract)
        if contract is not None and self._run.ran and urgency is Urgency.LOOK and not serves(contract):
            # One answer alone ends nothing that has served.
            contract = await self._look(instance, urgency)
        if contract is None:
            return None
        self._learn(contract)
        return self._read(contract)

    async def all(self, urgency: Urgency) -> Sequence[Seen]:
        """As the account's list has it, which is another answer than that of `seen`, and may be older."""
        await asyncio.sleep(max(0.0, self._lists_at - self._loop.time()))
        self._lists_at = self._loop.time() + self._between
        listed = await self._api.listed(self._ids, urgency)
        return [self._read(one) if one.id == self._id else self._stranger(one) for one in listed]

    async def offers(self) -> Sequence[Offer]:
        contract = await self._look(self._id, Urgency.START)
        if contract is None:
            raise VendorError("not_found", f"there is no instance {self._id}")
        self._keep(contract)
        if contract.ends_at is not None and contract.ends_at - self._now() < TOO_SHORT:
            raise VendorError("unprocessable", f"its contract ends {day(contract.ends_at)}")
        if contract.actual in CUT_OFF and contract.current != RUNNING:
            raise VendorError("capacity", f"its machine is {contract.actual}")
        return (Offer(f"Vast's {self._id}", self._price(contract), self._id, body=contract.actual),)

    async def take(self, offer: Offer, name: str) -> Seen:
        self._old_place = self._run.place or self._old_place
        self._run = Run(asked_at=self._loop.time(), before=str(offer.body))
        try:
            await self._api.start(self._id)
        except VendorError as error:
            if error.kind == "capacity":  # it may be in a queue, and begin when nobody waits any more
                self._run.refused = error.may_have_happened = True
            raise
        return Seen(self._id, Phase.BOOTING, price=offer.price, status="told to start")

    async def end(self, instance: str, tries: int) -> None:
        """Always a stop, however often: to destroy it would be to delete what is on its disk."""
        await self._api.stop(instance)

    async def bills(self, begins: float, ends: float) -> Sequence[Bill] | None:
        """The vendor's charges, month by month: GPU, disk and traffic. They lag, and are rounded to a tenth of a
        cent: no figure to lower anything by."""
        bills: list[Bill] = []
        for first, last in months(begins, ends):
            if bills:
                await asyncio.sleep(self._between)
            for charge in await self._api.charges(first, last):
                if charge.contract == self._id:
                    span = max(first, charge.begins), min(last, max(charge.ends, charge.begins))
                    bills.append(Bill(self._id, *span, charge.amount, charge.disk))
        return bills

    async def storage(self) -> int | None:
        if self._storage is None:
            contract = await self._look(self._id, Urgency.LOOK)
            if contract is None:
                return 0
            self._keep(contract)
        return self._storage if self._storage is None else self._storage * HOURS

    async def close(self) -> None:
        await self._close()

    def price_kept(self) -> Price | None:
        """The price, if it was heard a short while ago."""
        if self._priced is None or self._loop.time() - self._priced[0] >= PRICE_KEPT:
            return None
        return self._priced[1]

    # --- What was seen

    async def _look(self, instance: str, urgency: Urgency) -> Contract | None:
        """An instance by its id, no sooner than the vendor allows after the look before."""
        await asyncio.sleep(max(0.0, self._looks_at - self._loop.time()))
        self._looks_at = self._loop.time() + self._between
        self._ids.add(instance)
        return await self._api.contract(instance, urgency)

    def _learn(self, contract: Contract) -> None:
        """Only from looks at the instance itself: a list may be older."""
        run, now = self._run, self._loop.time()
        self._keep(contract)
        run.moved = run.moved or contract.actual != run.before
        run.ran = run.ran or serves(contract)
        waits = self._waits(contract)
        run.waiting_since = (now if run.waiting_since is None else run.waiting_since) if waits else None
        place = self._place(contract)
        lacks = place is None and bool(contract.ports) and serves(contract)
        run.portless_since = (now if run.portless_since is None else run.portless_since) if lacks else None
        if place is not None:
            run.place = place
        known = contract.actual in COMING or contract.actual in ENDED | CUT_OFF | {"frozen", ""}
        if not known and contract.actual not in self._strange and len(self._strange) < 16:
            self._strange.add(contract.actual)
            log.warning("Vast says %r of %s, which is not known here: it may cost", contract.actual, contract.id)

    def _keep(self, contract: Contract) -> None:
        """What is as true of one that sleeps."""
        if contract.storage is not None:
            self._storage = contract.storage
        self._priced = self._loop.time(), self._price(contract)
        if contract.ends_at is not None:
            self._warn(contract.ends_at)

    def _warn(self, ends_at: float) -> None:
        """Before a contract's end, once for each of the spans; one that was prolonged is warned of anew."""
        left = ends_at - self._now()
        due = [left <= span for span in WARNED_AT]
        if any(new and not old for new, old in zip(due, self._warned, strict=True)):
            says = "has ended" if left <= 0 else f"ends {day(ends_at)}"
            text = f"The contract of Vast's instance {self._id} {says}: it is stopped then, and may be deleted."
            log.warning("%s", text)
            self._alarm("contract_ends", text)
        self._warned = due

    def _price(self, contract: Contract) -> Price | None:
        return believed([(contract.price, "Vast's figure"), (self._hourly_price, "HOURLY_PRICE")])

    # --- What it means

    def _stranger(self, contract: Contract) -> Seen:
        """One of an earlier setting: it is only ever stopped."""
        phase = Phase.OVER if contract.current == UNLOADED else Phase.ASLEEP if sleeps(contract) else Phase.BOOTING
        return Seen(contract.id, phase, price=self._price(contract), status=f"{contract.actual}, {contract.current}")

    def _read(self, contract: Contract) -> Seen:
        actual = contract.actual
        ended = contract.ends_at is not None and contract.ends_at <= self._now()
        seen = Seen(
            contract.id,
            Phase.BOOTING,
            price=self._price(contract),
            status=f"{actual or 'null'}, {contract.current or '?'}{', its contract has ended' if ended else ''}",
            detail=COMING.get(actual, "the machine is asked for"),
            taken=self._run.ran and (ended or actual in CUT_OFF or contract.current == STOPPED),
        )
        if contract.current == UNLOADED:
            return replace(seen, phase=Phase.OVER)
        if sleeps(contract):
            return replace(seen, phase=Phase.ASLEEP)
        if serves(contract):
            return self._up(contract, seen)
        trouble = self._trouble(contract)
        if trouble is None:
            return seen
        lasting = trouble[0] == HAS_ENDED and not self._run.ran  # it would end again, and be paid for again
        return replace(seen, phase=Phase.USELESS, trouble=trouble[0], code=trouble[1], lasting=lasting)

    def _up(self, contract: Contract, seen: Seen) -> Seen:
        run, now = self._run, self._loop.time()
        up_for = None if contract.uptime is None else contract.uptime
        if run.portless_since is not None and now - run.portless_since >= self._scheduling:
            trouble = f"The instance at Vast has no public port for its port {self._port} (VAST_PORT)."
            return replace(seen, phase=Phase.USELESS, trouble=trouble, lasting=True)
        place = self._place(contract)
        young = run.asked_at is not None and now - run.asked_at < LAG
        if place is None or (young and place == self._old_place):
            return seen
        started_at = None if up_for is None else self._now() - up_for
        return replace(seen, phase=Phase.UP, endpoint=self._endpoint(place), started_at=started_at)

    def _trouble(self, contract: Contract) -> tuple[str, str] | None:
        """Why it costs, or may begin to, and will not serve: a sentence and a code. None: it may come yet."""
        run, actual = self._run, contract.actual
        if run.refused:
            return NO_GPU, "no_capacity"
        if self._waits(contract):
            if run.ran and contract.current == STOPPED:
                return TAKEN, "start_failed"
            if run.waiting_since is None or self._loop.time() - run.waiting_since < self._scheduling:
                return None
            if contract.current == RUNNING and actual in ENDED:
                return HAS_ENDED, "start_failed"
            return NO_GPU, "no_capacity"
        if actual in ENDED:
            return HAS_ENDED, "start_failed"
        if actual in CUT_OFF and not run.ran:
            return NO_LINE, "no_capacity"
        return (FROZEN, "start_failed") if actual == "frozen" else None

    def _waits(self, contract: Contract) -> bool:
        """Wished for, and nothing has come of it yet; or nothing has been heard of it since it was."""
        if sleeps(contract) or serves(contract):
            return False
        same = self._run.asked_at is not None and not self._run.moved and contract.actual == self._run.before
        return contract.actual == "" or contract.current == STOPPED or (same and contract.actual in ENDED | CUT_OFF)

    def _place(self, contract: Contract) -> tuple[str, int] | None:
        port = contract.ports.get(f"{self._port}/tcp")
        if not contract.host or port is None or (self._public_only and not is_public(contract.host)):
            return None
        return contract.host, port

    def _endpoint(self, place: tuple[str, int]) -> Endpoint:
        scheme = "http" if self._fingerprint is None else "https"
        return Endpoint(f"{scheme}://{place[0]}:{place[1]}", key=self._key, fingerprint=self._fingerprint)


class VastProvider(RentedProvider):
    """The provider `vast`."""

    name = "vast"

    def __init__(
        self,
        instance: str,
        *,
        transport: Transport,
        look: Look,
        now: Callable[[], float],
        port: int = 8000,
        key: str | None = None,
        fingerprint: str | None = None,
        plain_http: bool = False,
        public_only: bool = True,
        hourly_price: int | None = None,
        profile: Profile | None = None,
        tempo: Tempo = TEMPO,
        scheduling: float = 40.0,
        between: float = BETWEEN_LOOKS,
        alarm: Callable[[str, str], None] = lambda kind, text: None,
        heard: Callable[[str, str], None] = lambda op, outcome: None,
        close: Callable[[], Awaitable[None]] = nothing,
    ) -> None:
        """`transport` begins at `api.root_of(VAST_API_URL)`. `close`: gives back what it and the look hold."""
        self._vast = Vast(
            Line(transport, judge=judge, heard=heard, manners=MANNERS),
            instance,
            now=now,
            port=port,
            key=key,
            fingerprint=fingerprint,
            plain_http=plain_http,
            public_only=public_only,
            hourly_price=hourly_price,
            scheduling=scheduling,
            between=between,
            alarm=alarm,
            close=close,
        )
        super().__init__(self._vast, look=look, now=now, profile=profile, tempo=tempo, alarm=alarm)

    async def price(self) -> int | None:
        kept = self._vast.price_kept()
        return kept.amount if kept is not None else await super().price()

    def doubt(self, name: str) -> None:
        """Nothing is created at Vast, so there is nothing to search by name: each start looks at the one there is."""


def sleeps(contract: Contract) -> bool:
    """Nobody wishes it to run, nobody has its GPU, and nothing runs in it."""
    if RUNNING in (contract.intended, contract.next) or contract.actual in UNFINISHED:
        return False
    return contract.current == STOPPED or (not contract.current and contract.actual in ENDED)


def is_public(host: str) -> bool:
    return ip_address(host.strip("[]")).is_global


def serves(contract: Contract) -> bool:
    """Its container runs, and by right."""
    return contract.actual == RUNNING and contract.current in (RUNNING, "") and contract.intended in (RUNNING, "")


def months(begins: float, ends: float) -> list[tuple[float, float]]:
    """The span, cut where a month of UTC ends."""
    spans = []
    while begins < ends:
        at = datetime.fromtimestamp(begins, UTC)
        next_month = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC).timestamp()
        spans.append((begins, min(ends, next_month)))
        begins = next_month
    return spans


def day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("on %Y-%m-%d at %H:%M UTC")
