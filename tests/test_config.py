"""Where settings come from, in which order, and what is said about those that are wrong."""

import itertools
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from gateway import config, kinds
from gateway.config import FOREIGN, INTERNAL_NAMES, NAMES_TO_FIELD, SETTINGS, File, Settings, SettingsError
from gateway.proxy.checks import REFUSED_FIELDS, refused_fields
from health import settings as health_settings

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-0123456789abcdef"
DOTENV = Path("/checkout/.env")
TOML = "/etc/wakegate.toml"


class Disk:
    """Files that are there, by path; a missing one raises as a disk does."""

    def __init__(self, files: Mapping[str, str | File | Exception]) -> None:
        self.files = {str(path): file for path, file in files.items()}

    def __call__(self, path: Path) -> File:
        file = self.files.get(str(path), FileNotFoundError(2, "No such file or directory"))
        if isinstance(file, Exception):
            raise file
        return file if isinstance(file, File) else File(file)


def load(
    environ: Mapping[str, str] | None = None,
    *,
    dotenv: str | File | Exception | None = None,
    toml: str | File | Exception | None = None,
    files: Mapping[str, str | File | Exception] | None = None,
) -> Settings:
    disk = dict(files or {})
    environ = dict(environ or {})
    if dotenv is not None:
        disk[str(DOTENV)] = dotenv
    if toml is not None:
        disk[TOML] = toml
        environ.setdefault("WAKEGATE_CONFIG", TOML)
    return config.load(environ, read=Disk(disk), dotenv=DOTENV)


def problems(*args: Any, **kwargs: Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(*args, **kwargs)
    return caught.value.problems


# --- defaults and values ---------------------------------------------------------------------------------------------


def test_nothing_set_is_the_defaults() -> None:
    settings = load()
    assert settings.warnings == ()
    assert {field: getattr(settings, field) for field in SETTINGS} == {s.field: s.default for s in SETTINGS.values()}


def test_defaults_are_those_of_the_interface() -> None:
    s = load()
    assert (s.port, s.port_health, s.health_check_path, s.health_mode) == (8000, 8001, "/ping", "auto")
    assert (s.log_name, s.log_level, s.log_max_size) == ("llama", "info", 20 * 1024**2)
    assert (s.provider, s.engine, s.model_check, s.n_gpu_layers) == ("local", None, "any", "auto")
    assert (s.wake_on_start, s.start_timeout, s.start_max, s.idle_timeout, s.drain_timeout) == (
        True,
        600,
        1800,
        900,
        25,
    )
    assert (s.hold_grace, s.hold_max, s.heartbeat_interval) == (10, None, 15)
    assert (s.max_concurrent_requests, s.queue_timeout, s.max_connections) == (None, 300, 2000)
    assert s.max_request_body_size == 30 * 1024**2
    assert (s.connect_timeout, s.first_byte_timeout, s.answer_timeout) == (10, 900, 3600)
    assert (s.stream_idle_timeout, s.write_timeout) == (600, 60)
    assert (s.max_request_seconds, s.max_response_size, s.count_tokens) == (None, None, False)
    assert (s.auth_enabled, s.metrics_auth_enabled, s.allow_plain_http) == (None, None, False)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.name)
def test_every_setting_can_be_written_as_its_default_and_read_again(setting: config.Setting) -> None:
    """The default is a value of the setting's own kind, from the environment and from TOML."""
    nothing = setting.default is None and (setting.secret or setting.kind is kinds.MONEY or setting.kind.spell is str)
    if setting.default == () or nothing:
        return  # there is no text for "not set"
    text = setting.kind.spell(setting.default)
    assert getattr(load({setting.name: text}), setting.field) == setting.default
    assert getattr(load(toml=f"{setting.field} = '''{text}'''"), setting.field) == setting.default


EXAMPLES = {
    kinds.SWITCH_AUTO: "true",
    kinds.SIZE: "3MiB",
    kinds.SPAN: "77",
    kinds.SPAN_OR_ZERO: "77",
    kinds.SPAN_OR_NEVER: "77",
    kinds.SPAN_OR_AUTO: "77",
    kinds.SPAN_OR_OFF: "77",
    kinds.SIZE_OR_OFF: "3MiB",
    kinds.PORT: "7777",
    kinds.COUNT: "77",
    kinds.COUNT_OR_ZERO: "77",
    kinds.SHARE: "0.77",
    kinds.TEXT: "seven",
    kinds.SECRET: KEY,
    kinds.HOST: "10.7.7.7",
    kinds.URL: "http://gpu:7777",
    kinds.BASE_URL: "https://seven.example/api/v1",
    kinds.OFTEN: "7/77m",
    SETTINGS["fallback_on"].kind: "queue_full,start_failed",
    kinds.PATH: "/seven",
    kinds.PATHS: "/seven,/eight",
    kinds.MEDIA_HOSTS: "seven.example",
    kinds.NAMES: "seven,eight",
    kinds.FIELDS: "seven,eight",
    kinds.COMMAND: "seven 'and eight'",
    kinds.PAIRS: "SEVEN=7",
    kinds.LAYERS: "7",
    kinds.FOLDER: "/seven",
    kinds.FILE: "/seven.pem",
    kinds.NETWORKS: "10.7.0.0/16,private",
    kinds.ORIGINS: "https://seven.example,http://localhost:7777",
    kinds.MONEY: "0.77",
    kinds.LOG_NAME: "seven",
    kinds.PROVIDERS: "external",
    kinds.BUDGET: "77",
    kinds.FINGERPRINT: "AB:" * 31 + "AB",
    kinds.STATE_URL: "redis://seven:6379/0",
    kinds.WEB_HOOK: "https://seven.example/hook?key=1",
    kinds.SCHEDULE: "Mon-Fri 08:30-18:00 Europe/Berlin; Sat 10:00-12:00 UTC",
    kinds.VENDOR_ID: "seven7",
    kinds.VENDOR_URL: "http://127.0.0.1:7777/v2",
    kinds.PROXY_URL: "http://127.0.0.1:{port}",
    kinds.SPEC: '{"name": "seven"}',
}


