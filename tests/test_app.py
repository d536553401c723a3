"""What the composition root itself decides."""

import pytest

from gateway.app import LARGE_MODEL, SLOW_START, health_mode, resident_memory


@pytest.mark.parametrize(
    ("asked", "platform", "slowest", "size", "mode"),
    [
        ("strict", "runpod-serverless", 500, LARGE_MODEL * 2, "strict"),
        ("always", "plain", None, 0, "always"),
        ("auto", "plain", 500, LARGE_MODEL * 2, "strict"),
        ("auto", "kubernetes", 500, LARGE_MODEL * 2, "strict"),
        ("auto", "runpod-serverless", SLOW_START + 1, 0, "hold"),
        ("auto", "runpod-serverless", SLOW_START, LARGE_MODEL * 2, "strict"),
        ("auto", "runpod-serverless", None, LARGE_MODEL + 1, "hold"),
        ("auto", "runpod-serverless", None, LARGE_MODEL, "strict"),
        ("auto", "runpod-serverless", None, 0, "strict"),
    ],
)
def test_health_mode_auto_holds_where_runpod_would_give_up(
    asked: str, platform: str, slowest: float | None, size: int, mode: str
) -> None:
    """What the last starts took decides; the model's size only where there were none."""
    assert health_mode(asked, platform, lambda: slowest, lambda: size) == mode


def test_the_memory_that_is_held_is_known() -> None:
    held = resident_memory()
    assert 10 << 20 < held < 8 << 30
    more = bytearray(64 << 20)
    assert resident_memory() - held > 32 << 20
    del more
