"""Who may call a gateway whose operator said little about keys: INTERFACE's "No key configured", place by place."""

import asyncio
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from pydantic import SecretStr

from gateway.assembly import (
    CERTIFICATE_HANDED_OVER,
    Access,
    Boot,
    CannotStart,
    engine_spec,
    idle_action,
    make_access,
    make_certificate,
    make_fallback,
    make_lease_desk,
    make_provider,
    make_quotas,
    make_warmth,
    make_watchdog,
    price_of_an_hour,
)
from gateway.conductor import Conductor, NoJournal
from gateway.conductor import Limits as ConductorLimits
from gateway.config import Settings
from gateway.errors import Refusal, Refused
from gateway.policy.admission import Admission
from gateway.policy.admission import Limits as AdmissionLimits
from gateway.policy.lifecycle.machine import Lifecycle, LifecycleSettings
from gateway.providers.base import Endpoint, Gone, Intent
from gateway.providers.local.models.models import AS_ON_THE_HUB, DAMAGED_HERE
from gateway.providers.renting import certificates
from gateway.proxy.fallback import Fallback
from gateway.proxy.outgoing import Outgoing
from gateway.proxy.purse import Reserved
from gateway.proxy.upstream import Limits
from gateway.proxy.usage import Usage
from gateway.records.metrics import Metrics
from gateway.surroundings import Platform, Surroundings, own_certificate
from tests.support.house import StubProvider
from tests.support.hub import etag_of, fake_hub
from tests.support.model_bytes import gguf_bytes

KEY = "a-key-that-nobody-guesses"
HOME = Surroundings(is_terminal=True)


def settings(folder: Path, **given: object) -> Settings:
    return Settings(data_dir=folder, **given)  # type: ignore[arg-type]


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"Authorization", f"Bearer {key}".encode())]


def name_of(access: Access, key: str) -> str:
    found = access.keys.check(bearer(key))
    return found.name if found is not None else ""


def test_a_warm_up_that_is_neither_a_word_nor_a_file_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    boot = Boot("nonce", tmp_path, None)
    given = settings(tmp_path, model="org/name", warmup=Path("sometimes"))
    with pytest.raises(CannotStart, match="WARMUP: sometimes is neither on, off nor a file that is there"):
        make_provider(given, HOME, boot)


def test_the_key_that_was_set_is_the_only_one(tmp_path: Path) -> None:
    access = make_access(settings(tmp_path, api_key=KEY), HOME)
    assert name_of(access, KEY) == "api-key"
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
        assert name_of(access, key) == "first-key"
        assert any(str(kept) in line for line in access.said)
        assert name_of(make_access(settings(folder), replace(HOME, platform=platform)), key) == "first-key"


def test_the_first_key_itself_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    """A log collector keeps what it is told, and shows it to others."""
    for is_terminal in (True, False):
        folder = tmp_path / str(is_terminal)
        access = make_access(settings(folder), replace(HOME, is_terminal=is_terminal))
        key = (folder / "keys" / "first-key.txt").read_text().strip()
        assert access.made == (key if is_terminal else None)
        assert key not in "\n".join(access.said) and access.secrets == (key,)
        assert make_access(settings(folder), HOME).made is None, "only when it was made"


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


# --- many keys

FILE = """\
[[keys]]
name = "alice"
hash = "sha256:{hash}"
monthly_spend = 5.0
"""


def keys_file(folder: Path, key: str) -> Path:
    path = folder / "keys.toml"
    path.write_text(FILE.format(hash=hashlib.sha256(key.encode()).hexdigest()))
    path.chmod(0o600)
    return path


def test_a_file_of_keys_stands_beside_the_key_that_was_set(tmp_path: Path) -> None:
    given = {"api_keys_file": keys_file(tmp_path, "sk-alice-0123456789"), "hourly_price": "0.34"}
    access = make_access(settings(tmp_path, api_key=KEY, **given), HOME)
    assert (name_of(access, KEY), name_of(access, "sk-alice-0123456789")) == ("api-key", "alice")
    assert not (tmp_path / "keys").exists(), "no first key is made where there is a file of them"