def example(setting: config.Setting) -> str:
    """A right value that is not the default."""
    if setting.kind is kinds.SWITCH:
        return "no" if setting.default else "yes"
    if setting.kind not in EXAMPLES:
        return setting.kind.allowed.split(", ")[-1]
    return EXAMPLES[setting.kind]


FALLBACK = {"FALLBACK_URL": "https://api.example.com", "FALLBACK_MODEL": "small"}

NEEDED = {
    "engine": {"ENGINE_COMMAND": "x"},
    "provider": {"UPSTREAM_URL": "http://gpu:1"},
    "tls_key": {"TLS_CERT": "/c"},
    "cold_start": FALLBACK,
    "fallback_on": FALLBACK,
    "fallback_max_spend": {"FALLBACK_PRICE_IN": "0.15", "FALLBACK_PRICE_OUT": "0.6"},
    "wake_after": {**FALLBACK, "COLD_START": "fallback"},
}
"""What else must be set so that the example is no contradiction."""


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.name)
def test_every_setting_is_read_under_each_of_its_names_and_in_each_place(setting: config.Setting) -> None:
    text, more = example(setting), NEEDED.get(setting.field, {})
    for name in (name for name in setting.names if not (setting.secret and name.endswith("_FILE"))):
        meant = 77 * 60.0 if name.endswith("_MINUTES") else setting.kind.read(text)
        for settings in (
            load({name: text, **more}),
            load({f"WAKEGATE_{name}": text, **more}),
            load(more, dotenv=f"{name}={_quoted(text)}\n"),
            load(more, dotenv=f"export WAKEGATE_{name}={_quoted(text)}\n"),
            load(more, toml=f"{name.lower()} = '''{text}'''"),
        ):
            assert getattr(settings, setting.field) == meant
            assert getattr(settings, setting.field) != setting.default
            assert settings.given(setting.field)


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '\\"') + '"'


def test_a_typed_value_in_toml_means_what_the_text_means() -> None:
    settings = load(
        toml="""
        port = 9000
        auth_enabled = false
        gpu_memory_utilization = 0.5
        idle_timeout = 90
        served_model_name = ["a", "b"]
        engine_command = ["serve", "two words"]
        [engine_env]
        A = "1"
        """
    )
    assert (settings.port, settings.auth_enabled, settings.idle_timeout) == (9000, False, 90.0)
    assert settings.gpu_memory_utilization == 0.5
    assert settings.served_model_name == ("a", "b")
    assert settings.engine_command == ("serve", "two words")
    assert settings.engine_env == (("A", "1"),)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load().port = 1  # type: ignore[misc]


def test_making_settings_by_hand_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "7777")
    assert Settings().port == 8000
    assert Settings(port=9000).port == 9000


# --- the order of places ---------------------------------------------------------------------------------------------

PLACES = ("WAKEGATE_ in the environment", "WAKEGATE_ in .env", "environment", ".env", "TOML")


@pytest.mark.parametrize(
    "filled", [c for n in range(1, 6) for c in itertools.combinations(range(5), n)], ids=lambda c: "+".join(map(str, c))
)
def test_the_first_place_that_has_it_is_believed(filled: tuple[int, ...]) -> None:
    """All combinations of places: the prefix first, then the environment, .env, TOML."""
    environ, dotenv, toml = {}, "", ""
    if 0 in filled:
        environ["WAKEGATE_LOG_NAME"] = "place0"
    if 1 in filled:
        dotenv += "WAKEGATE_LOG_NAME=place1\n"
    if 2 in filled:
        environ["LOG_NAME"] = "place2"
    if 3 in filled:
        dotenv += "LOG_NAME=place3\n"
    if 4 in filled:
        toml = 'log_name = "place4"'
    assert load(environ, dotenv=dotenv, toml=toml).log_name == f"place{min(filled)}"


@pytest.mark.parametrize("empty", ["", "  ", "\t"])
def test_an_empty_value_is_no_value(empty: str) -> None:
    """Compose files pass `NAME=` for what is left out."""
    settings = load(
        {"WAKEGATE_LOG_NAME": empty, "API_KEY": empty, "MODEL_NAME": empty}, dotenv=f"LOG_NAME=x\nMODEL={empty}"
    )
    assert (settings.log_name, settings.api_key, settings.model) == ("x", None, None)


def test_the_health_port_reads_its_settings_in_the_same_order(tmp_path: Path) -> None:
    """health/settings.py is a second, small reader; here both answer the same questions."""
    (tmp_path / ".env").write_text('WAKEGATE_PORT_HEALTH=9001\nHEALTH_CHECK_PATH="/a" # comment\nHOST=10.0.0.1\n')
    toml = tmp_path / "gate.toml"
    toml.write_text('health_mode = "hold"\nhealth_check_path = "/b"\n')
    for more in ({}, {"PORT_HEALTH": "9002"}, {"WAKEGATE_PORT_HEALTH": "9003"}, {"HOST": "", "HEALTH_MODE": "ALWAYS"}):
        environ = {"WAKEGATE_CONFIG": str(toml), **more}
        ours = config.load(environ, read=lambda path: File(path.read_text()), dotenv=tmp_path / ".env")
        theirs = health_settings.read(environ, str(tmp_path))
        assert (ours.host, ours.port_health, ours.health_check_path, ours.health_mode) == (
            theirs.host,
            theirs.port,
            theirs.check_path,
            theirs.mode,
        )


# --- several names ---------------------------------------------------------------------------------------------------


def test_two_names_in_one_place_that_disagree_are_an_error() -> None:
    assert problems({"MODEL": "a", "MODEL_NAME": "b"}) == ("MODEL and MODEL_NAME disagree; set only one of them",)


def test_two_names_that_agree_are_fine_however_they_are_written() -> None:
    assert (
        load({"IDLE_TIMEOUT": "600", "INACTIVITY_LIMIT": "10m", "INACTIVITY_LIMIT_MINUTES": "10"}).idle_timeout == 600
    )
    assert load({"MODEL": "a", "MODEL_PATH": "a"}).model == "a"


