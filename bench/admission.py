"""What a request pays for its place: let in, waited for, given back. All of it stands in the way of every answer.

    python bench/admission.py [--quick]

Prints microseconds of CPU per request, all told: the verdict, the wait that is none, the slot's return, and whoever is
told of it. Beside others in flight or in line it must cost the same: nothing is walked through for each request.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import uvloop

from gateway.conductor import Conductor, Limits, Ticket
from gateway.policy.admission import Admission
from gateway.policy.admission import Limits as AdmissionLimits
from gateway.policy.lifecycle.machine import Lifecycle, LifecycleSettings
from gateway.policy.lifecycle.states import State
from gateway.providers.base import Endpoint, Instance, Intent, Journal, News, Profile, Ready
from gateway.records.boot_log import BootLog
from gateway.records.metrics import Metrics
from gateway.telling import Telling

Work = Callable[[Conductor, int, int], Awaitable[float]]

OTHERS = (0, 50, 1000)
ROOMY, NARROW = 1 << 20, 1
"""Slots: of an upstream that has one for everybody, and of one that has a line."""


class AtOnce:
    """A provider whose one instance is ready when it is asked for, and stays so."""

    name = "at-once"
    profile = Profile(models=("m",))

    async def start(self, intent: Intent, journal: Journal) -> Instance:
        return Instance("i", self.name, Endpoint("http://127.0.0.1:1"), 0.0)

    async def watch(self, instance: Instance) -> AsyncIterator[News]:
        yield Ready()
        await asyncio.get_running_loop().create_future()

    async def rest(self, instance: Instance) -> None: ...

    async def wake(self, instance: Instance) -> None: ...

    async def stop(self, instance: Instance, *, within: float) -> None: ...

    async def list(self) -> list[Instance]:
        return []

    async def price(self) -> int | None:
        return 0

    async def close(self) -> None: ...


async def ready(folder: Path, slots: int) -> Conductor:
    """One as the gateway builds it, with all that is told of its changes."""
    loop = asyncio.get_running_loop()
    telling = Telling(
        metrics=Metrics(models=["m"]),
        boot_log=BootLog(folder, "bench", redact=str),
        clock=loop.time,
        on_state=lambda: None,
        on_ready=lambda snapshot, seconds: None,
    )
    conductor = Conductor(
        "default",
        AtOnce(),
        Lifecycle(LifecycleSettings(), now=loop.time()),
        Admission(AdmissionLimits(concurrency=slots, max_queue_size=ROOMY)),
        limits=Limits(stop_within=1.0, drain_reserve=1.0),
        on_change=telling.changed,
    )
    conductor.wake()
    while conductor.state is not State.READY:
        await asyncio.sleep(0)
    return conductor


def admit(conductor: Conductor, number: int) -> Ticket:
    verdict = conductor.admit(f"req_{number}.0", size=1000, patience=60.0)
    assert isinstance(verdict, Ticket), verdict
    return verdict


async def past_others_in_flight(conductor: Conductor, others: int, requests: int) -> float:
    """Seconds of CPU for so many requests that find a slot, one after the other."""
    here = [admit(conductor, -1 - number) for number in range(others)]
    names = [f"req_{number}.0" for number in range(requests)]  # in the gateway it is there anyhow
    began = time.process_time()
    for name in names:
        verdict = conductor.admit(name, size=1000, patience=60.0)
        assert isinstance(verdict, Ticket)
        with verdict as ticket:
            await ticket.wait(60.0)
    took = time.process_time() - began
    for ticket in here:
        conductor.give_back(ticket)
    return took


async def through_the_line(conductor: Conductor, others: int, requests: int) -> float:
    """Seconds of CPU for so many requests that each join the end of a line, while its head moves on."""
    here = [admit(conductor, -1 - number) for number in range(others + 1)]
    began = time.process_time()
    for number in range(requests):
        here.append(admit(conductor, number))
        conductor.give_back(here[number])
        await here[number + 1].wait(60.0)
    took = time.process_time() - began
    for ticket in here[requests:]:
        conductor.give_back(ticket)
    return took


async def best(folder: Path, slots: int, work: Work, others: int, requests: int) -> float:
    """Microseconds of CPU per request, the best of five rounds: the machine may be busy with others."""
    conductor = await ready(folder, slots)
    rounds = [await work(conductor, others, requests) for _ in range(5)]
    await conductor.close()
    return min(rounds) / requests * 1e6


async def measure(requests: int) -> None:
    print(f"{'µs of CPU per request':<32}" + "".join(f"{others:>8} others" for others in OTHERS))
    with tempfile.TemporaryDirectory() as name:
        for what, slots, work in (
            ("a slot is free", ROOMY, past_others_in_flight),
            ("through the line", NARROW, through_the_line),
        ):
            found = [await best(Path(name), slots, work, others, requests) for others in OTHERS]
            print(f"{what:<32}" + "".join(f"{each:>15.2f}" for each in found))


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--quick", action="store_true", help="a tenth of the requests")
    requests = 2_000 if words.parse_args().quick else 20_000
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(requests))


if __name__ == "__main__":
    main()
