"""What a key may take now: requests and tokens per minute, so many at once, and its month's money.

    grant = quotas.admit(key, tokens=…, now=…, wall=…)      raises Refused: 429, with how long to wait
    …
    grant.close(now, used=…, reached_engine=…)              always, and once

A caller who is told to come back leaves its grant to `rest`, and goes on with it (`quotas.go_on`) when it is there.

The counts belong to a key's name, so that they outlive a reload of the keys file; the limits are those of the key that
is handed in, so that changed ones apply at once. A refused request takes nothing: whoever comes back when it is told to
is let in. `now` is the monotonic clock, `wall` the calendar's, both in seconds. Nothing here waits.
"""

import datetime
from dataclasses import dataclass
from typing import Final

from gateway.errors import RETRY_AFTER_MAX, Refused, refuse
from gateway.policy.keys import Key
from gateway.policy.rates import Rate, Taken
from gateway.policy.spending import Spending, renewal
from gateway.proxy.usage import Usage
from gateway.records.spent import Elsewhere, Spent

TICKS: Final = 1_000_000
"""Per second. Rates count whole ones, so that "in seven seconds" is neither one too early nor one too late."""
MINUTE: Final = 60 * TICKS
ONE_OF_THEM_ENDS: Final = 1 * TICKS
"""When to come back for a place among those at once: nobody knows when one of them ends."""

Headers = tuple[tuple[str, str], ...]


class Grant:
    """What one request was let in with. This one holds nothing; `FREE` is all of its kind that there needs to be."""

    __slots__ = ()
    headers: Headers = ()
    """`x-ratelimit-*` for the answer, of those limits that the key has; once it is closed, with what it gave back."""

    def __repr__(self) -> str:
        return "<Grant of no limits>"

    def close(self, now: float, *, used: Usage | None = None, events: int = 0, reached_engine: bool = True) -> None:
        """The request is over. A second time does nothing.

        `used`: what the engine said of tokens. Without it those that were asked for count, and at least as many as
        there were `events` in the stream: else whoever asks for no usage and names no maximum would have no limit.
        `reached_engine`: False when it was sent back without having been served: then it counts neither as a request
        nor with its tokens.
        """

    def rest(self, now: float) -> None:
        """Its caller was told to come back: what it took stays taken, but it is not one of those at once meanwhile.
        Then either `Quotas.go_on`, or `close` when nobody came."""

    def leave_engine(self, now: float) -> None:
        """Somebody else is asked for the answer: it has no share of what the engine costs from now on."""

    def need_engine(self, now: float, wall: float) -> None:
        """It waits for the engine after all."""


FREE: Final = Grant()


@dataclass(slots=True)
class _Account:
    """The counts of one key's name."""

    requests: Rate | None = None
    tokens: Rate | None = None
    at_once: int = 0

    def adopt(self, key: Key, now: int) -> None:
        """The key's limits as they are now."""
        self.requests = _adopted(self.requests, key.requests_per_minute, now)
        self.tokens = _adopted(self.tokens, key.tokens_per_minute, now)

    def headers(self, now: int) -> Headers:
        """As OpenAI sends them (platform.openai.com, rate limits)."""
        found: list[tuple[str, str]] = []
        for name, rate in (("requests", self.requests), ("tokens", self.tokens)):
            if rate is not None:
                standing = rate.standing(now)
                found.append((f"x-ratelimit-limit-{name}", str(standing.limit)))
                found.append((f"x-ratelimit-remaining-{name}", str(standing.remaining)))
                found.append((f"x-ratelimit-reset-{name}", spell(standing.reset)))
        return tuple(found)


def _adopted(rate: Rate | None, limit: int | None, now: int) -> Rate | None:
    if limit is None:
        return None
    if rate is None:
        return Rate(limit, MINUTE)
    if rate.limit != limit:
        rate.change(limit, now)
    return rate