def test_names_in_different_places_do_not_disagree() -> None:
    assert load({"MODEL_NAME": "a"}, dotenv="MODEL=b").model == "a"
    assert load({"WAKEGATE_MODEL_NAME": "a", "MODEL": "b"}).model == "a"


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0.0), ("1.5", 90.0), ("10", 600.0), ("never", None), ("90s", 90.0)]
)
def test_minutes_are_minutes(text: str, seconds: float | None) -> None:
    assert load({"INACTIVITY_LIMIT_MINUTES": text}).idle_timeout == seconds


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({}, "api_key"),
        ({"PROVIDER": "local"}, "api_key"),
        ({"PROVIDER": "local", "UPSTREAM_URL": "http://gpu:1"}, "api_key"),
        ({"PROVIDER": "external", "UPSTREAM_URL": "http://gpu:1"}, "upstream_api_key"),
        ({"UPSTREAM_URL": "http://gpu:1"}, "upstream_api_key"),
        ({"VLLM_API_URL": "http://gpu:1"}, "upstream_api_key"),
    ],
)
def test_vllm_api_key_is_the_callers_key_where_the_engine_is_ours(more: dict[str, str], field: str) -> None:
    settings = load({"VLLM_API_KEY": KEY, **more})
    other = {"api_key": "upstream_api_key", "upstream_api_key": "api_key"}[field]
    assert getattr(settings, field).get_secret_value() == KEY
    assert getattr(settings, other) is None
    assert not any("VLLM_API_KEY" in warning for warning in settings.warnings)


def test_the_provider_is_external_when_only_an_upstream_is_named() -> None:
    assert load({"UPSTREAM_URL": "http://gpu:1/v1"}).provider == "external"
    assert load({"UPSTREAM_URL": "http://gpu:1", "PROVIDER": "local"}).provider == "local"


def test_the_engine_is_a_command_when_only_a_command_is_given() -> None:
    assert load({"ENGINE_COMMAND": "serve {port}"}).engine == "command"
    assert load({"ENGINE_COMMAND": "serve {port}", "ENGINE": "vllm"}).engine == "vllm"


# --- secrets ---------------------------------------------------------------------------------------------------------

SECRETS = [setting for setting in SETTINGS.values() if setting.secret]


@pytest.mark.parametrize("setting", SECRETS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("prefix", ["", "WAKEGATE_"])
def test_a_secret_is_read_from_a_file_without_its_last_line_break(setting: config.Setting, prefix: str) -> None:
    for text in (KEY, f"{KEY}\n", f"{KEY}\r\n"):
        settings = load({f"{prefix}{setting.name}_FILE": "/run/key"}, files={"/run/key": text})
        assert getattr(settings, setting.field).get_secret_value() == KEY


def test_a_secret_and_its_file_must_agree() -> None:
    files = {"/run/key": KEY + "\n"}
    assert load({"API_KEY": KEY, "API_KEY_FILE": "/run/key"}, files=files).api_key == SecretStr(KEY)
    said = problems({"API_KEY": "another-0123456789", "API_KEY_FILE": "/run/key"}, files=files)
    assert said == ("API_KEY and API_KEY_FILE disagree; set only one of them",)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (None, 'API_KEY_FILE: "/run/key" cannot be read: No such file or directory'),
        (PermissionError(13, "Permission denied"), 'API_KEY_FILE: "/run/key" cannot be read: Permission denied'),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), 'API_KEY_FILE: "/run/key" is not text in UTF-8'),
        ("\n", 'API_KEY_FILE: "/run/key" is empty'),
    ],
)
def test_a_secret_file_that_cannot_be_used_is_named(file: str | Exception | None, line: str) -> None:
    assert problems({"API_KEY_FILE": "/run/key"}, files={} if file is None else {"/run/key": file}) == (line,)


def test_a_file_with_two_keys_is_refused_without_showing_them() -> None:
    (line,) = problems({"API_KEY_FILE": "/run/key"}, files={"/run/key": "hunter2-aaaaaaaa\nhunter3-bbbbbbbb\n"})
    assert line.startswith("API_KEY_FILE: the value (not shown) is not a key")
    assert "hunter" not in line


secret_texts = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=6, max_size=40).map(lambda t: f"Zq{t}")


@given(secret_texts, st.sampled_from(["", " x", "\n", "\x00"]))
def test_no_secret_ever_stands_in_an_error_a_warning_or_a_repr(secret: str, tail: str) -> None:
    environ = dict.fromkeys(("API_KEY", "ADMIN_KEY", "WAKEGATE_HF_TOKEN"), secret + tail)
    environ |= {"VLLM_API_URL": "http://gpu:1", "VLLM_API_KEY": secret + tail, "WAKEGATE_ADMN_KEY": secret}
    environ |= {"ENGINE_ENV": f"TOKEN={secret}", "ENGINE_ARGS": f"--api-key {secret}", "LLAMA_API_KEY": secret}
    environ |= {"API_KEYS": secret, "AUTH_ENABLED": "false"}
    texts: list[object] = []
    for extra in ({}, {"PORT": "eighty"}, {"UPSTREAM_API_KEY": "another"}, {"UPSTREAM_URL": f"http://u:{secret}@gpu"}):
        try:
            settings = load(environ | extra)
        except SettingsError as error:
            texts += [error, repr(error), error.__context__, *error.problems]
        else:
            texts += [
                settings,
                repr(settings),
                settings.warnings,
                settings.model_dump_json(exclude={"engine_env", "engine_args"}),
            ]
    assert texts
    assert not any(secret in str(text) for text in texts)


def test_secrets_can_be_listed_for_whoever_keeps_them_out_of_logs() -> None:
    settings = load({"API_KEY": KEY, "HF_TOKEN": "hf_x", "ADMIN_KEY": KEY + "-admin"})
    assert settings.secrets() == (KEY + "-admin", KEY, "hf_x")


