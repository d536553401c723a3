"""vLLM's sleep: how deep it may be, and the orders that put it to sleep and wake it.

Asleep, vLLM keeps its processes, its compiled code and its captured graphs, and gives nearly all GPU memory back. What
it does not keep decides the level:

    level 1   the weights go to the machine's memory, and come back from there in seconds
    level 2   the weights are forgotten, and read from the files again

The orders are among vLLM's development routes, which anybody who reaches them could do anything with: `/collective_rpc`
calls any method by its name. They are switched on only for an engine at our own socket (commands.py), which nobody but
us may open, and no such path is passed on to it. A sleeping vLLM says 200 at `/health`, and lets requests hang.

Read in the sources of vLLM 0.32, and tried there on a CPU, where all of it is answered and nothing is freed. That
level 2 brings the same weights back on a GPU is vLLM's word (its documentation has these three calls in this order):
so it is taken only where the operator insists on sleep and the machine's memory does not suffice for level 1.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.providers.base import Asleep, Endpoint, Loading, News, ProviderError, Ready
from gateway.providers.local.models.weights import size_of
from gateway.providers.probe import look, private_session, settle

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)

REFUSED = (
    "Sleep mode is not supported",
    "Sleep mode is only supported",
    "unrecognized arguments: --enable-sleep-mode",
    "cumem allocator is not available",
    "Expandable segments are not compatible with memory pool",
)
"""What versions of vLLM say when they are started with `--enable-sleep-mode` and cannot: on a CPU, on some GPUs, before
they had it, and, in older ones, with `expandable_segments` in PYTORCH_CUDA_ALLOC_CONF."""
ROUNDED_UP = 2
"""torch rounds each piece of pinned memory up to a power of two: level 1 may take this times the weights."""
SPARE = 2 << 30
"""Bytes that level 1 must leave: what runs out of memory here is the gateway, too."""
LOOK_WITHIN, CONFIRM_WITHIN = 5.0, 30.0
"""Seconds for a look at whether it sleeps, and for the one after an order, of which more depends."""
REST_WITHIN = 120.0
WAKE_WITHIN = 300.0
"""Seconds for one order. Level 2 reads all weights again in one."""

NO_ROOM = "The machine's memory cannot hold the weights while the engine sleeps."
NOT_ASLEEP = "The engine did not fall asleep."
NOT_AWAKE = "The engine did not wake up."
STRANGE = "The engine was put to sleep by somebody else."


def level(weights: int, free: int | None, *, insists: bool, held: bool) -> int | None:
    """How deep: None is not at all. `held`: this engine has slept at level 1 before, and still has the memory for it.

    Where nobody knows how much memory is free, or how much the weights are (0), they are not put there.
    """
    if held or (free is not None and weights and free >= ROUNDED_UP * weights + SPARE):
        return 1
    return 2 if insists else None


class Sleeper:
    """The sleep of one run of vLLM. `tell` takes its news: Asleep, and Ready when it serves again.

    `free` says how much memory the machine has left."""

    def __init__(
        self,
        endpoint: Endpoint,
        model: Path,
        tell: Callable[[News], None],
        *,
        insists: bool,
        executor: Executor | None = None,
        free: Callable[[], int | None],
    ) -> None:
        self._endpoint = endpoint
        self._model = model
        self._tell = tell
        self._insists = insists
        self._executor = executor
        self._free = free
        self._ready = Ready()
        self._turning = asyncio.Lock()
        """Held while an order is carried out."""
        self._turns = 0
        """Orders that were begun: what is seen across one is no news."""
        self._level: int | None = None
        """At which it sleeps by our order. None: it is awake, or somebody else's."""
        self._held = False
        self.refused = False
        """Whether it said that it cannot be started so that it can sleep."""

    def __repr__(self) -> str:
        turning = ", turning" if self._turning.locked() else ""
        return f"<Sleeper {f'asleep at level {self._level}' if self._level else 'awake'}{turning}>"

    def hear(self, line: str) -> None:
        """A line that the engine printed before it was ready."""
        self.refused = self.refused or any(words in line for words in REFUSED)

    def serves(self, ready: Ready) -> None:
        """It is ready for the first time; that is also what it says when it has woken.

        vLLM makes its socket as the umask is. Until now only the folder around it kept others out.
        """
        self._ready = ready
        if self._endpoint.socket is not None:
            Path(self._endpoint.socket).chmod(0o600)

    async def rest(self) -> None:
        """Asleep when this returns. Raises ProviderError: then nobody knows how it is, and it must be stopped."""
        async with self._turning:
            self._turns += 1
            loop = asyncio.get_running_loop()
            weights, free = await loop.run_in_executor(self._executor, self._sizes)
            depth = level(weights, free, insists=self._insists, held=self._held)
            if depth is None:
                log.info(
                    "it is stopped instead of put to sleep: %.1f GB of weights, and %s of memory are free",
                    weights / 1e9,
                    "nobody knows how much" if free is None else f"{free / 1e9:.1f} GB",
                )
                raise ProviderError(NO_ROOM)
            await self._order(f"/sleep?level={depth}", within=REST_WITHIN, failed=NOT_ASLEEP)
            if await self._is_asleep() is not True:
                raise ProviderError(NOT_ASLEEP)
            self._level = depth
            self._held = self._held or depth == 1
        self._tell(Asleep())

    async def wake(self) -> None:
        """Serves when this returns. Raises ProviderError: it must be stopped."""
        async with self._turning:
            self._turns += 1
            self._tell(Loading("waking"))
            if self._level is None:
                raise ProviderError(STRANGE)  # nobody knows whether it still has its weights
            if self._level == 1:
                await self._order("/wake_up", within=WAKE_WITHIN, failed=NOT_AWAKE)
            else:
                # The cache last: while the weights are read, their pieces want the room that it takes.
                await self._order("/wake_up?tags=weights", within=WAKE_WITHIN, failed=NOT_AWAKE)
                await self._order("/collective_rpc", {"method": "reload_weights"}, within=WAKE_WITHIN, failed=NOT_AWAKE)
                await self._order("/wake_up?tags=kv_cache", within=WAKE_WITHIN, failed=NOT_AWAKE)
            if await self._is_asleep() is not False:
                raise ProviderError(NOT_AWAKE)
            self._level = None
        self._tell(self._ready)

    async def notice(self, session: "aiohttp.ClientSession") -> None:
        """Tell of a sleep that was not our order: requests would hang. Asked from time to time while it runs."""
        if self._turning.locked() or self._level is not None:
            return
        turns = self._turns
        if await self._look(session) and turns == self._turns:
            log.warning("the engine sleeps, and not by our order")
            self._tell(Asleep())

    # --- What it is asked ---

    def _sizes(self) -> tuple[int, int | None]:
        return size_of(self._model), self._free()

    async def _is_asleep(self) -> bool | None:
        session = private_session(self._endpoint.socket)
        try:
            return await self._look(session, CONFIRM_WITHIN)
        finally:
            await settle(session)

    async def _look(self, session: "aiohttp.ClientSession", within: float = LOOK_WITHIN) -> bool | None:
        """None: it did not say."""
        sight = await look(session, self._endpoint, "/is_sleeping", within=within)
        answer = sight.content.get("is_sleeping") if isinstance(sight.content, dict) else None
        return answer if sight.status == 200 and isinstance(answer, bool) else None

    async def _order(self, path: str, body: Any = None, *, within: float, failed: str) -> None:
        import aiohttp

        session = private_session(self._endpoint.socket)
        try:
            async with session.post(
                self._endpoint.url + path,
                data=None if body is None else json.dumps(body).encode(),
                headers={"Content-Type": "application/json"},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=within),
            ) as answer:
                if answer.status == 200:
                    return
                said = (await answer.content.read(2000)).decode(errors="replace")
                log.warning("the engine was told %s and said %s: %s", path, answer.status, said)
        except TimeoutError:
            log.warning("the engine was told %s and said nothing for %.0f s", path, within)
        except (aiohttp.ClientError, OSError) as error:
            log.warning("the engine was told %s and could not be heard: %s", path, error)
        finally:
            await settle(session)
        raise ProviderError(failed)