def test_a_file_of_keys_that_is_wrong_ends_the_start_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("[[keys]]\nname = 7\n")
    for file in (path, tmp_path / "nowhere"):
        with pytest.raises(CannotStart, match="API_KEYS_FILE") as caught:
            make_access(settings(tmp_path, api_keys_file=file), HOME)
        assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_a_monthly_spend_without_a_price_ends_the_start(tmp_path: Path) -> None:
    """A limit on money that nobody can count would be none."""
    with pytest.raises(CannotStart, match="HOURLY_PRICE"):
        make_access(settings(tmp_path, api_keys_file=keys_file(tmp_path, "sk-alice-0123456789")), HOME)


def test_what_was_spent_is_kept_where_an_hour_has_a_price(tmp_path: Path) -> None:
    boot = Boot("nonce", tmp_path, None, "20261121T140000Z_here")
    assert make_quotas(settings(tmp_path), boot, now=0.0).spending is None
    quotas = make_quotas(settings(tmp_path, hourly_price="0.34"), boot, now=0.0)
    quotas.close(0.0, 1_795_000_000.0)
    assert quotas.spending is not None


def test_shares_of_what_is_rented_need_no_price_of_ours(tmp_path: Path) -> None:
    """The ledger knows the vendor's, and until something runs it costs nothing."""
    rented = settings(
        tmp_path,
        provider="runpod-pod",
        runpod_api_key="rpa_0123456789abcdefghij",
        runpod_pod_id="abc",
        upstream_api_key="sk-of-the-pod-0123456789",
        monthly_budget="20",
        hourly_price="0.34",
        api_keys_file=keys_file(tmp_path, "sk-alice-0123456789"),
    )
    assert price_of_an_hour(rented) == 0
    make_access(rented, HOME)


FALLBACK = {
    "cold_start": "fallback",
    "fallback_url": "https://api.example.com/api/v1/",
    "fallback_model": "small",
    "fallback_api_key": "sk-paid",
}


async def fallback_of(folder: Path, **given: object) -> tuple[Fallback | None, Metrics]:
    boot = Boot("nonce", folder, None, "20261121T140000Z_here")
    metrics = Metrics()
    limits = Limits(connect=10, first_byte=900, answer=3600, gap=600, heartbeat=15)
    provider = StubProvider(Endpoint("http://127.0.0.1:1"))
    conductor = Conductor(
        "default",
        provider,
        Lifecycle(LifecycleSettings(), now=0.0),
        Admission(AdmissionLimits(concurrency=1, max_queue_size=1, max_queue_bytes=1, queue_timeout=1)),
        limits=ConductorLimits(stop_within=1, drain_reserve=1),
    )
    return make_fallback(settings(folder, **given), boot, conductor, metrics, limits, behind_edge=False), metrics


async def test_nobody_else_answers_unless_the_operator_says_so(tmp_path: Path) -> None:
    made, _ = await fallback_of(tmp_path, **(FALLBACK | {"cold_start": "hold"}))
    assert made is None and list(tmp_path.iterdir()) == []


async def test_the_fallback_is_asked_where_and_when_the_settings_say(tmp_path: Path) -> None:
    made, metrics = await fallback_of(tmp_path, **FALLBACK, fallback_on="queue_full")
    assert made is not None
    assert "https://api.example.com" in repr(made) and "sk-paid" not in repr(made)
    assert made.case_of("queue_full") == "queue_full" and made.case_of("start_failed") == ""
    assert b'why="waking"' in metrics.page() and b'why="queue_full"' in metrics.page()
    assert made.purse.spent is None
    made.close()


async def test_a_whole_answer_of_the_fallbacks_has_no_longer_than_a_caller_is_held(tmp_path: Path) -> None:
    made, _ = await fallback_of(tmp_path, **FALLBACK, hold_max=60)
    assert made is not None and made._limits.answer == 60
    made.close()


async def test_what_the_fallback_costs_is_kept_on_the_volume_and_shown(tmp_path: Path) -> None:
    prices = {"fallback_price_in": "0.15", "fallback_price_out": "0.6", "fallback_max_spend": "20"}
    made, metrics = await fallback_of(tmp_path, **FALLBACK, **prices)
    assert made is not None and made.purse.limit == 20_000_000
    reserved = await made.purse.reserve(Outgoing((), 1000, 1000))
    assert isinstance(reserved, Reserved)
    assert made.purse.settle(reserved, Usage(1000, 1000)) == 750
    assert b"wakegate_fallback_month_spend_dollars 0.00075" in metrics.page()
    made.close()
    assert await asyncio.get_running_loop().run_in_executor(None, made.purse.close, 5.0)
    (file,) = (tmp_path / "state" / "fallback").iterdir()
    assert '"fallback": 750' in file.read_text()