# --- .env ------------------------------------------------------------------------------------------------------------


def test_a_missing_dotenv_is_nothing_to_speak_of() -> None:
    settings = load()
    assert settings.warnings == ()


def test_a_strangers_dotenv_is_left_alone_and_said_so() -> None:
    settings = load(dotenv=File("PORT=9000", trusted=False))
    assert settings.port == 8000
    assert settings.warnings == ('"/checkout/.env" is not read: its owner is neither this user nor root',)


def test_a_strangers_file_that_was_asked_for_is_an_error() -> None:
    said = problems({"WAKEGATE_ENV_FILE": "/x.env"}, files={"/x.env": File("PORT=9000", trusted=False)})
    assert said == ('WAKEGATE_ENV_FILE: "/x.env" is not read: its owner is neither this user nor root',)


def test_a_file_that_was_asked_for_takes_the_place_of_dotenv() -> None:
    assert load({"WAKEGATE_ENV_FILE": "/x.env"}, dotenv="PORT=9000", files={"/x.env": ""}).port == 8000


def test_a_file_that_was_asked_for_and_is_missing_is_an_error() -> None:
    said = problems({"WAKEGATE_ENV_FILE": "/x.env"})
    assert said == ('WAKEGATE_ENV_FILE: "/x.env" cannot be read: No such file or directory',)


def test_a_dotenv_that_is_there_and_cannot_be_read_is_an_error() -> None:
    said = problems(dotenv=PermissionError(13, "Permission denied"))
    assert said == ('.env: "/checkout/.env" cannot be read: Permission denied',)


def test_dotenv_takes_comments_exports_quotes_and_windows_line_ends() -> None:
    text = "\ufeff# a comment\r\n\r\nexport PORT = 9000 # why\r\nMODEL='a # b'\r\nAPI_KEY=\"sk-$HOME-0123456789\"\r\n"
    settings = load(dotenv=text)
    assert (settings.port, settings.model) == (9000, "a # b")
    assert settings.secrets() == ("sk-$HOME-0123456789",), "nothing is filled in"


def test_what_is_wrong_in_dotenv_is_told_with_its_line() -> None:
    said = problems(dotenv="# first\n\nPORT=eighty\n'oops\nLOG_LEVEL=loud\n")
    assert said == (
        ".env line 4: not a line of the form NAME=value",
        'PORT (.env line 3): "eighty" is not a port; allowed: 1 to 65535',
        'LOG_LEVEL (.env line 5): "loud" is not known here; allowed: debug, info, warning, error',
    )


# --- TOML ------------------------------------------------------------------------------------------------------------


def test_the_toml_file_may_be_named_in_dotenv() -> None:
    assert load(dotenv=f"WAKEGATE_CONFIG={TOML}", files={TOML: "port = 9000"}).port == 9000


def test_a_missing_toml_file_is_an_error() -> None:
    assert problems({"WAKEGATE_CONFIG": TOML}) == (
        f'WAKEGATE_CONFIG: "{TOML}" cannot be read: No such file or directory',
    )


def test_broken_toml_is_told_with_its_line() -> None:
    (line,) = problems(toml="port = 9000\nhost = \n")
    assert line.startswith("wakegate.toml: not TOML: ")
    assert "line 2" in line


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ("\nprot = 1", "prot (wakegate.toml line 2): no such setting; did you mean port?"),
        ("PORT = 1", "PORT (wakegate.toml line 1): no such setting; did you mean port?"),
        ('# \n[[upstreams]]\nname = "a"', "upstreams (wakegate.toml line 2): no such setting"),
        ("\n\nport = 'x'", 'port (wakegate.toml line 3): "x" is not a port; allowed: 1 to 65535'),
        ("port = [1]", 'port (wakegate.toml line 1): "[1]" is not a port; allowed: 1 to 65535'),
        ("port = 2026-01-01", "port (wakegate.toml line 1): "),
        ("idle_timeout = inf", "idle_timeout (wakegate.toml line 1): "),
    ],
)
def test_what_is_wrong_in_toml_is_told_with_its_line(toml: str, line: str) -> None:
    (said,) = problems(toml=toml)
    assert said.startswith(line)


# --- everything that is wrong, at once -------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_told_at_once_one_line_each() -> None:
    said = problems(
        {"PORT_HEALTH": "eighty", "ENGINE": "tensorrt", "START_TIMEOUT": "0", "PROVIDER": "external", "API_KEY": "a b"},
        dotenv="LOG_LEVEL=loud",
        toml="prot = 1",
    )
    assert len(said) == 7
    assert all("\n" not in line for line in said)
    assert str(SettingsError(said)) == "\n".join(said)


def test_a_value_that_is_wrong_causes_no_second_complaint() -> None:
    """UPSTREAM_URL is set, though not rightly: that it is needed is no news."""
    assert len(problems({"PROVIDER": "external", "UPSTREAM_URL": "gpu"})) == 1
    assert len(problems({"PROVIDER": "external", "UPSTREAM_URL": "http://a", "VLLM_API_URL": "http://b"})) == 1
    assert len(problems({"ENGINE": "command", "ENGINE_COMMAND": "'open"})) == 1


def test_a_short_name_that_others_use_is_told_how_to_avoid_them() -> None:
    (line,) = problems({"HOST": "x86_64-conda-linux-gnu"})
    assert line.endswith("(if HOST is another program's, set WAKEGATE_HOST)")


