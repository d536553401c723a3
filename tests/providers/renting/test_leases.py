"""The controller's side of the lease: when it is sent, for how long, and whose report is believed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest

from gateway.policy.lease import HEADER, PATH, DeadMan, Lease, Report, is_signed, key_from, signature
from gateway.providers.base import Endpoint
from gateway.providers.renting.leases import EVERY, SELDOM, SOON, Lessor, Posted, Told, by
from tests.support.simulated import BEGIN, in_simulated_time, until

KEY = "the-key-of-the-worker"
HERE = Endpoint("https://pod1-8000.proxy.runpod.example", key=KEY)
WALL = 1_795_000_000


class Worker:
    """What answers there: a WakeGate with a lease of its own, unless a test says else."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.man = DeadMan("pod1", after=1800, now=self._loop.time())
        self.leases: list[tuple[float, Lease]] = []
        self.says: Callable[[bytes, str], Posted] = self.report
        self.key = "key works"
        self.told: list[Told] = []
        self.ends_at: float | None = None
        """Seconds since the beginning at which it must end."""
        self.put_back = 0.0
        self.lessor = Lessor(
            self._post,
            wall=lambda: WALL + self.time - self.put_back,
            ends_in=lambda instance: None if self.ends_at is None else self.ends_at - self.time,
            on_told=self.told.append,
        )

    @property
    def time(self) -> float:
        return self._loop.time() - BEGIN

    async def _post(self, endpoint: Endpoint, said: bytes, signed: str, within: float) -> Posted:
        assert endpoint == HERE and is_signed(key_from(KEY), said, signed)
        self.leases.append((round(self.time), Lease.read(said)))
        return self.says(said, signed)

    def report(self, said: bytes, signed: str) -> Posted:
        refused = self.man.take(Lease.read(said), now=self._loop.time(), wall=WALL + self.time)
        report = Report(self.man.counter, 0, 2, 0, "armed", self.key, refused).spell()
        return Posted(409 if refused else 200, report, signature(key_from(KEY), report, of=signed))

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator["Worker"]:
        keeping = asyncio.create_task(self.lessor.keep(lambda: ("pod1", HERE)))
        try:
            yield self
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})


@in_simulated_time
async def test_a_lease_goes_out_each_half_minute_and_the_worker_lives() -> None:
    async with Worker().kept() as worker:
        await asyncio.sleep(3600)
        assert [at for at, _ in worker.leases[:4]] == [0, EVERY, 2 * EVERY, 3 * EVERY]
        counters = [lease.counter for _, lease in worker.leases]
        assert counters == sorted(set(counters))
        assert worker.man.why(busy=False, now=BEGIN + worker.time) == ""


@in_simulated_time
async def test_no_lease_ends_later_than_the_money_does() -> None:
    async with Worker().kept() as worker:
        worker.ends_at = 1000
        await asyncio.sleep(1200)
        assert all(at + lease.seconds <= 1000 and lease.until <= WALL + 1000 for at, lease in worker.leases)
        assert worker.leases[-1][1].seconds <= EVERY, "the last ones are short"
        assert worker.man.why(busy=True, now=BEGIN + 1000) != ""


@in_simulated_time
async def test_what_did_not_arrive_is_sent_again_soon() -> None:
    async with Worker().kept() as worker:
        worker.says = lambda said, signed: Posted(0, trouble="timeout")
        await asyncio.sleep(4 * SOON + 1)
        assert [at for at, _ in worker.leases] == [0, SOON, 2 * SOON, 3 * SOON, 4 * SOON]
        assert [told.trouble for told in worker.told] == ["timeout"], "told once"
        worker.says = worker.report
        await asyncio.sleep(SOON)
        assert worker.told[-1].report is not None and worker.told[-1].can_stop_itself is True


