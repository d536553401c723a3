"""What a bug report holds: what helps, no secret, no engine's words unless asked for; it survives what is broken."""

import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.config import Settings, load
from gateway.records.lines import happening_json, happening_text, text_line
from gateway.records.redact import Redactor
from gateway.records.report import LOG_LINES, Section, gather, of_broken_settings, render, running, secrets_of
from gateway.surroundings import Surroundings, read_file
from tests.records.test_lines import ENDED

STAMP = "20261121T130000Z_pod-2"
PLANTED = "wk-planted-0123456789abcdef"
FOREIGN = "foreign-0123456789"
PROMPT = "my secret diary"


def settings_at(folder: Path, **environ: str) -> Settings:
    return load({"DATA_DIR": str(folder), "PORT": "1", "PORT_HEALTH": "2", **environ}, read=read_file)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A volume on which a boot was, with secrets and a prompt wherever they might get."""
    folder = tmp_path / "logs" / "llama"
    folder.mkdir(parents=True)
    (tmp_path / "logs" / "_boot").mkdir()
    (tmp_path / "logs" / "_boot" / f"{STAMP}.log").write_text(f"engine: --key {PLANTED}\nready after 3 s\n")
    (folder / f"{STAMP}.txt").write_text(
        "\n".join(
            (
                happening_text(ENDED.at, f"ready {PLANTED} {FOREIGN}"),
                happening_text(ENDED.at, f"  | prompt: {PROMPT}"),
                happening_json(ENDED.at, "warning", f"  | prompt: {PROMPT}"),
                text_line(replace(ENDED, key="alice", model=PLANTED)),
                "\x1b[2Jforeign",
            )
        )
    )
    (folder / f"{STAMP}_engine.txt").write_text(f"slot 1: {PROMPT} {PLANTED}\n")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "first-key.txt").write_text("first-key-0123456789\n")
    return tmp_path


def text_of(data: Path, *, with_engine_log: bool = False, **environ: str) -> str:
    settings = settings_at(data, **environ)
    sections = gather(
        settings,
        Surroundings(),
        doctor=lambda: f"All is well, first-key-0123456789 {PLANTED}",
        with_engine_log=with_engine_log,
    )
    redact = Redactor(secrets_of(settings, {"AWS_SECRET_ACCESS_KEY": FOREIGN, "PATH": "/bin"}))
    return render(sections, at="now", redact=redact).text


def test_it_has_what_a_stranger_needs_to_understand(data: Path) -> None:
    text = text_of(data, IDLE_TIMEOUT="5m")
    for part in ("IDLE_TIMEOUT=5m", "WakeGate 0", "All is well", "ready after 3 s", "key=alice", "pydantic==", STAMP):
        assert part in text, part
    assert "\x1b" not in text


def test_no_secret_is_in_it_wherever_one_was_planted(data: Path) -> None:
    text = text_of(data, API_KEY=PLANTED, ENGINE_ARGS="--api-key hunter2hunter2", with_engine_log=True)
    for secret in (PLANTED, FOREIGN, "first-key-0123456789", "hunter2hunter2"):
        assert secret not in text, secret


def test_an_engines_words_are_left_out_and_it_says_so(data: Path) -> None:
    text = text_of(data)
    assert PROMPT not in text
    assert "(2 lines that quote the engine are left out" in text
    assert "bytes of the newest boot, not in here: engines may write down prompts" in text
    assert text_of(data, with_engine_log=True).count(PROMPT) == 3


def test_the_log_is_its_last_lines(data: Path) -> None:
    with (data / "logs" / "llama" / f"{STAMP}.txt").open("a") as file:
        file.writelines(f"\n{text_line(replace(ENDED, request_id=str(number)))}" for number in range(LOG_LINES))
    text = text_of(data)
    assert "request=0 " in text and "request=1999 " in text
    assert "foreign" not in text


def test_an_empty_volume_makes_a_report_all_the_same(tmp_path: Path) -> None:
    text = text_of(tmp_path / "nothing")
    assert "=== The last 2000 lines of the log ===\n\ncould not be collected: FileNotFoundError" in text
    assert "=== Packages ===" in text


def test_a_section_that_breaks_says_so_and_the_others_are_there() -> None:
    def broken() -> Iterator[str]:
        yield "begins"
        raise RuntimeError("boom")

    rendered = render([Section("A", broken), Section("B", lambda: ["fine"])], at="now", redact=str)
    assert "begins\ncould not be collected: RuntimeError: boom\n" in rendered.text
    assert rendered.contents == (("A", 2), ("B", 1))


def test_settings_that_are_wrong_are_what_the_report_is_about() -> None:
    text = render(of_broken_settings(['PORT: "eighty" is not a port']), at="now", redact=str).text
    assert 'PORT: "eighty" is not a port' in text


class Open(http.server.BaseHTTPRequestHandler):
    heard: list[str]

    def do_GET(self) -> None:
        self.heard.append(f"{self.path} {self.headers.get('Authorization')}")
        body = b'{"state":"ready"}' if self.path == "/health" else b"wakegate_up 1\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def test_a_running_gateway_is_asked_without_a_key(tmp_path: Path) -> None:
    """Somebody else may listen on that port."""
    Open.heard = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Open) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        settings = settings_at(tmp_path, PORT=str(server.server_port), PORT_HEALTH="1", API_KEY=PLANTED)
        lines = list(running(settings))
        server.shutdown()
    assert Open.heard == ["/health None", "/metrics None"]
    assert '"state": "ready"' in "\n".join(lines) and "wakegate_up 1" in lines
    assert any(line.startswith("no answer: ") for line in lines), "nobody listens on the health port"