CONTRADICTIONS = [
    ({"PORT": "9000", "PORT_HEALTH": "9000"}, "PORT and PORT_HEALTH are both 9000"),
    ({"PROVIDER": "external"}, "UPSTREAM_URL: not set, and PROVIDER=external needs it"),
    ({"ENGINE": "command"}, "ENGINE_COMMAND: not set, and ENGINE=command needs it"),
    ({"TLS_CERT": "self", "TLS_KEY": "/k"}, "TLS_KEY: set, and TLS_CERT=self brings a key of its own"),
    (
        {"COLD_START": "fallback", "FALLBACK_MODEL": "m"},
        "FALLBACK_URL: not set, and COLD_START=fallback needs it; allowed: such as https://api.example.com/v1",
    ),
    (
        {"COLD_START": "fallback", "FALLBACK_URL": "https://a.example"},
        "FALLBACK_MODEL: not set, and COLD_START=fallback",
    ),
    ({"FALLBACK_ON": "queue_full", "FALLBACK_MODEL": "m"}, "FALLBACK_URL: not set, and FALLBACK_ON needs it"),
    ({"FALLBACK_MAX_SPEND": "5"}, "FALLBACK_MAX_SPEND: nothing can be counted without prices"),
    (
        {"FALLBACK_MAX_SPEND": "5", "FALLBACK_PRICE_IN": "1", "FALLBACK_PRICE_OUT": ""},
        "FALLBACK_MAX_SPEND: nothing can be counted without prices",
    ),
    ({"WAKE_AFTER": "5/10m"}, "WAKE_AFTER: whoever comes before the GPU is woken would have no answer"),
    (FALLBACK | {"FALLBACK_ON": "queue_full", "WAKE_AFTER": "5/10m"}, "WAKE_AFTER: whoever comes before"),
    (
        {"FALLBACK_URL": "http://localhost:8000/v1", "FALLBACK_ON": "queue_full", "FALLBACK_MODEL": "m"},
        'FALLBACK_URL: "http://localhost:8000/v1" is this gateway itself',
    ),
    (
        {"FALLBACK_URL": "http://api.example.org", "FALLBACK_ON": "queue_full", "FALLBACK_MODEL": "m"},
        'FALLBACK_URL: "http://api.example.org/v1" would send its key and prompts over the internet in the clear',
    ),
    *(
        ({"UPSTREAM_URL": url, "HOST": "10.9.8.7"}, f'UPSTREAM_URL: "{url.removesuffix("/v1")}" is this gateway itself')
        for url in (
            "http://localhost:8000/v1",
            "http://127.0.0.1:8000",
            "http://127.9.9.9:8001",
            "http://0.0.0.0:8000",
            "http://[::1]:8000",
            "http://[::]:8000",
            "http://[::ffff:127.0.0.1]:8000",
            "http://me.localhost:8000",
            "http://10.9.8.7:8000",
        )
    ),
    ({"UPSTREAM_URL": "http://localhost", "PORT": "80"}, 'UPSTREAM_URL: "http://localhost" is this gateway itself'),
    *(
        ({"IDLE_ACTION": "sleep", **more}, "IDLE_ACTION: sleep, and only a local vLLM can be put to sleep")
        for more in ({"ENGINE": "llama-server"}, {"UPSTREAM_URL": "http://10.0.0.9"}, {"ENGINE_COMMAND": "x {port}"})
    ),
    ({"ALLOWED_PATHS": "/tokenize,/sleep"}, "ALLOWED_PATHS: /sleep is for the gateway alone"),
    *(
        ({"UPSTREAM_URL": url}, f'UPSTREAM_URL: "{url}" would send keys and prompts over the internet in the clear')
        for url in ("http://llm.example.org", "http://8.8.8.8:9000", "http://[2606:4700::1]", "http://[::ffff:8.8.8.8]")
    ),
]


def test_every_route_that_vllm_has_for_our_sake_only_is_known() -> None:
    """As a real one listed them, started with and without those by which it is put to sleep."""

    def routes(recording: str) -> set[str]:
        text = (ROOT / "tests/providers/local/logs" / recording).read_text()
        return set(re.findall(r"Route: (\S+), ", text))

    added = routes("vllm-asleep-level-1.txt") - routes("vllm-good-eager.txt")
    assert {route for route in added if not route.startswith("/reset_")} == config.DEV_PATHS


@pytest.mark.parametrize(("environ", "line"), CONTRADICTIONS)
def test_settings_that_do_not_fit_together_are_refused(environ: dict[str, str], line: str) -> None:
    (said,) = problems(environ)
    assert said.startswith(line)
    assert "allowed: " in said


@pytest.mark.parametrize(
    "url",
    [
        "https://llm.example.org",
        "http://localhost:8080",
        "http://10.0.0.5:8000",
        "http://192.168.1.2",
        "http://172.20.0.3:8000",
        "http://100.64.0.1",
        "http://[fd00::1]:8000",
        "http://gpu:8000",
        "http://gpu.local:8000",
        "http://gpu.internal",
        "http://vllm.models.svc.cluster.local:8000",
        "http://vllm.models.svc:8000",
    ],
)
def test_plain_http_is_fine_where_the_internet_is_not_crossed(url: str) -> None:
    assert load({"UPSTREAM_URL": url}).upstream_url == url


def test_plain_http_to_a_public_address_is_somebodys_decision() -> None:
    settings = load({"UPSTREAM_URL": "http://llm.example.org", "ALLOW_PLAIN_HTTP": "yes"})
    assert settings.upstream_url == "http://llm.example.org"


# --- warnings --------------------------------------------------------------------------------------------------------

