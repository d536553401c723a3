"""An upstream that somebody else runs: UPSTREAM_URL. There is nothing to start or stop; its health is seen by looking.

Two places tell it: /health (an engine's own, 503 while it loads) and /v1/models. /health alone is not believed, since
engines are healthy before their model is there; and once it is ready /v1/models is left alone, since on
llama-cpp-python's own server that question cuts the answer that is running.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from gateway.providers.base import (
    Endpoint,
    Gone,
    Instance,
    Intent,
    Journal,
    Loading,
    News,
    Profile,
    ProviderError,
    Ready,
    Rental,
)
from gateway.providers.feed import Feed
from gateway.providers.probe import Sight, look

UNREACHABLE = "The upstream does not answer."
STOPPED = "The upstream is no longer watched."
LOST_LOOKS = 3
"""Looks in a row without an answer until a ready upstream counts as gone."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two looks: from `first` to `longest` while it is not ready, `steady` once it is."""

    first: float = 1.0
    longest: float = 10.0
    steady: float = 15.0
    within: float = 10.0
    """For one look."""


def endpoint_of(url: str, key: str | None = None) -> Endpoint:
    """The endpoint that a user means by `http://host:port`, with or without `/v1` or a path before it.

    Raises ValueError with one sentence about UPSTREAM_URL.
    """
    text = url.strip()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"UPSTREAM_URL is not a URL: {error}.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("UPSTREAM_URL must begin with http:// or https:// and name a host.")
    if parts.username is not None or parts.password is not None:
        raise ValueError("UPSTREAM_URL must not hold a password; the key goes into UPSTREAM_API_KEY.")
    if parts.query or parts.fragment or any(character.isspace() for character in text):
        raise ValueError("UPSTREAM_URL must end with its path, without ?, # or blanks.")
    path = parts.path.rstrip("/")
    prefix = path.removesuffix("/v1").rstrip("/")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Endpoint(f"{parts.scheme}://{host}" + (f":{port}" if port else ""), prefix=prefix, key=key)


def is_behind_runpods_proxy(url: str) -> bool:
    """`https://<pod>-<port>.proxy.runpod.net`: what it has heard nothing of for 100 s it ends with a 524."""
    return (urlsplit(url).hostname or "").endswith(".proxy.runpod.net")


@dataclass(slots=True)
class Watched:
    """One instance and the task that looks at it."""

    instance: Instance
    feed: Feed
    task: "asyncio.Task[None]"


