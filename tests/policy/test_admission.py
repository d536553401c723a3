"""One line, so many slots: none lost, none given twice, nobody overtaken."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.policy.admission import ENOUGH, Admission, Admitted, Full, Limits, Queued, Verdict


def opened(**changed: float) -> Admission:
    """An admission in front of an upstream that serves since 0."""
    admission = Admission(Limits(**({"concurrency": 1} | changed)))  # type: ignore[arg-type]
    admission.open(now=0)
    return admission


def offer(admission: Admission, request: str, now: float = 0, size: int = 1, patience: float | None = None) -> Verdict:
    return admission.offer(request, size_bytes=size, patience=patience, now=now)


def taught(seconds: float, **changed: float) -> Admission:
    """One that has seen enough answers, each of so many seconds, and has all slots taken."""
    admission = opened(**changed)
    for number in range(ENOUGH):
        offer(admission, f"t{number}")
        admission.release(f"t{number}", now=seconds)
    for number in range(admission.limits.concurrency):
        offer(admission, f"busy{number}")
    return admission


def test_a_free_slot_is_given_at_once() -> None:
    assert offer(opened(), "a") == Admitted()


def test_who_finds_no_slot_waits_behind_the_others() -> None:
    admission = opened()
    assert [offer(admission, request) for request in "abc"] == [Admitted(), Queued(1), Queued(2)]


def test_first_come_first_served() -> None:
    admission = opened()
    for request in "abcd":
        offer(admission, request)
    assert [admission.release(request, now=1) for request in "abcd"] == [["b"], ["c"], ["d"], []]


def test_everybody_waits_until_the_upstream_serves() -> None:
    admission = Admission(Limits(concurrency=2))
    assert [offer(admission, request) for request in "abc"] == [Queued(1), Queued(2), Queued(3)]
    assert admission.open(now=5) == ["a", "b"]
    assert admission.open(now=6) == []


def test_the_line_stands_while_the_upstream_does_not_serve() -> None:
    """Slots of broken answers come back, and are given out only when it serves again."""
    admission = opened()
    for request in "abc":
        offer(admission, request)
    admission.close()
    assert admission.release("a", now=1) == []
    assert offer(admission, "d") == Queued(3)
    assert admission.open(now=9) == ["b"]


def test_who_leaves_the_line_is_gone_at_once() -> None:
    admission = opened()
    for request in "abc":
        offer(admission, request, size=10)
    assert admission.leave("b", now=1) == []
    assert (admission.waiting, admission.held_bytes) == (1, 10)
    assert admission.release("a", now=2) == ["c"]


def test_who_leaves_a_slot_gives_it_to_the_next() -> None:
    admission = opened()
    for request in "ab":
        offer(admission, request)
    assert admission.leave("a", now=1) == ["b"]


def test_telling_twice_gives_no_slot_twice() -> None:
    admission = opened()
    for request in "abc":
        offer(admission, request)
    assert admission.release("a", now=1) == ["b"]
    assert admission.release("a", now=1) == []
    assert admission.release("nobody", now=1) == []
    assert (admission.running, admission.waiting) == (1, 1)


def test_an_id_is_for_one_request() -> None:
    admission = opened()
    for request in "ab":
        offer(admission, request)
        with pytest.raises(ValueError, match="is here already"):
            offer(admission, request)


def test_the_line_has_so_many_places() -> None:
    admission = opened(max_queue_size=2)
    verdicts = [offer(admission, request) for request in "abcd"]
    assert verdicts[:3] == [Admitted(), Queued(1), Queued(2)]
    assert verdicts[3] == Full("2 requests wait already; come back later.", 5)
    assert admission.waiting == 2


def test_the_line_holds_so_many_bytes() -> None:
    """Those of whoever has a slot are on their way, and do not count."""
    admission = opened(max_queue_bytes=100)
    offer(admission, "a", size=5000)
    assert isinstance(offer(admission, "b", size=60), Queued)
    assert isinstance(offer(admission, "c", size=41), Full)
    assert isinstance(offer(admission, "d", size=40), Queued)
    admission.release("a", now=1)
    assert admission.held_bytes == 40


def test_who_cannot_wait_that_long_is_told_at_once() -> None:
    admission = taught(10)
    assert offer(admission, "a", patience=10) == Queued(1)
    verdict = offer(admission, "b", patience=19)
    assert verdict == Full("The wait would be about 20 s, longer than this request can wait.", 20)
    assert offer(admission, "c", patience=20) == Queued(2)
    assert offer(admission, "d", patience=None) == Queued(3)


def test_nobody_can_wait_longer_than_queue_timeout() -> None:
    admission = taught(10, queue_timeout=15)
    assert offer(admission, "a") == Queued(1)
    assert isinstance(offer(admission, "b"), Full)


def test_more_slots_make_the_wait_shorter() -> None:
    admission = taught(10, concurrency=4)
    assert offer(admission, "a", patience=2.5) == Queued(1)
    assert isinstance(offer(admission, "b", patience=4.9), Full)


def test_long_answers_keep_nobody_from_waking_an_upstream_that_is_stopped() -> None:
    """However slow it is, nobody is before the first in line: else no request could ever start it again."""
    admission = taught(400, concurrency=2, queue_timeout=300)
    admission.close()
    for number in range(2):
        admission.release(f"busy{number}", now=0, served=False)
    assert [offer(admission, request) for request in "ab"] == [Queued(1), Queued(2)]
    assert offer(admission, "c", patience=199) == Full(
        "The wait would be about 200 s, longer than this request can wait.", 60
    )
    assert offer(admission, "d", patience=200) == Queued(3)


def test_nothing_is_estimated_from_too_little() -> None:
    admission = opened()
    offer(admission, "a")
    admission.release("a", now=1000)
    offer(admission, "b")
    assert admission.estimated_wait(1) is None
    assert offer(admission, "c", patience=1) == Queued(1)


def test_the_estimate_follows_what_answers_take_now() -> None:
    admission = taught(10, queue_timeout=10**6)
    for number in range(20):
        offer(admission, f"slow{number}")
    now = 0.0
    for request in ["busy0"] + [f"slow{number}" for number in range(20)]:
        now += 100
        admission.release(request, now=now)
    assert admission.estimated_wait(1) == 0
    assert admission.estimated_wait(2) == pytest.approx(100, rel=0.02)


def test_what_failed_or_was_cut_short_says_nothing_of_the_pace() -> None:
    admission = taught(10)
    for number in range(50):
        offer(admission, f"x{number}", now=20)
    admission.release("busy0", now=20, served=False)
    for number in range(50):
        admission.leave(f"x{number}", now=20)
    assert admission.estimated_wait(2) == pytest.approx(10)


def test_retry_after_is_at_most_a_minute() -> None:
    """Older SDKs ignore more."""
    admission = taught(500, max_queue_size=0)
    verdict = offer(admission, "a")
    assert isinstance(verdict, Full) and verdict.retry_after == 60


def test_retry_after_is_at_least_a_second() -> None:
    admission = taught(0.01, max_queue_size=0)
    verdict = offer(admission, "a")
    assert isinstance(verdict, Full) and verdict.retry_after == 1


def test_who_has_waited_for_queue_timeout_is_sent_away() -> None:
    admission = opened(queue_timeout=10)
    for request, now in (("a", 0.0), ("b", 1.0), ("c", 1.0), ("d", 5.0)):
        offer(admission, request, now)
    assert admission.next_deadline() == 11
    assert admission.expired(10.9) == []
    assert admission.expired(11) == ["b", "c"]
    assert admission.next_deadline() == 15
    assert admission.release("a", now=12) == ["d"]
    assert admission.next_deadline() is None


def test_waiting_for_the_upstream_is_not_waiting_in_line() -> None:
    """A model that loads for ten minutes must not cost its callers their place: QUEUE_TIMEOUT counts from open."""
    admission = Admission(Limits(concurrency=1, queue_timeout=10))
    for request in "abc":
        offer(admission, request)
    assert (admission.next_deadline(), admission.expired(600)) == (None, [])
    admission.open(now=600)
    assert admission.next_deadline() == 610
    assert admission.expired(610) == ["b", "c"]


def test_all_who_wait_can_be_refused_at_once() -> None:
    admission = opened()
    for request in "abc":
        offer(admission, request)
    assert admission.refuse_all() == ["b", "c"]
    assert (admission.running, admission.waiting, admission.held_bytes) == (1, 0, 0)
    assert admission.refuse_all() == []


def test_more_slots_at_run_time_let_more_in() -> None:
    admission = opened()
    for request in "abcd":
        offer(admission, request)
    assert admission.resize(3, now=1) == ["b", "c"]


def test_fewer_slots_at_run_time_take_none_away() -> None:
    admission = opened(concurrency=3)
    for request in "abcd":
        offer(admission, request)
    assert admission.resize(1, now=1) == []
    assert [admission.release(request, now=2) for request in "abc"] == [[], [], ["d"]]


def test_a_request_for_several_answers_takes_as_many_slots() -> None:
    """`n` and `best_of` count; nobody overtakes who waits for several."""
    admission = opened(concurrency=3)
    assert admission.offer("two", size_bytes=1, patience=None, now=0, slots=2) == Admitted()
    assert admission.offer("three", size_bytes=1, patience=None, now=0, slots=3) == Queued(1)
    assert offer(admission, "one") == Queued(2)
    assert admission.release("two", now=1) == ["three"]
    assert admission.release("three", now=2) == ["one"]


def test_more_answers_than_slots_get_all_the_slots() -> None:
    admission = opened(concurrency=2)
    assert admission.offer("many", size_bytes=1, patience=None, now=0, slots=100) == Admitted()
    assert offer(admission, "one") == Queued(1)
    assert admission.release("many", now=1) == ["one"]


def test_when_the_first_in_line_leaves_those_behind_it_move_up() -> None:
    admission = opened(concurrency=2)
    offer(admission, "one")
    admission.offer("two", size_bytes=1, patience=None, now=0, slots=2)
    assert offer(admission, "next") == Queued(2)
    assert admission.leave("two", now=1) == ["next"]


def test_no_slots_at_all_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="one request at least"):
        Limits(concurrency=0)


def test_the_repr_says_who_waits_and_since_when() -> None:
    assert repr(Admission(Limits(concurrency=4))) == (
        "<Admission closed, 0 running on 0/4 slots, 0 in line holding 0 bytes, pace unknown>"
    )
    admission = taught(2)
    offer(admission, "a", now=7, size=30)
    assert repr(admission) == (
        "<Admission open since 0.0, 1 running on 1/1 slots, "
        "1 in line holding 30 bytes, the first since 7.0, 2.00 s each>"
    )


class Line(RuleBasedStateMachine):
    """Against a naive model: two lists."""

    @initialize(slots=st.integers(1, 3), places=st.integers(0, 4), held=st.integers(0, 30))
    def begin(self, slots: int, places: int, held: int) -> None:
        self.limits = Limits(concurrency=slots, max_queue_size=places, max_queue_bytes=held, queue_timeout=10)
        self.admission = Admission(self.limits)
        self.is_open = False
        self.opened_at = self.now = 0
        self.running: dict[str, int] = {}
        self.line: list[tuple[str, int, int, int]] = []
        self.count = 0

    def moved(self) -> list[str]:
        admitted = []
        while self.line and self.fits(self.line[0][3]):
            request, _, _, slots = self.line.pop(0)
            self.running[request] = min(slots, self.limits.concurrency)
            admitted.append(request)
        return admitted

    def fits(self, slots: int) -> bool:
        limit = self.limits.concurrency
        return self.is_open and sum(self.running.values()) + min(slots, limit) <= limit

    @rule(size=st.integers(0, 12), patience=st.none() | st.integers(0, 20), slots=st.integers(1, 4))
    def offer(self, size: int, patience: int | None, slots: int) -> None:
        self.count += 1
        request = f"r{self.count}"
        verdict = self.admission.offer(request, size_bytes=size, patience=patience, now=self.now, slots=slots)
        if not self.line and self.fits(slots):
            assert verdict == Admitted()
            self.running[request] = min(slots, self.limits.concurrency)
        elif (
            len(self.line) >= self.limits.max_queue_size
            or sum(it[1] for it in self.line) + size > self.limits.max_queue_bytes
        ):
            assert isinstance(verdict, Full)
        elif isinstance(verdict, Full):
            wait = self.admission.estimated_wait(len(self.line) + 1)
            assert wait is not None and wait > min(10, 10 if patience is None else patience)
        else:
            self.line.append((request, size, self.now, slots))
            assert verdict == Queued(len(self.line))
        if isinstance(verdict, Full):
            assert 1 <= verdict.retry_after <= 60

    @rule(which=st.integers(0, 40), served=st.booleans())
    def somebody_is_gone(self, which: int, served: bool) -> None:
        """In a slot, in line, gone already or never there."""
        request = f"r{which}"
        admitted = self.admission.release(request, now=self.now, served=served)
        self.line = [it for it in self.line if it[0] != request]
        self.running.pop(request, None)
        assert admitted == self.moved()

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 3))
    def an_answer_ends(self, which: int) -> None:
        request = list(self.running)[which % len(self.running)]
        del self.running[request]
        assert self.admission.release(request, self.now) == self.moved()

    @rule()
    def open(self) -> None:
        if not self.is_open:
            self.is_open, self.opened_at = True, self.now
        assert self.admission.open(now=self.now) == self.moved()

    @rule()
    def close(self) -> None:
        self.is_open = False
        self.admission.close()

    @rule()
    def refuse_all(self) -> None:
        assert self.admission.refuse_all() == [it[0] for it in self.line]
        self.line = []

    @rule(slots=st.integers(1, 4))
    def resize(self, slots: int) -> None:
        self.limits = replace(self.limits, concurrency=slots)
        assert self.admission.resize(slots, now=self.now) == self.moved()

    @rule(passed=st.integers(0, 15))
    def time_passes(self, passed: int) -> None:
        self.now += passed
        late = [it[0] for it in self.line if self.is_open and max(it[2], self.opened_at) + 10 <= self.now]
        assert self.admission.expired(self.now) == late
        self.line = [it for it in self.line if it[0] not in late]
        assert self.admission.move(self.now) == self.moved()
        deadline = self.admission.next_deadline()
        assert deadline is None or deadline > self.now

    @invariant()
    def the_books_agree(self) -> None:
        if hasattr(self, "admission"):
            assert self.admission.running == len(self.running)
            assert self.admission.waiting == len(self.line)
            assert self.admission.held_bytes == sum(it[1] for it in self.line)
            assert not (self.line and self.fits(self.line[0][3])), "a slot was lost"


TestLine = Line.TestCase
TestLine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


# --- those who were told to come back


def come_back(admission: Admission, request: str, since: float, now: float = 10, size: int = 1) -> Verdict:
    return admission.offer(request, size_bytes=size, patience=None, now=now, since=since)


def test_who_comes_back_stands_before_all_who_came_later() -> None:
    admission = Admission(Limits(concurrency=1))
    for now, request in enumerate("abc"):
        offer(admission, request, now=now)
    assert come_back(admission, "b2", since=0.5) == Queued(4)
    assert admission.open(now=11) == ["a"]
    assert [admission.release(request, now=12) for request in ("a", "b2", "b")] == [["b2"], ["b"], ["c"]]


def test_who_comes_back_to_free_slots_is_let_in() -> None:
    assert come_back(opened(), "a", since=0) == Admitted()


def test_who_comes_back_and_is_the_first_passes_one_who_waits_for_more_slots() -> None:
    admission = opened(concurrency=2)
    offer(admission, "busy")
    admission.offer("wide", size_bytes=1, patience=None, now=5, slots=2)
    assert come_back(admission, "a", since=1) == Admitted()
    assert admission.waiting == 1


def test_a_full_line_sends_nobody_away_who_has_a_place_but_bytes_count_for_all() -> None:
    admission = Admission(Limits(concurrency=1, max_queue_size=1, max_queue_bytes=10))
    offer(admission, "a", now=1)
    assert isinstance(offer(admission, "b", now=2), Full)
    assert isinstance(come_back(admission, "d", since=0, size=100), Full)
    assert come_back(admission, "c", since=0) == Queued(2)
    assert isinstance(come_back(admission, "e", since=0), Full), "but twice as many are the end"


def test_the_time_in_line_counts_from_when_it_came_first() -> None:
    admission = opened(queue_timeout=300)
    offer(admission, "busy")
    offer(admission, "b", now=100)
    come_back(admission, "a", since=50, now=200)
    assert admission.next_deadline() == 350
    assert admission.expired(now=350) == ["a"] and admission.next_deadline() == 400