WARNINGS: list[tuple[dict[str, str], str]] = [
    ({"WAKEGATE_PROT": "1"}, "WAKEGATE_PROT: no such setting; did you mean WAKEGATE_PORT?"),
    ({"WAKEGATE_SOMETHING_ELSE": "1"}, "WAKEGATE_SOMETHING_ELSE: no such setting"),
    ({"IDLE_TIMEOT": "1"}, "IDLE_TIMEOT is not a setting; did you mean IDLE_TIMEOUT?"),
    ({"IDEL_TIMEOUT": "1"}, "IDEL_TIMEOUT is not a setting; did you mean IDLE_TIMEOUT?"),
    ({"CHECK_MODEL": "1"}, "CHECK_MODEL is not a setting; did you mean MODEL_CHECK?"),
    ({"API_KEY_FIEL": "/x"}, "API_KEY_FIEL is not a setting; did you mean API_KEY_FILE?"),
    ({"HEALTH_PORT": "1"}, "HEALTH_PORT is not read here; here it is called PORT_HEALTH"),
    ({"OLLAMA_HOST": "0.0.0.0"}, "OLLAMA_HOST is not read here; here it is called HOST and PORT"),
    ({"LLAMA_ARG_CTX_SIZE": "1"}, "LLAMA_ARG_CTX_SIZE is not read here; here it is called CTX_SIZE"),
    ({"LLAMA_ARG_MLOCK": "1"}, "LLAMA_ARG_MLOCK is not read here, nor by the engine; here it is called ENGINE_ARGS"),
    ({"TENSOR_PARALLEL_SIZE": "2"}, "TENSOR_PARALLEL_SIZE is not read here; here it is called ENGINE_ARGS"),
    ({"INACTIVITY_TIMEOUT": "2"}, "INACTIVITY_TIMEOUT is not read here; here it is called IDLE_TIMEOUT"),
    ({"API_KEY": "short"}, "API_KEY has fewer than 16 characters; a key that nobody guesses is longer"),
    ({"ADMIN_KEY": "short"}, "ADMIN_KEY has fewer than 16 characters; a key that nobody guesses is longer"),
    ({"API_KEY": KEY, "ADMIN_KEY": KEY}, "ADMIN_KEY is the same as API_KEY: every caller is an admin"),
    ({"API_KEY": KEY, "AUTH_ENABLED": "no"}, "API_KEY is set, and nobody is asked for a key: AUTH_ENABLED is false"),
    (
        {"API_KEYS_FILE": "/k", "AUTH_ENABLED": "no"},
        "API_KEYS_FILE is set, and nobody is asked for a key: AUTH_ENABLED is false",
    ),
    (
        {"LOG_TOTAL_SIZE": "20M"},
        "LOG_TOTAL_SIZE is less than three times LOG_MAX_SIZE: hardly anything is kept beside the live files",
    ),
    ({"UPSTREAM_URL": "http://gpu:1", "PROVIDER": "local"}, "UPSTREAM_URL is not used: PROVIDER is local"),
    (
        {"UPSTREAM_URL": "https://abc.api.runpod.ai"},
        'UPSTREAM_URL: "https://abc.api.runpod.ai" scales to zero by itself; being looked at every 15 s keeps it '
        "awake, and is paid for",
    ),
    ({"ENGINE": "vllm", "ENGINE_COMMAND": "x"}, "ENGINE_COMMAND is not used: ENGINE is vllm"),
    (
        {"ENGINE_ARGS": "--sleep-idle-seconds 300"},
        "ENGINE_ARGS: --sleep-idle-seconds can crash llama-server (CVE-2026-43631); IDLE_TIMEOUT stops it instead",
    ),
    (FALLBACK, "FALLBACK_URL is not used: COLD_START is not fallback, and FALLBACK_ON names no case"),
    (
        FALLBACK | {"COLD_START": "fallback", "UPSTREAM_URL": "https://api.example.com"},
        "FALLBACK_URL is where UPSTREAM_URL is: what does not serve there does not answer in its place, either",
    ),
    (
        FALLBACK | {"COLD_START": "fallback", "FALLBACK_PRICE_IN": "0.15"},
        "FALLBACK_PRICE_IN and FALLBACK_PRICE_OUT count only together; one of them is not set",
    ),
    ({"START_TIMEOUT": "1h"}, "START_TIMEOUT is longer than START_MAX, which ends a start first"),
]


@pytest.mark.parametrize(("environ", "line"), WARNINGS, ids=lambda v: " ".join(v) if isinstance(v, dict) else "")
def test_what_was_probably_not_meant_is_warned_about(environ: dict[str, str], line: str) -> None:
    assert load(environ).warnings == (line,)


def test_an_upstream_that_always_runs_is_not_warned_about() -> None:
    """A machine whose name only ends alike is nobody's fleet."""
    assert load({"UPSTREAM_URL": "https://notmodal.run"}).warnings == ()
    assert load({"UPSTREAM_URL": "https://abc-8000.proxy.runpod.net"}).warnings == ()


def test_a_name_in_dotenv_is_warned_about_with_its_line() -> None:
    assert load(dotenv="\nWAKEGATE_PROT=1").warnings == (
        "WAKEGATE_PROT (.env line 2): no such setting; did you mean WAKEGATE_PORT?",
    )


def test_a_foreign_name_is_not_spoken_of_where_ours_is_set() -> None:
    assert load({"OLLAMA_HOST": "0.0.0.0", "PORT": "9000"}).warnings == ()
    assert load({"HEALTH_PORT": "1", "WAKEGATE_PORT_HEALTH": "9001"}).warnings == ()


@pytest.mark.parametrize("name", FOREIGN)
def test_every_foreign_name_leads_to_one_of_ours(name: str) -> None:
    assert name not in NAMES_TO_FIELD
    assert all(ours in NAMES_TO_FIELD for ours in FOREIGN[name])
    assert any(line.startswith(f"{name} is not read here") for line in load({name: "1"}).warnings)


def test_ordinary_variables_are_left_in_peace() -> None:
    """What shells, desktops, CI, conda, Kubernetes and GPU images set; none of it was meant for us."""
    ordinary = (
        "PATH HOME USER LOGNAME SHELL PWD OLDPWD LANG LC_ALL TERM TMPDIR HOSTNAME HOSTTYPE EDITOR PAGER DISPLAY MAIL "
        "SHLVL XDG_DATA_DIRS XDG_RUNTIME_DIR SSH_AUTH_SOCK SSH_CONNECTION DBUS_SESSION_BUS_ADDRESS CI GITHUB_TOKEN "
        "GITHUB_ACTIONS CONDA_PREFIX CONDA_DEFAULT_ENV VIRTUAL_ENV PYTHONPATH PIP_INDEX_URL CC CXX CFLAGS "
        "LD_LIBRARY_PATH LD_PRELOAD CUDA_VERSION CUDA_HOME CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES "
        "NVIDIA_DRIVER_CAPABILITIES NCCL_DEBUG HF_HOME HF_ENDPOINT HF_HUB_OFFLINE HF_HUB_CACHE TRANSFORMERS_CACHE "
        "TORCH_HOME OMP_NUM_THREADS VLLM_USE_V1 OPENAI_API_KEY OPENAI_BASE_URL ANTHROPIC_API_KEY AWS_ACCESS_KEY_ID "
        "REDIS_URL DATABASE_URL SECRET_KEY API_URL BASE_URL MODE DEBUG LOG LOGS ENV NODE_ENV HOST_IP POD_NAME POD_IP "
        "NAMESPACE READ_TIMEOUT QUERY_TIMEOUT DATA PORTS KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT "
        "KUBERNETES_PORT KUBERNETES_PORT_443_TCP_ADDR RUNPOD_POD_ID RUNPOD_API_KEY RUNPOD_DC_ID RUNPOD_TCP_PORT_22 "
        "PUBLIC_IPADDR VAST_TCP_PORT_8000 CONTAINER_ID MODAL_TASK_ID "
    )
    assert load(dict.fromkeys(ordinary.split(), "1")).warnings == ()


