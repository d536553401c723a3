"""`PROVIDER=runpod-pod,vast`: several vendors as one provider. The next is tried when one has nothing or takes back.

Cheapest first where each vendor says its price, else in the order of the setting. Who failed lately comes last. What
runs belongs to the vendor that `Instance.provider` names, and orders go there.

Never two at once: before a start at one vendor every other has to say that nothing of ours runs with it. One that
cannot be asked says so too, if nothing was begun there since it last did; otherwise nothing is started anywhere.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TypeVar

from gateway.providers.base import (
    Bill,
    Endpoint,
    Gone,
    Instance,
    Intent,
    Journal,
    News,
    Profile,
    ProviderError,
    Ready,
    Renter,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

AVOIDED = 600.0
"""Seconds for which a vendor whose start failed, or who took an instance away, comes after the others."""
STOP_WITHIN = 60.0
"""Seconds that the stop of a failed start may take before the next vendor is tried."""
UNKNOWN_ELSEWHERE = "Another vendor cannot be asked whether something still runs there, so nothing is started."
RUNS_ELSEWHERE = "Something of ours still runs at another vendor; it is stopped first."


@dataclass(slots=True, eq=False)
class Known:
    """One vendor, and what is known of it."""

    renter: Renter
    clear: bool = False
    """It said that nothing of ours runs with it, and nothing was begun there since."""
    avoided_until: float = 0.0


class Several:
    """A Renter made of Renters."""

    def __init__(self, renters: Sequence[Renter], *, now: Callable[[], float] | None = None) -> None:
        """`now`: a clock that never goes back; the loop's when there is none."""
        self.name = ",".join(renter.name for renter in renters)
        self._known = {renter.name: Known(renter) for renter in renters}
        if len(self._known) < len(renters):
            raise ValueError(f"the same vendor twice: {self.name}")
        self._now = now or asyncio.get_running_loop().time
        self._last: Renter | None = None
        """Whose instance there is, or was last."""
        self._told_to_end = ""
        """The id of the instance that was ordered to stop: its end is no failure."""

    def __repr__(self) -> str:
        now = self._now()
        states = (
            f"{name}{' clear' if known.clear else ''}{' avoided' if known.avoided_until > now else ''}"
            for name, known in self._known.items()
        )
        return f"<Several {', '.join(states)}>"

    @property
    def renters(self) -> tuple[Renter, ...]:
        """In the order of the setting, for who has to go to each whatever the others say (`wakegate stop --all`)."""
        return tuple(known.renter for known in self._known.values())

    @property
    def profile(self) -> Profile:
        """Of the one that runs or ran last. Before: what all have in common."""
        if self._last is not None:
            return self._last.profile
        profiles = [renter.profile for renter in self.renters]
        first = profiles[0]
        return Profile(
            models=first.models if all(each.models == first.models for each in profiles) else (),
            routes=first.routes if all(each.routes == first.routes for each in profiles) else None,
            concurrency=first.concurrency if all(each.concurrency == first.concurrency for each in profiles) else None,
            engine=first.engine if all(each.engine == first.engine for each in profiles) else "",
            can_rest=all(each.can_rest for each in profiles),
            cuts_silence=any(each.cuts_silence for each in profiles),
        )

    async def start(self, intent: Intent, journal: Journal) -> Instance:
        """Where something of ours runs already it is taken over. Else each vendor in turn, until one has begun; what
        one left behind is stopped before the next is asked."""
        refusals: list[tuple[str, ProviderError]] = []
        self._told_to_end = ""
        running = await self._look_around()
        for known in sorted(await self._order(), key=lambda known: known not in running):
            renter = known.renter
            try:
                await self._nothing_elsewhere(renter.name)
            except ProviderError as error:
                if error.instance is not None:
                    raise
                refusals.append((renter.name, error))
                continue
            known.clear = False
            try:
                instance = await renter.start(intent, journal)
            except ProviderError as error:
                if was_cancelled():
                    raise
                if error.code != "insufficient_quota":
                    self._avoid(known)
                refusals.append((renter.name, error))
                await self._end_what_is_left(renter, error)
                log.info("%s could not start: %s", renter.name, error.reason)
            else:
                self._last = renter
                return instance
        raise the_refusal(refusals)

    async def watch(self, instance: Instance) -> AsyncIterator[News]:
        """As its vendor tells it. One that is lost before it was asked to end puts its vendor behind the others."""
        known = self._known.get(instance.provider)
        if known is None:
            yield Gone(f"No vendor {instance.provider} is known here.")
            return
        async for news in known.renter.watch(instance):
            if isinstance(news, Ready):
                known.avoided_until = 0.0
            elif isinstance(news, Gone) and instance.id != self._told_to_end:
                self._avoid(known)
                news = self._hopeful(news)
            yield news

    async def rest(self, instance: Instance) -> None:
        await self._whose(instance).rest(instance)

    async def wake(self, instance: Instance) -> None:
        await self._whose(instance).wake(instance)

    async def stop(self, instance: Instance, *, within: float) -> None:
        self._told_to_end = instance.id
        await self._whose(instance).stop(instance, within=within)

    async def list(self) -> list[Instance]:
        """Of all of them. Raises ProviderError when one of them cannot be asked; `instance` is then one that was found
        with another, so that it is not forgotten."""
        found: list[Instance] = []
        failed: list[ProviderError] = []
        for known, answer in await self._ask_all(lambda renter: renter.list()):
            if isinstance(answer, ProviderError):
                failed.append(answer)
            else:
                known.clear = not answer
                found += answer
        if failed:
            first = failed[0]
            raise ProviderError(
                first.reason, instance=found[0] if found else None, code=first.code, detail=first.detail
            ) from first
        return found

    async def price(self) -> int | None:
        """The cheapest that says one: it is asked first, or when the others have nothing."""
        known = [answer for _, answer in await self._prices() if answer is not None]
        return min(known) if known else None

    async def bills(self, begins: float, ends: float) -> Sequence[Bill] | None:
        """Of all that have records; None when none has. Raises ProviderError when one of them cannot be asked."""
        bills: list[Bill] = []
        any_records = False
        for _, answer in await self._ask_all(lambda renter: renter.bills(begins, ends)):
            if isinstance(answer, ProviderError):
                raise answer
            if answer is not None:
                any_records = True
                bills += answer
        return bills if any_records else None

    async def storage(self) -> int | None:
        """Of all together; None as long as one of them cannot say."""
        total = 0
        for _, answer in await self._ask_all(lambda renter: renter.storage()):
            if answer is None or isinstance(answer, ProviderError):
                return None
            total += answer
        return total

    async def close(self) -> None:
        async with AsyncExitStack() as stack:
            for renter in self.renters:
                stack.push_async_callback(renter.close)

    # --- Beyond the contract, as renting/rented.py has it

    def suspect(self, instance: Instance) -> None:
        """A connection to it broke: its vendor is asked now, not in a minute."""
        known = self._known.get(instance.provider)
        ask = getattr(known.renter, "suspect", None) if known is not None else None
        if ask is not None:
            ask(instance)

    def whereabouts(self, instance: Instance) -> tuple[str, Endpoint] | None:
        """Its vendor's id, and where it answers by now, also before it serves. None: nobody knows."""
        known = self._known.get(instance.provider)
        ask = getattr(known.renter, "whereabouts", None) if known is not None else None
        found: tuple[str, Endpoint] | None = ask(instance) if ask is not None else None
        return found

    def heed(self, costs: Callable[[], bool]) -> None:
        """Whether something may cost money, wherever it is."""
        for renter in self.renters:
            listens = getattr(renter, "heed", None)
            if listens is not None:
                listens(costs)

    def doubt(self, name: str) -> None:
        """Nobody knows what came of this rental: whoever creates by name searches for it before the next start."""
        for renter in self.renters:
            search = getattr(renter, "doubt", None)
            if search is not None:
                search(name)

    # --- Which, and whether at all

    async def _order(self) -> Sequence[Known]:
        prices = await self._prices()
        order = [known for known, _ in prices]
        if all(price is not None for _, price in prices):
            order = [known for known, _ in sorted(prices, key=lambda priced: priced[1] or 0)]
        now = self._now()
        return sorted(order, key=lambda known: known.avoided_until > now)

    async def _prices(self) -> Sequence[tuple[Known, int | None]]:
        """None also where the vendor could not be asked, and where it says 0: nobody gives a GPU away."""
        answers = await self._ask_all(lambda renter: renter.price())
        return [(known, None if isinstance(answer, ProviderError) else answer or None) for known, answer in answers]

    async def _look_around(self) -> Sequence[Known]:
        """Those who have something of ours running. One that cannot be asked stays what it was."""
        running = []
        for known, answer in await self._ask_all(lambda renter: renter.list()):
            if not isinstance(answer, ProviderError):
                known.clear = not answer
                if answer:
                    running.append(known)
        return running

    async def _nothing_elsewhere(self, name: str) -> None:
        """Raises ProviderError unless each of the others has nothing of ours running, as far as it can be known."""
        for other in self._known.values():
            if other.renter.name == name or other.clear:
                continue
            try:
                found = await other.renter.list()
            except ProviderError as error:
                detail = f"{other.renter.name}: {error.detail or error.reason}"
                raise ProviderError(UNKNOWN_ELSEWHERE, code=error.code, detail=detail) from error
            if found:
                raise ProviderError(RUNS_ELSEWHERE, instance=found[0], detail=f"{found[0].id} at {other.renter.name}")
            other.clear = True

    async def _end_what_is_left(self, renter: Renter, error: ProviderError) -> None:
        """Raises the error itself, with the instance in it, when its end cannot be confirmed."""
        if error.instance is None:
            return
        try:
            await renter.stop(error.instance, within=STOP_WITHIN)
        except (ProviderError, asyncio.CancelledError):
            raise error from None
        error.instance = None

    def _hopeful(self, gone: Gone) -> Gone:
        """Of one vendor's end, what is true of all: as long as another is left to be tried, callers are held for it."""
        if all(known.avoided_until > self._now() for known in self._known.values()):
            return gone
        return replace(gone, lasting=False, code="start_failed" if gone.code == "no_capacity" else gone.code)

    def _avoid(self, known: Known) -> None:
        known.avoided_until = self._now() + AVOIDED

    def _whose(self, instance: Instance) -> Renter:
        known = self._known.get(instance.provider)
        if known is None:
            raise ProviderError("It belongs to a vendor that is not in PROVIDER.", lasting=True, instance=instance)
        return known.renter

    async def _ask_all(self, ask: Callable[[Renter], Awaitable[T]]) -> Sequence[tuple[Known, T | ProviderError]]:
        """All at once; each vendor with its answer, or with why there is none, in the order of the setting."""

        async def one(known: Known) -> tuple[Known, T | ProviderError]:
            try:
                return known, await ask(known.renter)
            except ProviderError as error:
                return known, error

        return await asyncio.gather(*(one(known) for known in self._known.values()))


def was_cancelled() -> bool:
    """Whether the task that runs this is being cancelled: what comes back then is an end, not a reason to go on."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def the_refusal(refusals: Sequence[tuple[str, ProviderError]]) -> ProviderError:
    """What the caller is told when no vendor could start: the most hopeful of the refusals, all in its detail."""

    def hope(refusal: tuple[str, ProviderError]) -> int:
        _, error = refusal
        if error.code == "no_capacity":
            return 0
        return 3 if error.lasting else 2 if error.code == "insufficient_quota" else 1

    _, best = min(refusals, key=hope)
    said = "; ".join(f"{name}: {error.detail or error.reason}" for name, error in refusals)
    return ProviderError(best.reason, code=best.code, detail=said, lasting=all(error.lasting for _, error in refusals))