class _Held(Grant):
    """What a request of a key with limits holds, or one whose share of the price is counted."""

    __slots__ = ("_account", "_is_away", "_name", "_open", "_requests", "_rests", "_spending", "_tokens", "headers")

    def __init__(self, name: str, account: _Account | None, spending: Spending | None) -> None:
        self._name, self._account, self._spending = name, account, spending
        self._requests: tuple[Rate, Taken] | None = None
        self._tokens: tuple[Rate, Taken] | None = None
        self._open = True
        self._rests = False
        self._is_away = False
        self.headers: Headers = ()

    def __repr__(self) -> str:
        requests, tokens = (taken and taken[1] for taken in (self._requests, self._tokens))
        return f"<Grant of {self._name!r}, {'open' if self._open else 'closed'}: requests {requests}, tokens {tokens}>"

    def take(self, account: _Account, tokens: int, now: int) -> None:
        """What is known to be there."""
        account.at_once += 1
        self._requests = _take(account.requests, 1, now)
        self._tokens = _take(account.tokens, tokens, now)
        self.headers = account.headers(now)

    def close(self, now: float, *, used: Usage | None = None, events: int = 0, reached_engine: bool = True) -> None:
        if not self._open:
            return
        self.rest(now)
        self._open = False
        tick = _tick(now)
        if self._requests is not None:
            rate, share = self._requests
            rate.settle(share, share.cost if reached_engine else 0, tick)
        if self._tokens is not None:
            rate, share = self._tokens
            kept = max(share.cost, events) if used is None else used.total
            rate.settle(share, kept if reached_engine else 0, tick)
        if self._account is not None:
            self.headers = self._account.headers(tick)

    def rest(self, now: float) -> None:
        if self._rests:
            return
        self._rests = True
        if self._account is not None:
            self._account.at_once -= 1
        self.leave_engine(now)

    def leave_engine(self, now: float) -> None:
        if self._spending is not None and not self._is_away:
            self._is_away = True
            self._spending.ended(self._name, now)

    def need_engine(self, now: float, wall: float) -> None:
        if self._spending is not None and self._is_away:
            self._is_away = False
            self._spending.began(self._name, now, wall)

    def go_on(self, key: Key, now: float, wall: float) -> None:
        """Its caller came back. Raises Refused when as many of the key's are under way as may be."""
        account = self._account
        if account is not None:
            if key.max_concurrent is not None and account.at_once >= key.max_concurrent:
                raise _too_many(account, [_all_at_once(key.max_concurrent)], _tick(now))
            account.at_once += 1
            self.headers = account.headers(_tick(now))
        self.need_engine(now, wall)
        self._rests = False


def _all_at_once(most: int) -> tuple[int, str]:
    return ONE_OF_THEM_ENDS, f"{most} at once, and as many are under way"