def test_what_our_own_parts_tell_each_other_is_known(tmp_path: Path) -> None:
    environ = dict.fromkeys(INTERNAL_NAMES - {"WAKEGATE_CONFIG", "WAKEGATE_ENV_FILE"}, "x")
    assert load(environ).warnings == ()


def test_a_kubernetes_service_called_wakegate_sets_nothing() -> None:
    """Kubernetes tells every pod of every service: WAKEGATE_PORT is then an address, and nobody's setting."""
    settings = load(
        {
            "WAKEGATE_PORT": "tcp://10.3.2.1:8000",
            "WAKEGATE_SERVICE_HOST": "10.3.2.1",
            "WAKEGATE_SERVICE_PORT": "8000",
            "WAKEGATE_SERVICE_PORT_HTTP": "8000",
            "WAKEGATE_PORT_8000_TCP": "tcp://10.3.2.1:8000",
            "WAKEGATE_PORT_8000_TCP_ADDR": "10.3.2.1",
            "WAKEGATE_HEALTH_PORT": "tcp://10.3.2.2:8001",
            "PORT": "9000",
        }
    )
    assert (settings.port, settings.warnings) == (9000, ())


@pytest.mark.parametrize(
    ("a", "b", "close"),
    [
        ("ENGINE", "ENGINE", False),
        ("ENGINES", "ENGINE", True),
        ("NGINE", "ENGINE", True),
        ("ENGIEN", "ENGINE", True),
        ("ENGIXE", "ENGINE", True),
        ("ENGIXXE", "ENGINE", False),
        ("GINE", "ENGINE", False),
        ("", "A", True),
    ],
)
def test_one_slip_is_one_letter_or_two_swapped(a: str, b: str, close: bool) -> None:
    assert config._one_slip(a, b) is close
    assert config._one_slip(b, a) is close


# --- what else settings can do ---------------------------------------------------------------------------------------


def test_the_line_grows_with_what_runs_at_once_unless_somebody_set_it() -> None:
    assert [load().queue_size(slots) for slots in (1, 64, 100)] == [256, 256, 400]
    assert load({"MAX_QUEUE_SIZE": "0"}).queue_size(100) == 0


def test_the_repr_is_short_and_says_what_differs() -> None:
    settings = load({"PORT": "9000", "API_KEY": KEY, "ENGINE_ARGS": "--api-key hunter2"})
    assert repr(settings) == "Settings(api_key=…, engine_args=…, port=9000, provider='local')"
    assert repr(load()) == "Settings(provider='local')"


def test_changing_settings_keeps_what_was_warned_about() -> None:
    settings = load({"WAKEGATE_PROT": "1"})
    changed = settings.changed({"port": 9000}, ["another"])
    assert (changed.port, settings.port) == (9000, 8000)
    assert changed.warnings == (*settings.warnings, "another")


def test_the_fields_refused_by_default_are_those_that_the_checks_know() -> None:
    """Two rooms name them: here as the documented default, there with the reasons."""
    assert set(SETTINGS["refuse_fields"].default) == REFUSED_FIELDS  # type: ignore[call-overload]
    for text, meant in (("none", set()), ("+x", REFUSED_FIELDS | {"x"}), ("a,b", {"a", "b"})):
        assert refused_fields(",".join(load({"REFUSE_FIELDS": text}).refuse_fields)) == meant


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.name)
def test_every_setting_has_one_plain_sentence(setting: config.Setting) -> None:
    assert re.fullmatch(r"[A-Z`].*[^ ]\.", setting.sentence)
    assert setting.group
    assert setting.kind.allowed


def test_no_name_means_two_things() -> None:
    names = [name for setting in SETTINGS.values() for name in setting.names]
    assert len(names) == len(set(names))
    assert not INTERNAL_NAMES & {f"WAKEGATE_{name}" for name in names}


def test_reading_settings_imports_no_more_than_it_needs() -> None:
    """The gateway has 400 ms from its start to its first answer, and pydantic alone takes a third of them."""
    code = "import sys, gateway.config as c; c.load({}, read=None); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    dear = {"typer", "rich", "aiohttp", "huggingface_hub", "tomllib", "dotenv", "difflib", "gateway.surroundings"}
    dear |= {"pydantic_settings", "argparse"}
    assert not dear & set(done.stdout.split())


# --- what is rented --------------------------------------------------------------------------------------------------

RENTS = {
    "PROVIDER": "runpod-pod",
    "RUNPOD_API_KEY": KEY,
    "RUNPOD_POD_ID": "abc123",
    "UPSTREAM_API_KEY": KEY[::-1],
    "API_KEY": KEY + "2",
    "MONTHLY_BUDGET": "20",
}
VAST = {**RENTS, "PROVIDER": "vast", "VAST_API_KEY": KEY, "VAST_INSTANCE_ID": "77", "ALLOW_PLAIN_HTTP": "true"}


def without(settings: dict[str, str], *names: str, **more: str) -> dict[str, str]:
    return {name: value for name, value in settings.items() if name not in names} | more


