"""How the command line finds a gateway, and hears it: those of its own user that listen, and nobody else."""

import json
import socket
from pathlib import Path

import pytest

from gateway.orders import NoAnswer, Running, address_of, running, socket_name
from tests.support.answering import gateway


def found(folder: Path, port: int = 8000) -> list[tuple[int, str]]:
    """Of those below this folder: others may run on this machine."""
    seen = running(port, {"WAKEGATE_RUN_DIR": str(folder)})
    return [(each.port, str(each.path.parent)) for each in seen if each.path.is_relative_to(folder)]


def test_one_is_found_by_its_port(tmp_path: Path) -> None:
    with gateway(tmp_path, 8000), gateway(tmp_path, 9000):
        assert found(tmp_path) == [(8000, str(tmp_path))]
        assert found(tmp_path, 9000) == [(9000, str(tmp_path))]
        assert found(tmp_path, 7000) == []
        assert [port for port, _ in found(tmp_path, 0)] == [8000, 9000]


def test_a_folder_with_a_long_name_is_no_hindrance(tmp_path: Path) -> None:
    """A socket's address has room for 107 bytes."""
    folder = tmp_path / ("x" * 120)
    with gateway(folder, 8000, b'{"ok": true}\n'):
        (there,) = (each for each in running(8000, {"WAKEGATE_RUN_DIR": str(folder)}) if each.path.parent == folder)
        assert there.ask({"do": "status"}) == {"ok": True}


def test_what_a_killed_gateway_left_is_none(tmp_path: Path) -> None:
    with gateway(tmp_path):
        pass
    assert (tmp_path / socket_name(8000)).exists() and found(tmp_path) == []


@pytest.mark.parametrize("name", ["wakegate.1a2b3c4d", "wakegate-xyz"])
def test_run_folders_are_looked_for_where_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("gateway.orders.tempfile.gettempdir", lambda: str(tmp_path))
    with gateway(tmp_path / name):
        assert tmp_path / name in [each.path.parent for each in running(8000, {})]


def test_a_folder_that_others_may_enter_or_a_link_to_one_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In /tmp anybody may lay one, and would hear what is ordered."""
    monkeypatch.setattr("gateway.orders.tempfile.gettempdir", lambda: str(tmp_path))
    open_folder = tmp_path / "wakegate.open"
    with gateway(open_folder), gateway(tmp_path / "elsewhere"):
        open_folder.chmod(0o755)
        (tmp_path / "wakegate.link").symlink_to(tmp_path / "elsewhere")
        assert [each for each in running(8000, {}) if each.path.is_relative_to(tmp_path)] == []


def test_places_that_are_not_there_are_no_trouble(tmp_path: Path) -> None:
    assert found(tmp_path / "none") == []


def test_a_question_is_one_line_and_its_answer_another(tmp_path: Path) -> None:
    with gateway(tmp_path, 8000, b'{"ok": true,', b' "told": {"state": "ready"}}\n') as asked:
        there = Running(8000, tmp_path / socket_name(8000))
        assert there.ask({"do": "keep-warm", "for": 60}) == {"ok": True, "told": {"state": "ready"}}
        assert [json.loads(line) for line in asked] == [{"do": "keep-warm", "for": 60}]


def test_a_second_answer_is_waited_for(tmp_path: Path) -> None:
    there = Running(8000, tmp_path / socket_name(8000))
    said = b'{"ok": true}\n{"ok": true, "ended": true}\n'
    with gateway(tmp_path, 8000, said), there.asking({"do": "stop"}) as answers:
        assert [next(answers), next(answers)] == [{"ok": True}, {"ok": True, "ended": True}]
        with pytest.raises(NoAnswer, match="has ended"):
            next(answers)


@pytest.mark.parametrize("said", [b"nonsense\n", b"[]\n", b"5\n", b"x" * (2 << 20)])
def test_what_is_no_gateway_is_not_believed(tmp_path: Path, said: bytes) -> None:
    with gateway(tmp_path, 8000, said), pytest.raises(NoAnswer, match="is no gateway"):
        Running(8000, tmp_path / socket_name(8000)).ask({"do": "status"})


def test_one_that_is_gone_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(NoAnswer, match="cannot be asked"):
        Running(8000, tmp_path / socket_name(8000)).ask({"do": "status"})


def test_one_that_hangs_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    path = tmp_path / socket_name(8000)
    with socket.socket(socket.AF_UNIX) as listener:
        with address_of(path) as address:
            listener.bind(address)
        listener.listen()
        with pytest.raises(NoAnswer, match="did not answer in time"):
            Running(8000, path).ask({"do": "status"}, within=0.05)


def test_asking_imports_no_web_server() -> None:
    """`wakegate status` is typed often."""
    import subprocess
    import sys

    code = "import sys, gateway.orders; print([m for m in sys.modules if m in ('aiohttp', 'asyncio', 'pydantic')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert done.stdout == "[]\n"
