"""Who may call a gateway whose operator said little about keys: INTERFACE's "No key configured", place by place."""

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.assembly import CannotStart, make_access
from gateway.config import Settings
from gateway.errors import Refused
from gateway.surroundings import Platform, Surroundings

KEY = "a-key-that-nobody-guesses"
HOME = Surroundings(is_terminal=True)


def settings(folder: Path, **given: object) -> Settings:
    return Settings(data_dir=folder, **given)  # type: ignore[arg-type]


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"Authorization", f"Bearer {key}".encode())]


def test_the_key_that_was_set_is_the_only_one(tmp_path: Path) -> None:
    access = make_access(settings(tmp_path, api_key=KEY), HOME)
    assert access.keys.check(bearer(KEY)) == "api-key"
    with pytest.raises(Refused):
        access.keys.check(bearer("another"))
    assert not list(tmp_path.iterdir()), "no key is made where there is one"


@pytest.mark.parametrize("platform", ["modal", "kubernetes"])
def test_a_fleet_without_a_key_does_not_start(tmp_path: Path, platform: Platform) -> None:
    """A key made in one of many would be lost with it, and none would open the GPU to strangers."""
    with pytest.raises(CannotStart, match="API_KEY"):
        make_access(settings(tmp_path), replace(HOME, platform=platform))
    assert not list(tmp_path.iterdir())


def test_runpods_edge_asks_for_a_key_itself_and_that_is_said(tmp_path: Path) -> None:
    access = make_access(settings(tmp_path), replace(HOME, platform="runpod-serverless"))
    assert not access.keys.enabled
    assert len(access.said) == 1 and "RunPod" in access.said[0]


def test_elsewhere_a_first_key_is_made_and_found_again(tmp_path: Path) -> None:
    """A pod, Vast and a box at home stand open to everybody who finds the port."""
    for platform in ("plain", "container", "runpod-pod", "vast"):
        folder = tmp_path / platform
        access = make_access(settings(folder), replace(HOME, platform=platform))
        kept = folder / "keys" / "first-key.txt"
        key = kept.read_text().strip()
        assert kept.stat().st_mode & 0o777 == 0o600
        assert access.keys.check(bearer(key)) == "first-key"
        assert any(str(kept) in line for line in access.said)
        assert make_access(settings(folder), replace(HOME, platform=platform)).keys.check(bearer(key)) == "first-key"


def test_the_first_key_itself_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    """A log collector keeps what it is told, and shows it to others."""
    for is_terminal in (True, False):
        folder = tmp_path / str(is_terminal)
        said = "\n".join(make_access(settings(folder), replace(HOME, is_terminal=is_terminal)).said)
        assert ((folder / "keys" / "first-key.txt").read_text().strip() in said) is is_terminal


def test_keys_are_off_only_by_somebodys_decision_and_that_is_said(tmp_path: Path) -> None:
    access = make_access(settings(tmp_path, auth_enabled="false"), HOME)
    assert not access.keys.enabled
    assert "AUTH_ENABLED=false" in access.said[0]


def test_a_key_that_cannot_be_kept_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(CannotStart, match="DATA_DIR") as caught:
        make_access(settings(tmp_path / "data"), HOME)
    assert "\n" not in str(caught.value)


def test_without_an_admin_key_nobody_is_an_admin(tmp_path: Path) -> None:
    assert not make_access(settings(tmp_path, api_key=KEY), HOME).admin.knows(bearer(KEY))
    assert make_access(settings(tmp_path, api_key=KEY, admin_key=KEY + "!"), HOME).admin.knows(bearer(KEY + "!"))