# --- The engine's model ---


async def test_a_model_that_is_found_damaged_is_fetched_again_with_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All the way: MODEL names a repository, the engine calls its file damaged, and its checksum says whether it is."""
    content = gguf_bytes(rows=200)
    run_folder = tmp_path / "run"
    run_folder.mkdir(mode=0o700)
    refuses = "/bin/sh -c 'echo tensor data is not within the file bounds; exit 1' {socket} {model}"
    async with fake_hub() as hub:
        hub.add("org/Tiny-GGUF", {"a.gguf": content})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        provider = make_provider(
            settings(tmp_path, model="org/Tiny-GGUF", engine_command=refuses),
            Surroundings(),
            Boot(nonce=f"a{os.getpid()}", run_folder=run_folder, demo_model=None),
        )

        async def start(run: int) -> str:
            instance = await provider.start(Intent("default", run), NoJournal())
            *_, last = [news async for news in provider.watch(instance)]
            assert isinstance(last, Gone)
            return last.reason

        assert await start(1) == AS_ON_THE_HUB
        (blob,) = (tmp_path / "models").rglob(f"blobs/{etag_of(content)}")
        blob.write_bytes(content[:-1] + b"!")
        assert await start(2) == DAMAGED_HERE
        assert await start(3) == AS_ON_THE_HUB
        assert len(hub.downloads()) == 2
        await provider.close()


# --- What is done with an engine that is idle


@pytest.mark.parametrize(
    ("given", "ordered", "started_for"),
    [
        ({}, "sleep", "auto"),
        ({"idle_action": "sleep", "engine": "vllm"}, "sleep", "sleep"),
        ({"idle_action": "stop"}, "stop", "stop"),
        ({"engine": "llama-server"}, "stop", "auto"),
        ({"engine": "command", "engine_command": ("serve", "{port}")}, "stop", "auto"),
        ({"idle_timeout": None}, "sleep", "stop"),
        ({"provider": "external", "upstream_url": "http://10.0.0.9:8000"}, "stop", "auto"),
    ],
)
def test_what_may_be_put_to_sleep_is_ordered_to_and_what_is_never_idle_is_not_made_ready_for_it(
    tmp_path: Path, given: dict[str, object], ordered: str, started_for: str
) -> None:
    """Where the engine follows from the model, nobody knows yet whether it can: it is asked, and stopped if not."""
    made = settings(tmp_path, **given)
    assert idle_action(made) == ordered
    assert engine_spec(made, ()).idle_action == started_for


# -- what is rented, seen from inside -----------------------------------------------------------------------------


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    """Inside a RunPod pod."""
    monkeypatch.setenv("RUNPOD_POD_ID", "pod1")
    monkeypatch.setenv("RUNPOD_API_KEY", "the-pods-own-key")
    return Surroundings(platform="runpod-pod", in_container=True)


def test_a_worker_in_a_rented_machine_looks_after_its_end(pod: Surroundings, tmp_path: Path) -> None:
    watchdog = make_watchdog(settings(tmp_path), pod)
    assert watchdog is not None and watchdog.secrets == ("the-pods-own-key",)
    assert make_lease_desk(settings(tmp_path, api_key=SecretStr(KEY)), watchdog) is not None
    assert make_lease_desk(settings(tmp_path), watchdog) is None, "nothing that a controller could sign with"


@pytest.mark.parametrize(
    ("given", "is_worker"),
    [
        ({}, True),
        ({"provider": "external", "upstream_url": "http://127.0.0.1:8080"}, True),
        ({"provider": "external", "upstream_url": "http://10.0.0.7:8080"}, False),
        ({"provider": "runpod-pod"}, False),
        ({"provider": "vast,runpod-pod"}, False),
    ],
)
def test_a_controller_in_a_rented_machine_does_not_stop_that_one(
    pod: Surroundings, tmp_path: Path, given: dict[str, object], is_worker: bool
) -> None:
    assert (make_watchdog(settings(tmp_path, **given), pod) is not None) is is_worker


@pytest.mark.parametrize("platform", ["runpod-serverless", "modal", "kubernetes", "container", "plain"])
def test_where_a_platform_ends_a_worker_nothing_of_it_is_there(
    pod: Surroundings, tmp_path: Path, platform: Platform
) -> None:
    watchdog = make_watchdog(settings(tmp_path), replace(pod, platform=platform))
    assert watchdog is None and make_lease_desk(settings(tmp_path, api_key=SecretStr(KEY)), watchdog) is None


def test_a_certificate_of_its_own_is_made_once_and_its_fingerprint_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever rents the machine copies it, once."""
    boot, own = Boot("nonce", tmp_path, None), settings(tmp_path, tls_cert=own_certificate(tmp_path))
    assert make_certificate(own, boot) is not None and make_certificate(own, boot) is not None
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0] == said[1]
    assert said[0].endswith(f"TLS_FINGERPRINT={certificates.kept(own_certificate(tmp_path)).fingerprint}")


