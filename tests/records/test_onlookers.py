"""Pages asked for: counted, told in one line, read back."""

from gateway.records.onlookers import EVERY, Onlookers, Tally, parse


def test_pages_are_told_together_every_ten_minutes() -> None:
    said: list[str] = []
    onlookers = Onlookers(said.append, now=1000.0)
    for _ in range(20):
        onlookers.seen("/ping")
    onlookers.seen("/health")
    onlookers.beat(1000.0 + EVERY - 1)
    assert said == []
    onlookers.beat(1000.0 + EVERY)
    onlookers.beat(1000.0 + 2 * EVERY)
    assert said == ["pages asked for on PORT in 600 s: /health 1, /ping 20"]


def test_the_end_tells_what_is_left_and_nothing_is_told_of_nobody() -> None:
    said: list[str] = []
    onlookers = Onlookers(said.append, now=0.0)
    onlookers.tell(5.0)
    onlookers.seen("/v1/models/{id}")
    onlookers.tell(12.0)
    onlookers.tell(13.0)
    assert said == ["pages asked for on PORT in 7 s: /v1/models/{id} 1"]


def test_a_line_is_read_back_and_no_other_is_taken_for_one() -> None:
    tally = Tally(600.0, {"/": 1, "/ping": 20})
    assert parse(str(tally)) == tally
    for other in ("ready after 0.1 s", "pages asked for on PORT in x s: /ping 1", f"{tally}, and more"):
        assert parse(other) is None
