"""The page that replicas share: its rules, and that only what was written here is read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.base import Endpoint, Instance, Loading, Ready
from gateway.providers.renting.page import (
    HOWS,
    PAGE_MAX,
    PHASES,
    Ended,
    Life,
    Page,
    PageError,
    Replica,
    Sightings,
    Terms,
    Want,
)

names = st.text(max_size=8)
wholes = st.integers(0, 2**53)
wants = st.builds(Want, upstream=names, run=wholes, life=wholes)
endpoints = st.builds(
    Endpoint, url=names.map(lambda text: f"https://{text}"), prefix=names, fingerprint=st.none() | names
)
instances = st.builds(
    Instance, id=names, provider=names, endpoint=endpoints, started_at=st.floats(0, 1e10), price=wholes, name=names
)
news = st.builds(
    Loading, phase=names, ratio=st.none() | st.floats(0, 1), detail=names, done=st.none() | wholes, signs=wholes
) | st.builds(
    Ready,
    models=st.lists(names, max_size=3).map(tuple),
    concurrency=st.none() | wholes,
    endpoint=st.none() | endpoints,
)
pages = st.builds(
    Page,
    holder=names,
    term=wholes,
    handed_over=st.booleans(),
    replicas=st.dictionaries(
        names, st.builds(Replica, beat=wholes, want=st.none() | wants, suspects=wholes), max_size=3
    ),
    number=wholes,
    life=st.none()
    | st.builds(Life, phase=st.sampled_from(PHASES), instance=st.none() | instances, news=st.none() | news),
    ended=st.none()
    | st.builds(
        Ended,
        life=wholes,
        how=st.sampled_from(HOWS),
        reason=names,
        lasting=st.booleans(),
        code=names,
        detail=names,
        taken=st.booleans(),
    ),
    price=st.none() | wholes,
)


@given(pages)
def test_a_page_is_read_as_it_was_written(page: Page) -> None:
    assert Page.read(page.text()) == page


@given(pages, st.data())
def test_a_page_that_somebody_changed_is_none_or_still_one(page: Page, data: st.DataObject) -> None:
    """Never another error: whoever looks at the board goes on."""
    told = json.loads(page.text())

    def spoil(value: object) -> object:
        if isinstance(value, dict) and value:
            name = data.draw(st.sampled_from(sorted(value)))
            return {**value, name: spoil(value[name])}
        return data.draw(st.none() | st.booleans() | wholes | names | st.just({}) | st.just([]) | st.just([1]))

    try:
        Page.read(json.dumps(spoil(told)))
    except PageError:
        pass


@pytest.mark.parametrize(
    "text", ["hello", "[]", "{}", "null", '{"format": 2}', "[" * 5000, "x" * (PAGE_MAX + 1), '{"format": 1}']
)
def test_somebody_elses_text_is_no_page(text: str) -> None:
    with pytest.raises(PageError):
        Page.read(text)


def test_no_text_is_the_first_page() -> None:
    assert Page.read("") == Page()
    assert not Page().handed_over


def test_what_a_repr_does_not_show_is_not_written_down() -> None:
    instance = Instance("id", "cloud", Endpoint("https://up", key="secret"), 0.0)
    page = Page(life=Life("running", instance, Ready(endpoint=Endpoint("https://up", key="secret"))))
    assert "secret" not in page.text()
    read = Page.read(page.text()).life
    assert read is not None and read.instance is not None and read.instance.endpoint == Endpoint("https://up")


def test_whoever_comes_wants_this_life_or_the_one_after_it() -> None:
    page = Page(number=4)
    assert page.wanted_life == 4
    running = page.living(Life("running"))
    assert running.wanted_life == 4
    assert running.stopping(None).wanted_life == 5
    failed = running.stopping(None, Ended(4, "failed", "Why."))
    assert failed.wanted_life == 5
    over = failed.over(Ended(4, "stopped"))
    assert (over.number, over.life, over.wanted_life) == (5, None, 5)
    assert over.ended == Ended(4, "failed", "Why.")  # what was said of it first stays


def test_wants_are_for_one_life() -> None:
    page = Page(number=4).beaten("A", Want("main", 1, 4)).beaten("B", Want("main", 7, 5)).beaten("C", None)
    assert [want.run for want in page.wants(4)] == [1]
    assert [want.run for want in page.wants(5)] == [7]
    assert page.without({"A"}).wants(4) == []


def test_a_place_is_handed_over_only_in_order() -> None:
    page = Page().beaten("A", Want("main", 1, 1)).taken_by("A")
    left = page.left_by("A", wanting=True, in_order=True)
    assert (left.holder, left.handed_over, len(left.wants(1))) == ("", True, 1)
    crashed = page.left_by("A", wanting=False, in_order=False)
    assert (crashed.holder, crashed.handed_over, crashed.replicas) == ("A", False, {})
    assert page.left_by("B", wanting=False, in_order=True).holder == "A"
    assert left.taken_by("B").term == page.term + 1


def test_silence_counts_by_ones_own_clock_from_the_last_beat_that_was_seen() -> None:
    sightings, page = Sightings(), Page().beaten("A", None).beaten("B", None).taken_by("A")
    sightings.see(page, 100)
    sightings.see(page.beaten("B", None), 130)
    assert sightings.silent(40, 140) == {"A"}
    assert sightings.holder_silent(140) == 40
    sightings.see(page.beaten("A", None), 150)
    assert sightings.holder_silent(160) == 10
    sightings.see(page.taken_by("B"), 170)
    assert sightings.holder_silent(171) == 1  # whoever took the place was there when it did


def test_a_holder_that_nobody_knows_is_silent_since_it_was_looked_for() -> None:
    sightings = Sightings()
    assert sightings.holder_silent(50) == 0
    sightings.see(Page(), 100)
    sightings.see(Page(), 120)
    assert sightings.holder_silent(130) == 30


@pytest.mark.parametrize(
    "wrong", [{"call": 45.0}, {"lease": 30.0, "call": 20.0}, {"interest": 10.0}, {"call": 0.0}, {"beat": 20.0}]
)
def test_terms_that_protect_nobody_are_none(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="outlast"):
        Terms(**wrong)