@pytest.mark.parametrize(
    ("answer", "trouble", "pause"),
    [
        (Posted(404, b'{"detail": "Not Found"}'), "knows no leases", SELDOM),
        (Posted(404, b"<html>"), "status 404", SOON),
        (Posted(502, b"<html>"), "status 502", SOON),
        (Posted(401, b"{}"), "another key", SOON),
        (Posted(200, Report(1, 300, 0, 0, "armed", "key works").spell(), "0" * 64), "without a signature", SOON),
        (Posted(200, Report(1, 300, 0, 0, "armed", "key works").spell()), "without a signature", SOON),
    ],
)
@in_simulated_time
async def test_what_is_no_report_of_the_workers_is_believed_nothing(answer: Posted, trouble: str, pause: float) -> None:
    """A vendor's proxy, another program, somebody in between who has no key."""
    async with Worker().kept() as worker:
        worker.says = lambda said, signed: answer
        await asyncio.sleep(pause + 1)
        assert [at for at, _ in worker.leases] == list(range(0, int(pause) + 1, int(pause)))
        told = worker.lessor.told("pod1")
        assert told is not None and told.report is None and trouble in told.trouble
        assert told.is_worker is (pause == SOON) and told.can_stop_itself is None


@in_simulated_time
async def test_a_report_on_another_lease_is_none() -> None:
    """Somebody in between who kept it, and has no key."""
    async with Worker().kept() as worker:
        kept: list[Posted] = []

        def repeated(said: bytes, signed: str) -> Posted:
            kept.append(worker.report(said, signed))
            return kept[0]

        worker.says = repeated
        await asyncio.sleep(EVERY + 1)
        told = worker.lessor.told("pod1")
        assert len(kept) > 1 and told is not None and told.report is None


@in_simulated_time
async def test_a_clock_that_was_put_back_is_caught_up_with() -> None:
    """So is a controller on another machine, whose clock is behind that of the one before it."""
    async with Worker().kept() as worker:
        await asyncio.sleep(EVERY / 2)
        successor = Lessor(worker._post, wall=lambda: WALL + worker.time - 100)
        told = await successor.send("pod1", HERE)
        assert told is not None and told.report is not None and told.report.refused == ""
        assert len(worker.leases) == 3, "the second try had a later counter"


@in_simulated_time
async def test_what_the_worker_says_of_itself_is_told_when_it_changes() -> None:
    async with Worker().kept() as worker:
        await asyncio.sleep(10 * EVERY)
        worker.key = "key refused: 403"
        await asyncio.sleep(10 * EVERY)
        assert [told.can_stop_itself for told in worker.told] == [True, False]


@in_simulated_time
async def test_nothing_is_sent_while_it_is_nowhere_or_without_a_key() -> None:
    worker = Worker()
    assert await worker.lessor.send("pod1", Endpoint("https://pod1.example")) is None
    found: list[tuple[str, Endpoint]] = []
    keeping = asyncio.create_task(worker.lessor.keep(lambda: found[0] if found else None))
    await asyncio.sleep(600)
    assert worker.leases == []
    found.append(("pod1", HERE))
    await until(lambda: worker.leases)
    keeping.cancel()
    await asyncio.wait({keeping})


@in_simulated_time
async def test_whoever_leaves_it_to_a_successor_sends_a_long_one_that_ends_with_the_money_all_the_same() -> None:
    worker = Worker()
    await worker.lessor.leave(lambda: ("pod1", HERE))
    worker.ends_at = 500.0
    await worker.lessor.leave(lambda: ("pod1", HERE))
    assert [lease.seconds for _, lease in worker.leases] == [900, 490]


@in_simulated_time
async def test_after_the_long_one_no_short_one_follows_while_it_drains() -> None:
    """The newest counts."""
    async with Worker().kept() as worker:
        await asyncio.sleep(EVERY / 2)
        await worker.lessor.leave(lambda: ("pod1", HERE))
        await asyncio.sleep(EVERY)
        assert [lease.seconds for _, lease in worker.leases] == [300, 900, 900]


async def test_over_http_it_sends_a_signature_and_no_key() -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heard.append(head + await reader.readexactly(4))
        writer.write(
            b"HTTP/1.1 307 x\r\nLocation: /elsewhere\r\nContent-Length: 2\r\n%s: abc\r\n\r\n{}" % HEADER.encode()
        )
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as session:
        posted = await by(session)(Endpoint(f"http://127.0.0.1:{port}", key=KEY), b"said", "signed", 30)
        assert posted == Posted(307, b"{}", "abc")
        server.close()
        await server.wait_closed()
        gone = await by(session)(Endpoint(f"http://127.0.0.1:{port}", key=KEY), b"said", "signed", 30)
    assert gone.status == 0 and gone.trouble.startswith("no answer")
    assert heard[0].startswith(f"POST {PATH} HTTP/1.1".encode()) and heard[0].endswith(b"said")
    assert KEY.encode() not in heard[0]