def test_a_pod_can_be_rented_with_six_settings() -> None:
    settings = load(RENTS)
    assert (settings.providers, settings.rents, settings.monthly_budget) == (("runpod-pod",), True, 20_000_000)
    assert settings.warnings == ()


def test_providers_are_a_list_in_order_or_one() -> None:
    assert load(VAST | {"PROVIDER": "vast, runpod-pod"}).providers == ("vast", "runpod-pod")
    assert load().providers == ("local",)
    for wrong in ("local,vast", "vast,vast", ",", "pod"):
        assert problems({"PROVIDER": wrong})


def test_an_unlimited_budget_must_be_typed() -> None:
    assert load(RENTS | {"MONTHLY_BUDGET": "unlimited"}).monthly_budget == "unlimited"
    (warning,) = load(RENTS | {"MONTHLY_BUDGET": "0"}).warnings
    assert warning.startswith("MONTHLY_BUDGET is 0: nothing is ever rented")
    for wrong in ("", "none", "off", "-1", "infinite"):
        assert any("MONTHLY_BUDGET" in line for line in problems(RENTS | {"MONTHLY_BUDGET": wrong}))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (without(RENTS, "MONTHLY_BUDGET"), "MONTHLY_BUDGET"),
        (without(RENTS, "RUNPOD_API_KEY"), "RUNPOD_API_KEY"),
        (without(RENTS, "RUNPOD_POD_ID"), "RUNPOD_POD_ID"),
        (without(RENTS, "UPSTREAM_API_KEY"), "UPSTREAM_API_KEY"),
        (without(RENTS, "API_KEY"), "API_KEY"),
        (without(RENTS, "API_KEY", AUTH_ENABLED="false"), "AUTH_ENABLED"),
        (without(RENTS, IDLE_TIMEOUT="0"), "IDLE_TIMEOUT"),
        (without(RENTS, UPSTREAM_URL="http://gpu:1"), "UPSTREAM_URL"),
        (without(RENTS, RUNPOD_STRATEGY="recreate"), "RUNPOD_POD_SPEC"),
        (without(RENTS, "RUNPOD_POD_ID", RUNPOD_POD_SPEC="{}", RUNPOD_STRATEGY="resume"), "RUNPOD_POD_ID"),
        (without(RENTS, RUNPOD_CONNECT="tcp"), "RUNPOD_CONNECT"),
        (without(RENTS, RUNPOD_API_URL="https://evil.example/v2"), "RUNPOD_API_URL"),
        (without(RENTS, RUNPOD_API_URL="https://evilrunpod.io"), "RUNPOD_API_URL"),
        (without(RENTS, RUNPOD_API_URL="http://api.runpod.io/v2"), "RUNPOD_API_URL"),
        (without(RENTS, RUNPOD_API_URL="http://a.example/v2", ALLOW_CUSTOM_VENDOR_URL="true"), "RUNPOD_API_URL"),
        (without(RENTS, RUNPOD_PROXY_URL="https://{pod_id}.evil.example"), "RUNPOD_PROXY_URL"),
        (without(RENTS, RUNPOD_PROXY_URL="http://127.0.0.1:{port}"), "RUNPOD_PROXY_URL"),  # both are 8000
        (without(RENTS, RUNPOD_API_URL="http://localhost:8000/v2"), "RUNPOD_API_URL"),
        (without(VAST, "VAST_API_KEY"), "VAST_API_KEY"),
        (without(VAST, "VAST_INSTANCE_ID"), "VAST_INSTANCE_ID"),
        (without(VAST, VAST_INSTANCE_ID="abc123"), "VAST_INSTANCE_ID"),
        (without(VAST, "ALLOW_PLAIN_HTTP"), "TLS_FINGERPRINT"),
        (without(VAST, VAST_API_URL="https://vast.ai.evil.example"), "VAST_API_URL"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nobody_rents_by_mistake(settings: dict[str, str], name: str) -> None:
    """One line that names the setting and what is allowed, and no secret."""
    (line,) = problems(settings)
    assert line.startswith(f"{name}: ") and "; allowed: " in line
    assert KEY not in line


def test_a_vendor_elsewhere_is_allowed_by_its_own_setting_or_on_loopback() -> None:
    for url in ("http://127.0.0.1:9/v2", "http://localhost:9/v2", "https://eu.api.runpod.io/v2"):
        assert load(RENTS | {"RUNPOD_API_URL": url}).runpod_api_url == url
    elsewhere = RENTS | {"ALLOW_CUSTOM_VENDOR_URL": "true"}
    load(elsewhere | {"RUNPOD_API_URL": "https://proxy.example/v2"})
    load(elsewhere | {"RUNPOD_API_URL": "http://proxy.example/v2", "ALLOW_PLAIN_HTTP": "true"})
    load(elsewhere | {"RUNPOD_API_URL": "http://emulator.internal:9/v2"})


def test_a_created_pod_over_tcp_is_handed_its_certificate() -> None:
    load(without(RENTS, "RUNPOD_POD_ID", RUNPOD_POD_SPEC="{}", RUNPOD_CONNECT="tcp"))


def test_inside_a_pod_runpods_own_names_mean_the_pod_itself() -> None:
    inside = without(RENTS, RUNPOD_DC_ID="EU-RO-1", RUNPOD_POD_ID="itself")
    assert any("RUNPOD_POD_ID" in line for line in problems(inside))
    other = {"WAKEGATE_RUNPOD_POD_ID": "another", "WAKEGATE_RUNPOD_API_KEY": KEY}
    assert load(inside | other).runpod_pod_id == "another"


def test_where_to_alert_and_where_the_ledger_is_are_secrets_of_the_log() -> None:
    settings = load(RENTS | {"ALERT_URL": "https://hooks.example/T0/secret", "STATE_URL": "redis://:pass@host/0"})
    assert {"https://hooks.example/T0/secret", "redis://:pass@host/0"} <= set(settings.secrets())
    assert "hooks" not in repr(settings) and "pass@" not in repr(settings)
