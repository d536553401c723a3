"""What may be ordered besides requests: wake, sleep, keep warm, stop; and what is told of the upstream then.

One owner for all ways there: `POST /wake` and `/admin/*` (admin.py), and the command line's socket
(control_socket.py). Orders are said once on the console, with who gave them: they may cost money. Nothing is ordered
that a request would be refused: without a budget there is no wake.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

from gateway.conductor import Conductor
from gateway.errors import Refused, refuse
from gateway.kinds import spell_duration
from gateway.policy.lifecycle.states import State
from gateway.warmth import Warmth, moment
from gateway.web.pages import progress

WARM_MOST = 7 * 86_400.0
"""Seconds. What is to be up for longer is better written down as WARM_SCHEDULE, where it is seen."""

COMING = (State.STARTING, State.READY)
"""Up, or on its way."""

Facts = Callable[[], Mapping[str, object]]


class Control:
    """Of one gateway, as long as it lives."""

    def __init__(
        self,
        conductor: Conductor,
        warmth: Warmth,
        *,
        end: Callable[[bool], None],
        say: Callable[[str], None],
        money: Facts | None = None,
        spend: Facts | None = None,
        more: Facts = dict,
        clock: Callable[[], float] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`end`: begin the gateway's end; True: leave what runs to a successor. `money`: for the status, `spend`: in
        full; None: nothing here costs any. `more`: what else the status tells."""
        self._conductor = conductor
        self._warmth = warmth
        self._end = end
        self._say = say
        self._money = money
        self._spend = spend
        self._more = more
        self._clock = clock or asyncio.get_running_loop().time
        self._wall = wall

    def __repr__(self) -> str:
        return f"<Control of {self._conductor!r}, {self._warmth!r}>"

    # -- what is told --------------------------------------------------------------------------

    def brief(self) -> dict[str, object]:
        """For who has a key and waits: no name, no number of others."""
        snapshot = self._conductor.snapshot()
        expected = self._conductor.expected_wait()
        return {
            "state": snapshot.state.value,
            "ready": snapshot.state is State.READY,
            "expected_seconds": None if expected is None else round(expected, 1),
            "progress": progress(snapshot),
        }

    def status(self) -> dict[str, object]:
        """Everything, for the operator."""
        snapshot, now = self._conductor.snapshot(), self._clock()
        instance = snapshot.instance
        told = self.brief() | {
            "upstream": snapshot.upstream,
            "state_seconds": round(now - snapshot.since, 1),
            "models": list(self._conductor.models),
            "in_flight": snapshot.in_flight,
            "waiting": snapshot.waiting,
            "starts": snapshot.starts,
            "failures": snapshot.failures,
            "idle_stop_in": None if snapshot.idle_at is None else round(max(0.0, snapshot.idle_at - now), 1),
            "provider": self._conductor.provider.name,
            "instance": None
            if instance is None
            else {
                "id": instance.id,
                "name": instance.name,
                "provider": instance.provider,
                "dollars_per_hour": dollars(instance.price),
                "started": moment(instance.started_at),
            },
        }
        if snapshot.reason and snapshot.state is not State.READY:
            told |= {"reason": snapshot.reason, "engine_said": snapshot.detail}
        told |= self._warmth.facts()
        if self._money is not None:
            told["money"] = dict(self._money())
        return told | dict(self._more())

    def left(self) -> dict[str, object] | None:
        """What the gateway leaves running when it ends: on purpose, or because its end could not be confirmed."""
        instance = self._conductor.snapshot().instance
        if instance is None or not self._conductor.provider.profile.starts:
            return None
        return {"id": instance.id, "provider": instance.provider, "dollars_per_hour": dollars(instance.price)}

    def spend(self) -> dict[str, object]:
        """Raises Refused where nothing is rented."""
        if self._spend is None:
            raise refuse("route_not_found", "Nothing is rented here, so nothing is spent.")
        return dict(self._spend())

    # -- what is ordered -----------------------------------------------------------------------

    def wake(self, who: str) -> None:
        """Raises Refused, as a request would be."""
        self._may_be_up()
        if self._conductor.state not in COMING:
            self._say(f"woken by {who}")
        self._conductor.wake()

    def sleep(self, who: str) -> None:
        """Down now, and no longer kept warm. Raises Refused, 409, while somebody is here: it is not kept warm then
        either, and goes when it is idle."""
        if not self._conductor.provider.profile.starts:
            raise refuse("invalid_request", "What answers here was not started here, and is not stopped.", status=409)
        self._warmth.end()
        if self._conductor.state is State.DRAINING:
            self._may_be_up()  # it is about to go, and says so
        if not self._conductor.sleep():
            snapshot = self._conductor.snapshot()
            raise refuse(
                "invalid_request",
                f"Somebody is here ({snapshot.in_flight} in flight, {snapshot.waiting} waiting), and it is not stopped "
                "under them. It is no longer kept warm, and stops when it is idle; or try again.",
                status=409,
            )
        self._say(f"told to sleep by {who}")

    def keep_warm(self, who: str, seconds: float | None) -> None:
        """Up from now on for so long, whether somebody comes or not; None: no longer. Raises Refused."""
        if seconds is None:
            self._warmth.end()
            self._say(f"no longer kept warm, says {who}")
            return
        if seconds > WARM_MOST:
            said = f"At most {spell_duration(WARM_MOST)} at a time; what is to be up for longer, WARM_SCHEDULE says."
            raise refuse("invalid_request", said, param="for")
        self._may_be_up()
        self._say(f"kept warm for {spell_duration(seconds)} by {who}")
        self._warmth.order(seconds)

    def stop(self, who: str, *, leave: bool) -> None:
        """The gateway ends, as with SIGTERM; with `leave` what is rented goes on for a successor."""
        self._say(f"told to end by {who}" + (", and to leave what runs" if leave else ""))
        self._end(leave)

    def _may_be_up(self) -> None:
        refusal = self._conductor.refusal()
        if refusal is not None:
            raise Refused(refusal)


def dollars(micros: int) -> float:
    """For people and programs that show it. Nothing is added up from these."""
    return micros / 1_000_000