class ExternalProvider:
    """The provider `external`. The HTTP session is lent by the application: TLS is verified there, and it closes it."""

    name = "external"

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        session: aiohttp.ClientSession,
        models: tuple[str, ...] = (),
        concurrency: int | None = None,
        pace: Pace | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._endpoint = endpoint
        self._session = session
        self._pace = pace or Pace()
        self._now = now
        self._profile = Profile(
            models=models, concurrency=concurrency, starts=False, cuts_silence=is_behind_runpods_proxy(endpoint.url)
        )
        self._watched: dict[str, Watched] = {}

    def __repr__(self) -> str:
        return f"<ExternalProvider {self._endpoint.url}{self._endpoint.prefix} watching={list(self._watched)}>"

    @property
    def profile(self) -> Profile:
        return self._profile

    async def start(self, intent: Intent, journal: Journal) -> Instance:
        """Begin to look. Nothing is started anywhere; the journal hears of it all the same, as of every start."""
        try:
            await journal.intend(Rental(f"external-{intent.upstream}", self.name, intent.upstream, intent.run))
        except OSError as error:
            raise ProviderError("What is started could not be written down.") from error
        await self.close()
        instance = Instance(f"external-{intent.upstream}-{intent.run}", self.name, self._endpoint, self._now())
        feed = Feed()
        task = asyncio.get_running_loop().create_task(self._keep_looking(feed), name=f"look at {instance.id}")
        self._watched[instance.id] = Watched(instance, feed, task)
        return instance

    async def watch(self, instance: Instance) -> AsyncIterator[News]:
        """News until `Gone`."""
        watched = self._watched.get(instance.id)
        if watched is None:
            yield Gone(STOPPED)
            return
        async for news in watched.feed.read():
            yield news

    async def rest(self, instance: Instance) -> None:
        raise ProviderError("This upstream cannot be put to sleep from here.", lasting=True)

    async def wake(self, instance: Instance) -> None:
        raise ProviderError("This upstream cannot be woken from here.", lasting=True)

    async def stop(self, instance: Instance, *, within: float) -> None:
        """Look no more."""
        watched = self._watched.get(instance.id)
        if watched is not None:
            watched.task.cancel()
            await asyncio.wait({watched.task})
            watched.feed.tell(Gone(STOPPED))

    async def list(self) -> list[Instance]:
        return [watched.instance for watched in self._watched.values() if watched.feed.gone is None]

    async def price(self) -> int | None:
        return 0

    async def close(self) -> None:
        """The session is the application's; only the looking ends."""
        for watched in list_of(self._watched):
            await self.stop(watched.instance, within=0.0)
        self._watched.clear()

    # --- Looking ---

    async def _keep_looking(self, feed: Feed) -> None:
        try:
            await self._look_until_lost(feed)
        except RuntimeError:
            feed.tell(Gone(STOPPED))  # the session was closed before us

    async def _look_until_lost(self, feed: Feed) -> None:
        health: str | None = None
        pause = self._pace.first
        while True:
            news, health = await self._look_for_readiness()
            feed.tell(news)
            if isinstance(news, Gone):
                return
            if isinstance(news, Ready):
                break
            await asyncio.sleep(pause)
            pause = min(self._pace.longest, pause * 1.5)
        feed.tell(await self._until_lost(health))

    async def _look_for_readiness(self) -> tuple[News, str | None]:
        """What can be said now; with Ready, the path at which it may be asked again."""
        prefix = self._endpoint.prefix
        health = await self._look(f"{prefix}/health")
        if not health.answered:
            return Loading("unreachable", detail=health.trouble), None
        has_health = health.status == 200 and not health.html
        if not has_health and health.status >= 500 and not health.html:
            return Loading("loading", health.progress()), None
        models = await self._look(f"{prefix}/v1/models")
        if models.status == 401:
            return Gone("The upstream refuses our key (UPSTREAM_API_KEY).", lasting=True), None
        names = models.model_names()
        listed = models.status == 200 and isinstance(models.content, dict) and not models.html
        # No list of models, or none for this key, but a health of its own: a server for speech, a restricted key.
        if listed or (has_health and models.status in (403, 404, 405, 501)):
            self._profile = Profile(
                models=self._profile.models or names, concurrency=self._profile.concurrency, starts=False
            )
            return Ready(names, self._profile.concurrency), f"{prefix}/health"
        if not models.answered:
            return Loading("unreachable", detail=models.trouble), None
        if models.status >= 500 and not models.html:
            return Loading("loading", models.progress()), None
        return Loading("unreachable", detail=f"status {models.status} at /v1/models"), None

    async def _until_lost(self, health: str | None) -> Gone:
        """Any answer of its own is life: a 404 at /health comes from a server that runs. A tunnel's 502 is none."""
        lost = 0
        last = Sight(0)
        while lost < LOST_LOOKS:
            # Soon again after a look that found nobody, so that a dead upstream is known within seconds.
            await asyncio.sleep(self._pace.first if lost else self._pace.steady)
            last = await self._look(health or "/")
            lost = lost + 1 if not last.answered or last.status >= 500 else 0
        return Gone(UNREACHABLE, detail=f"{last.trouble or last.status} {last.detail}".strip())

    async def _look(self, path: str) -> Sight:
        return await look(self._session, self._endpoint, path, within=self._pace.within)


def list_of(watched: dict[str, Watched]) -> tuple[Watched, ...]:
    """A copy to walk over while it changes. (Inside the class `list` is the contract's method.)"""
    return tuple(watched.values())