def _too_many(account: _Account, waits: list[tuple[int, str]], now: int) -> Refused:
    """`waits`: how long, and for which limit."""
    wait, limit = max(waits)
    seconds = -(-wait // TICKS)
    later = f" Retry-After is at most {RETRY_AFTER_MAX}." if seconds > RETRY_AFTER_MAX else ""
    return refuse(
        "rate_limit_exceeded",
        f"A limit of this key is reached: {limit}. Come back in {seconds} s.{later}",
        retry_after=seconds,
        headers=account.headers(now),
    )


def _take(rate: Rate | None, cost: int, now: int) -> tuple[Rate, Taken] | None:
    if rate is None or (taken := rate.take(cost, now)) is None:
        return None
    return rate, taken


class Quotas:
    """All keys'. `spending` is there where an hour has a price, `spent` is where it is kept over a restart."""

    def __init__(self, spending: Spending | None = None, spent: Spent | None = None) -> None:
        self.spending = spending
        self._spent = spent
        self._learnt: Elsewhere | None = None
        self._accounts: dict[str, _Account] = {}

    def __repr__(self) -> str:
        busy = {name: account for name, account in self._accounts.items() if account.at_once}
        return f"<Quotas of {len(self._accounts)} keys, busy: {busy}, {self.spending!r}>"

    @property
    def state(self) -> str:
        """How the keeping of what was spent goes: empty, or one line on what is wrong."""
        return "" if self._spent is None else self._spent.state

    def admit(self, key: Key | None, *, tokens: int, now: float, wall: float) -> Grant:
        """Let one request in. `key`: None with keys off. `tokens`: how many it may be answered with, 0 where it does
        not say. Raises Refused: `rate_limit_exceeded`, or `insufficient_quota` when its month's money is spent."""
        if key is None:
            key = _NOBODY
        if key.monthly_spend is not None:
            self._check_money(key, key.monthly_spend, now, wall)
        unlimited = key.requests_per_minute is key.tokens_per_minute is key.max_concurrent is None
        if unlimited and self.spending is None:
            return FREE
        account = None if unlimited else self._let_in(key, tokens, _tick(now))
        if self.spending is not None:
            self.spending.began(key.name, now, wall)
        grant = _Held(key.name, account, self.spending)
        if account is not None:
            grant.take(account, max(1, tokens), _tick(now))
        return grant

    def go_on(self, grant: Grant, key: Key | None, now: float, wall: float) -> Grant:
        """A grant that rested, for the caller who came back with the same request: it pays its limits once. Raises
        Refused, and the grant rests on."""
        if isinstance(grant, _Held):
            key = key or _NOBODY
            if key.monthly_spend is not None:
                self._check_money(key, key.monthly_spend, now, wall)
            grant.go_on(key, now, wall)
        return grant

    def beat(self, now: float, wall: float, price: int | None = None) -> None:
        """Every second or so: exchange what was spent with the volume, which has its own pace.

        `price`: micro-dollars that an hour costs now, where that is not always the same.
        """
        if self.spending is not None and price is not None:
            self.spending.reprice(price, now)
        if self.spending is not None and self._spent is not None:
            self._learn(self.spending)
            self._spent.offer(self.spending.books(now, wall))

    def shares(self, now: float, wall: float) -> dict[str, int] | None:
        """Micro-dollars of each key in this month; None where nobody counts."""
        return None if self.spending is None else self.spending.shares(now, wall)

    def close(self, now: float, wall: float, *, within: float = 2.0) -> bool:
        """The last figures to the volume: waits for it, so not on the loop. False when it did not take them in time."""
        self.beat(now, wall)
        return self._spent is None or self._spent.close(within)

    def _learn(self, spending: Spending) -> None:
        """What the volume said last, if that is news."""
        known = None if self._spent is None else self._spent.elsewhere
        if known is not None and known is not self._learnt:
            self._learnt = known
            spending.learn(known.month, known.spent)

    def _let_in(self, key: Key, tokens: int, now: int) -> _Account:
        """Its account, in which there is room for this request. Raises Refused."""
        account = self._accounts.get(key.name)
        if account is None:
            account = self._accounts[key.name] = _Account()
        account.adopt(key, now)
        waits = []
        if key.max_concurrent is not None and account.at_once >= key.max_concurrent:
            waits.append(_all_at_once(key.max_concurrent))
        if account.requests is not None and (wait := account.requests.wait(1, now)):
            waits.append((wait, f"{account.requests.limit} requests per minute"))
        if account.tokens is not None and (wait := account.tokens.wait(max(1, tokens), now)):
            asks = f", and this request asks for {tokens}" if tokens > 1 else ""
            waits.append((wait, f"{account.tokens.limit} tokens per minute{asks}"))
        if waits:
            raise _too_many(account, waits, now)
        return account

    def _check_money(self, key: Key, limit: int, now: float, wall: float) -> None:
        if self.spending is None:
            said = "This key has a monthly_spend, and HOURLY_PRICE is not set, so that nobody can count it."
            raise refuse("insufficient_quota", said)
        self._learn(self.spending)
        if self.spending.spent(key.name, now, wall) >= limit:
            renews = datetime.datetime.fromtimestamp(renewal(self.spending.month), datetime.UTC)
            said = f"This key has spent its {limit / 1_000_000:.2f} dollars of this month; it renews on "
            raise refuse("insufficient_quota", f"{said}{renews:%Y-%m-%d} at 00:00 UTC.")


_NOBODY: Final = Key("", b"")
"""Whoever comes while keys are off."""


def _tick(now: float) -> int:
    return round(now * TICKS)


def spell(ticks: int) -> str:
    """A duration as OpenAI spells it: `0s`, `20ms`, `7.66s`, `6m0s`, `1h0m0s`; never less than it is."""
    whole = -(-ticks * 1000 // TICKS)
    if 0 < whole < 1000:
        return f"{whole}ms"
    minutes, rest = divmod(whole, 60_000)
    seconds = f"{rest // 1000}.{rest % 1000:03}".rstrip("0").rstrip(".") + "s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds
