"""Whether what runs in a rented machine serves: what its answers mean, with and without a vendor's proxy before it."""

import asyncio

import pytest

from gateway.providers.base import Endpoint, Gone, Loading
from gateway.providers.probe import Sight
from gateway.providers.renting.readiness import BOOTING, KEY_REFUSED, Serves, is_there, readiness

THERE = Endpoint("https://abc-8000.proxy.runpod.net", key="k")
NOBODY = Sight(0, trouble="refused")
PAGE_404, PAGE_502 = Sight(404, html=True), Sight(502, html=True)
MODELS = Sight(200, {"data": [{"id": "m"}]})
HEALTHY = Sight(200, {})
MISSING = Sight(404, {"detail": "Not Found"})
LOADING = Sight(503, {"error": {"message": "Loading model"}})


def judged(health: Sight, models: Sight = NOBODY) -> object:
    async def look(endpoint: Endpoint, path: str, within: float) -> Sight:
        return health if path == "/health" else models

    return asyncio.run(readiness(look, THERE, 5))


def there(health: Sight, *, has_health: bool = True) -> object:
    asked: list[str] = []

    async def look(endpoint: Endpoint, path: str, within: float) -> Sight:
        asked.append(path)
        return health

    found = asyncio.run(is_there(look, THERE, 5, has_health=has_health))
    assert asked == ["/health"], "no list of models is asked for: it cuts an answer on llama-cpp-python"
    return found


@pytest.mark.parametrize("health", [NOBODY, PAGE_404, PAGE_502, Sight(502), Sight(524, html=True)])
def test_a_proxy_that_finds_nobody_is_a_machine_that_boots(health: Sight) -> None:
    assert judged(health, MODELS) == BOOTING


def test_health_alone_is_not_believed() -> None:
    assert judged(HEALTHY, LOADING) == Loading("loading")
    assert judged(HEALTHY, NOBODY) == BOOTING


def test_it_serves_when_it_says_its_models() -> None:
    assert judged(HEALTHY, MODELS) == Serves(("m",), True)


def test_an_engine_without_a_health_is_judged_by_its_models() -> None:
    assert judged(MISSING, MODELS) == Serves(("m",), False)


def test_a_server_for_speech_has_a_health_and_no_models() -> None:
    assert judged(HEALTHY, MISSING) == Serves((), True)


def test_a_refused_key_is_for_good() -> None:
    assert judged(HEALTHY, Sight(401, {})) == Gone(KEY_REFUSED, lasting=True)


def test_a_wakegate_tells_how_far_it_is() -> None:
    progress = {"phase": "downloading", "ratio": 0.43, "detail": "4.3 of 10 GB"}
    health = Sight(200, {"status": "ok", "state": "starting", "progress": progress})
    assert judged(health, MODELS) == Loading("downloading", 0.43, "4.3 of 10 GB")


@pytest.mark.parametrize(
    ("progress", "news"),
    [
        (None, Loading("loading")),
        ({"phase": "mining", "ratio": 7, "detail": 5}, Loading("loading")),
        (
            {"phase": "loading", "ratio": True, "detail": "a\x1b[31mb" + "c" * 200},
            Loading("loading", None, "a[31mb" + "c" * 74),
        ),
    ],
)
def test_what_a_worker_says_is_cleaned_before_a_caller_reads_it(progress: object, news: Loading) -> None:
    assert judged(Sight(200, {"state": "starting", "progress": progress})) == news


def test_a_worker_that_gave_its_engine_up_will_not_serve() -> None:
    gone = judged(Sight(200, {"status": "failed", "state": "failed", "reason": "no such model"}))
    assert isinstance(gone, Gone)
    assert gone.reason == "In the rented machine: no such model"


def test_a_worker_that_sleeps_serves_whoever_wakes_it() -> None:
    assert judged(Sight(200, {"status": "ok", "state": "asleep"}), MODELS) == Serves(("m",), True)


@pytest.mark.parametrize(
    ("health", "has_health", "found"),
    [
        (HEALTHY, True, True),
        (LOADING, True, True),
        (NOBODY, True, False),
        (PAGE_404, True, False),
        (PAGE_502, True, False),
        (MISSING, False, True),
        (Sight(500), False, False),
        (NOBODY, False, False),
    ],
)
def test_one_that_served_is_there_as_long_as_it_answers_itself(health: Sight, has_health: bool, found: bool) -> None:
    assert there(health, has_health=has_health) is found


def test_a_worker_whose_engine_failed_later_is_told() -> None:
    assert isinstance(there(Sight(200, {"status": "failed", "state": "failed"})), Gone)