def test_a_certificate_that_was_handed_over_is_the_one_that_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Again after a start that failed, in the same run folder."""
    handed = certificates.make()
    monkeypatch.setenv(*next(iter(handed.environment().items())))
    boot = Boot("nonce", tmp_path, None)
    for _ in range(2):
        assert make_certificate(settings(tmp_path), boot) is not None
    assert f"TLS_FINGERPRINT={handed.fingerprint}" in capsys.readouterr().out
    assert not own_certificate(tmp_path).exists()
    assert (tmp_path / "worker-tls.pem").stat().st_mode & 0o077 == 0


def test_a_pair_that_cannot_be_used_ends_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(certificates.ENVIRONMENT, "x")
    with pytest.raises(CannotStart, match=certificates.ENVIRONMENT):
        make_certificate(settings(tmp_path), Boot("nonce", tmp_path, None))


def test_both_mean_the_same_name_for_what_is_handed_over() -> None:
    assert CERTIFICATE_HANDED_OVER == certificates.ENVIRONMENT


# --- What keeps it up without being asked


class Keeps:
    """What of a conductor is told until when it is to be up."""

    def __init__(self, away: Refusal | None = None) -> None:
        self.told: list[float | None] = []
        self._away = away

    def refusal(self) -> Refusal | None:
        return self._away

    def keep_warm(self, until: float | None) -> None:
        self.told.append(until)


async def test_the_schedule_keeps_it_up_by_the_clocks_of_its_zone(tmp_path: Path) -> None:
    conductor = Keeps()
    warm_schedule = ("Mon-Sun 00:00-24:00 Asia/Kathmandu",)
    make_warmth(settings(tmp_path, warm_schedule=warm_schedule), cast(Conductor, conductor)).beat()
    (until,) = conductor.told
    assert until is not None and until > asyncio.get_running_loop().time()
    make_warmth(settings(tmp_path), cast(Conductor, none := Keeps())).beat()
    assert none.told == []


@pytest.mark.parametrize(("code", "kept"), [("insufficient_quota", 0), ("start_failed", 1)])
async def test_what_the_budget_has_no_room_for_is_not_kept_up(tmp_path: Path, code: str, kept: int) -> None:
    """A start that failed is the conductor's to try again, or not."""
    conductor = Keeps(Refusal(code, "Not now."))
    schedule = settings(tmp_path, warm_schedule=("00:00-24:00",))
    make_warmth(schedule, cast(Conductor, conductor)).beat()
    assert len(conductor.told) == kept


async def test_a_schedule_that_cannot_be_read_ends_the_start_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        CannotStart, match=r"WARM_SCHEDULE: 'Mon 08:00-09:00 Mars/Base': there is no time zone Mars/Base"
    ):
        make_warmth(settings(tmp_path, warm_schedule=("Mon 08:00-09:00 Mars/Base",)), cast(Conductor, Keeps()))


async def test_an_upstream_of_ones_own_may_show_a_certificate_that_is_known(tmp_path: Path) -> None:
    given = {"provider": "external", "tls_fingerprint": "ab" * 32}
    boot = Boot("nonce", tmp_path, None)
    provider = make_provider(settings(tmp_path, **given, upstream_url="https://10.0.0.7:8000"), Surroundings(), boot)
    instance = await provider.start(Intent("default", 1), NoJournal())
    assert instance.endpoint == Endpoint("https://10.0.0.7:8000", fingerprint="ab" * 32)
    await provider.close()
    with pytest.raises(CannotStart, match="TLS_FINGERPRINT"):
        make_provider(settings(tmp_path, **given, upstream_url="http://10.0.0.7:8000"), Surroundings(), boot)
