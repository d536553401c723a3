"""Which price is believed: pure figures, micro-dollars per hour, and the sentence that explains them."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Price:
    """Micro-dollars per hour, and where the figure comes from, for `wakegate spend --why`."""

    amount: int
    why: str


def dollars(micros: int) -> str:
    """$0.34, with more digits only where there are some."""
    cents, rest = divmod(micros, 10_000)
    if not rest:
        return f"${cents // 100}.{cents % 100:02d}"
    return f"${micros // 1_000_000}.{micros % 1_000_000:06d}".rstrip("0")


def believed(figures: Iterable[tuple[int | None, str]]) -> Price | None:
    """The highest of the figures that say something, with what it exceeds. None: nobody says anything.

    A vendor says 0 of what sleeps: that is no price. Each figure comes with its source: (340000, "RunPod's figure").
    """
    known = [(amount, source) for amount, source in figures if amount]
    if not known:
        return None
    amount, source = max(known, key=lambda figure: figure[0])
    lower = [f"{dollars(other)} ({name})" for other, name in known if other < amount]
    return Price(amount, f"{source}, more than {' and '.join(lower)}" if lower else source)
