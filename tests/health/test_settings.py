"""Where the health port finds its settings, and what it says about wrong ones."""

import os

import pytest

from gateway import surroundings
from health.settings import CONTAINER_NAMES, Wrong, in_container, read


def settings(home, **environ):
    return read({name: str(value) for name, value in environ.items()}, str(home))


def test_the_defaults(tmp_path):
    assert repr(settings(tmp_path)) == "<Settings 0.0.0.0:8001 /ping auto>"


def test_the_order_of_places(tmp_path):
    """With the prefix before without it; the environment, .env, the TOML file, the default."""
    toml = tmp_path / "wakegate.toml"
    toml.write_text('port_health = 1\nhealth_mode = "hold"\n[section]\nport_health = 9\n')
    assert settings(tmp_path, WAKEGATE_CONFIG=toml).port == 1
    (tmp_path / ".env").write_text("PORT_HEALTH=2\n")
    assert settings(tmp_path, WAKEGATE_CONFIG=toml).port == 2
    (tmp_path / ".env").write_text("PORT_HEALTH=2\nWAKEGATE_PORT_HEALTH=3\n")
    assert settings(tmp_path, PORT_HEALTH=4).port == 3
    assert settings(tmp_path, PORT_HEALTH=4, WAKEGATE_PORT_HEALTH=5).port == 5
    (tmp_path / ".env").write_text(f"PORT_HEALTH=2\nWAKEGATE_CONFIG={toml}\n")
    assert settings(tmp_path, PORT_HEALTH=4).port == 4
    assert settings(tmp_path).mode == "hold"


def test_an_empty_value_counts_as_not_set(tmp_path):
    """Compose files pass `NAME=` for what is left out."""
    assert settings(tmp_path, PORT_HEALTH="", HEALTH_MODE="").port == 8001


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("HEALTH_CHECK_PATH=/a", "/a"),
        ("export HEALTH_CHECK_PATH=/a", "/a"),
        ("  HEALTH_CHECK_PATH = '/a'  ", "/a"),
        ('HEALTH_CHECK_PATH="/a#b" # why', "/a#b"),
        ("HEALTH_CHECK_PATH=/a # why", "/a"),
        ("#HEALTH_CHECK_PATH=/a", "/ping"),
        ("HEALTH_CHECK_PATH", "/ping"),
    ],
)
def test_lines_of_a_dotenv_file(tmp_path, line, value):
    (tmp_path / "other.env").write_text(f"\n{line}\n")
    assert settings(tmp_path, WAKEGATE_ENV_FILE=tmp_path / "other.env").check_path == value


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_dotenv_file_of_somebody_else_is_not_read(tmp_path):
    (tmp_path / ".env").write_text("PORT_HEALTH=2\n")
    os.chown(tmp_path / ".env", 12345, 12345)
    assert settings(tmp_path).port == 8001


def test_without_keys_only_this_machine_may_ask_unless_in_a_container(tmp_path, monkeypatch):
    def host(**environ):
        return settings(tmp_path, **environ).host

    monkeypatch.setattr("health.settings.in_container", lambda environ: bool(environ.get("container")))
    assert host() == "0.0.0.0"
    assert host(AUTH_ENABLED="false") == "127.0.0.1"
    assert host(AUTH_ENABLED="off", HOST="0.0.0.0") == "0.0.0.0"
    assert host(AUTH_ENABLED="false", container="lxc") == "0.0.0.0"
    assert host(AUTH_ENABLED="true") == "0.0.0.0"


def test_what_tells_a_container():
    def nowhere(path):
        return False

    assert not in_container({}, nowhere)
    assert in_container({}, lambda path: path == "/.dockerenv")
    assert in_container({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, nowhere)


class NoFiles(surroundings.ThisMachine):
    """This machine without the files that tell a container."""

    def exists(self, path: str) -> bool:
        return False


@pytest.mark.parametrize("name", [*CONTAINER_NAMES, "HOSTNAME"])
def test_both_ports_agree_on_what_a_container_is(name):
    environ = {name: "1"}
    assert in_container(environ, lambda path: False) == surroundings.look(environ, NoFiles()).in_container


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"PORT_HEALTH": "80x"}, 'PORT_HEALTH is "80x": give a whole number from 1 to 65535'),
        ({"PORT_HEALTH": "65536"}, 'PORT_HEALTH is "65536": give a whole number from 1 to 65535'),
        ({"PORT_HEALTH": "٣"}, 'PORT_HEALTH is "٣": give a whole number from 1 to 65535'),
        (
            {"HEALTH_CHECK_PATH": "ping"},
            'HEALTH_CHECK_PATH is "ping": give a plain path that begins with a slash, such as /ping',
        ),
        ({"HEALTH_MODE": "nice"}, 'HEALTH_MODE is "nice": choose one of auto, strict, hold, always'),
    ],
)
def test_a_wrong_value_is_one_line_that_names_setting_value_and_remedy(tmp_path, environ, line):
    with pytest.raises(Wrong) as caught:
        settings(tmp_path, **environ)
    assert caught.value.args == (line,)


def test_all_wrong_values_are_named_at_once(tmp_path):
    with pytest.raises(Wrong) as caught:
        settings(tmp_path, PORT_HEALTH="x", HEALTH_MODE="y", HEALTH_CHECK_PATH="z")
    assert len(caught.value.args) == 3


def test_a_config_file_that_is_missing_or_no_toml_is_said(tmp_path):
    with pytest.raises(Wrong, match="No such file or directory; give the path of a readable TOML file"):
        settings(tmp_path, WAKEGATE_CONFIG=tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("port_health = \n")
    with pytest.raises(Wrong, match=r"bad\.toml\": not TOML"):
        settings(tmp_path, WAKEGATE_CONFIG=tmp_path / "bad.toml")
