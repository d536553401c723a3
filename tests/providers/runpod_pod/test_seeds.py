"""Pods rented under faults that are drawn from a seed: whatever RunPod, the network and our own restarts do, there is
never a second pod, never one that costs without being written down, and in the end none.

A smaller world than tests/simulation: the provider alone, with whoever orders it about. A seed that fails is replayed
with `pytest tests/providers/runpod_pod/test_seeds.py -k 'seed-17'`.
"""

import asyncio
import random
from contextlib import suppress

import pytest

from gateway.providers.base import Gone, Instance, ProviderError, Ready
from gateway.providers.runpod_pod.provider import Spec
from tests.support.renting import SPEC, PodHouse
from tests.support.simulated import run


class Story:
    """One seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.house = PodHouse(pod=Spec.of(SPEC) if seed % 2 else "abc123")
        cloud = self.house.cloud
        if seed % 2 == 0:
            cloud.put_pod("abc123")
        cloud.lag = self.random.choice([0.0, 0.0, 20.0, 45.0]) if seed % 2 else 0.0
        cloud.stop_takes = self.random.choice([0.5, 5.0, 30.0])
        self.lossy = 0.0
        self.house.lost = self._lost
        self.over = False
        self.told: list[str] = []

    def _lost(self, method: str, path: str) -> str:
        if self.random.random() >= self.lossy:
            return ""
        lost = self.random.choice(["before", "gone", "after", "after"])
        self.say(f"{method} {path}: {lost}")
        return lost

    def say(self, text: str) -> None:
        self.told.append(f"{self.house.now():.1f} {text}")

    # --- What must always be so

    def check(self) -> None:
        cloud, notes = self.house.cloud, self.house.notes
        cloud.advance(self.house.now())
        running = cloud.running()
        assert len(running) <= 1, f"{running} run at once"
        if running:
            open_ = {said[1] for said in notes.said if said[0] == "intend"}
            open_ -= {said[1] for said in notes.said if said[0] in ("void", "end")}
            assert open_, f"{running} costs, and nothing is written down: {notes.said}"

    async def keep_checking(self) -> None:
        while not self.over:
            self.check()
            await asyncio.sleep(0.5)

    # --- What goes wrong

    async def trouble(self) -> None:
        cloud = self.house.cloud
        while not self.over:
            await asyncio.sleep(self.random.uniform(5, 200))
            kind = self.random.choice(
                ["lossy", "failing", "zero", "never", "deaf", "blind", "full", "taken", "lie", "limit", "heal", "dies"]
            )
            self.say(kind)
            match kind:
                case "lossy":
                    self.lossy = self.random.choice([0.1, 0.4])
                case "failing":
                    cloud.failing = self.random.randint(1, 6)
                case "zero":
                    cloud.zero_gpus = True
                case "never":
                    cloud.never_up = True
                case "deaf":
                    cloud.deaf = True
                case "blind":
                    cloud.blind = self.random.random() < 0.3
                case "full":
                    cloud.full |= {"NVIDIA L4"}
                case "dies":
                    cloud.dies = True
                case "limit":
                    cloud.limit = self.random.choice([2, 10])
                case "taken":
                    for pod in cloud.running():
                        ours = pod != "abc123"
                        cloud.take_away(pod, self.random.choice(["EXITED", "TERMINATED"]) if ours else "EXITED")
                case "lie":
                    await self.lie()
                case "heal":
                    self.heal()

    async def lie(self) -> None:
        """For a moment, so that one look at most is wrong."""
        cloud = self.house.cloud
        for pod in list(cloud.pods):
            cloud.lies[pod] = self.random.choice(["EXITED", "RUNNING", "ERROR"])
        await asyncio.sleep(1.5)
        cloud.lies.clear()

    def heal(self) -> None:
        cloud = self.house.cloud
        self.lossy, cloud.failing, cloud.limit = 0.0, 0, None
        cloud.zero_gpus = cloud.never_up = cloud.deaf = cloud.blind = cloud.dies = False
        cloud.full.clear()
        cloud.lies.clear()

    # --- Who orders it about

    async def lead(self) -> None:
        for number in range(1, 7):
            await self.once(number)
            await asyncio.sleep(self.random.uniform(0, 120))
            if self.random.random() < 0.3:
                await self.restart()

    async def once(self, number: int) -> None:
        start = asyncio.ensure_future(self.house.start(number))
        try:
            if self.random.random() < 0.2:
                await asyncio.sleep(self.random.uniform(0, 3))
                start.cancel()
            instance = await start
        except ProviderError as error:
            self.say(f"start {number}: {error.reason} {error.detail}")
            if error.instance is not None:
                await self.end(error.instance)
            return
        except asyncio.CancelledError:
            self.say(f"start {number} was cancelled before it began anything")
            return
        self.say(f"start {number}: {instance.id}")
        self.house.heard.clear()
        watch = self.house.watch(instance)
        patience = self.house.now() + self.random.uniform(30, 400)
        while self.house.now() < patience and not any(isinstance(news, Gone | Ready) for news in self.house.heard):
            await asyncio.sleep(1)
        await asyncio.sleep(self.random.uniform(0, 300))
        if not any(isinstance(news, Gone) for news in self.house.heard):
            await self.end(instance)
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        self.say(f"{number}: {self.house.heard[-1:]}")

    async def end(self, instance: Instance) -> None:
        while True:
            try:
                await self.house.provider.stop(instance, within=self.random.choice([5.0, 60.0]))
            except ProviderError as error:
                self.say(f"stop of {instance.id}: {error.reason}")
                self.house.cloud.deaf = self.house.cloud.deaf and self.random.random() < 0.8
                continue
            self.say(f"{instance.id} ended")
            return

    async def restart(self) -> None:
        """kill -9, and what the treasury does before the first start: what the books have open is ended."""
        self.say("restart")
        await self.house.close()
        self.house.provider = self.house.opened()
        await self.reconcile()

    async def reconcile(self) -> None:
        notes = self.house.notes
        for rental in list(notes.rentals):
            said = [one for one in notes.said if one[1] == rental.name]
            if not said or any(one[0] in ("void", "end") for one in said):
                continue
            known = [one[2] for one in said if one[0] == "know"]
            id = known[-1] if known else rental.instance or rental.name
            instance = Instance(id, "runpod-pod", self.house.nowhere, 0.0, name=rental.name)
            await self.end(instance)
            await notes.end(rental.name, "reconciled")

    async def tell(self) -> None:
        tasks = [asyncio.ensure_future(work) for work in (self.keep_checking(), self.trouble())]
        try:
            lead = asyncio.ensure_future(self.lead())
            done, _ = await asyncio.wait({lead, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await lead
            self.heal()
            tasks[1].cancel()
            await self.reconcile()
            await asyncio.sleep(300)
            self.check()
            assert not self.house.cloud.running(), "something still costs"
        finally:
            self.over = True
            for task in [*tasks, lead]:
                task.cancel()
            await asyncio.wait({*tasks, lead})
            await self.house.close()


SEEDS = (*range(8), 11, 163)
"""The last two find planted faults: an end that is believed after one look (AGREED = 1), and a create that is written
off after one empty list (EMPTIES = 0). 700 were tried when this was written."""


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed-{seed}")
def test_never_a_second_pod_and_none_that_is_not_written_down(seed: int) -> None:
    story: list[Story] = []

    async def told() -> None:
        story.append(Story(seed))
        await story[0].tell()

    try:
        run(told())
    except AssertionError as error:
        raise AssertionError(f"{error}\n" + "\n".join(story[0].told[-60:])) from error
