"""What a web page can do with a gateway, asked of a real Chromium: `make test-browser`. Not part of ./test.sh: 400 MB.

Pages of several origins call workers that run through ./start.sh; one run of the browser visits all of them, and each
test looks at what a page saw. `localhost`, `127.0.0.1` and another port are other origins to a browser.
"""

import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.worker import KEY, ROOT, Worker, running

pytestmark = pytest.mark.browser

QUICK = f"{sys.executable} -I -S {ROOT / 'tests/support/quick_engine.py'} {{socket}}"
LIMITED = "sk-limited-0123456789abcdef"
CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
ENDLESS = {"messages": [{"role": "user", "content": "slow"}], "stream": True}
SDK = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "X-Stainless-Lang": "js",
    "X-Stainless-OS": "Unknown",
    "X-Stainless-Package-Version": "6.1.0",
    "X-Stainless-Retry-Count": "0",
    "X-Stainless-Runtime": "browser:chrome",
    "X-Stainless-Timeout": "600",
}
"""What the OpenAI SDK sends from a page, besides the key."""

Seen = dict[str, Any]


def call(name: str, url: str, body: object = None, key: str = "", how: str = "fetch", **more: object) -> Seen:
    """A call as page.html makes it: a POST where there is a body."""
    made: Seen = {"name": name, "how": how, "url": url}
    if body is not None:
        made |= {"method": "POST", "headers": dict(SDK), "body": body if isinstance(body, str) else json.dumps(body)}
    if key:
        made["headers"] = {**made.get("headers", {}), "Authorization": f"Bearer {key}"}
    return made | more


def simple(name: str, url: str, **more: object) -> Seen:
    """What needs no leave beforehand: a POST of plain text whose answer the page does not ask to see."""
    headers = {"Content-Type": "text/plain"}
    return call(name, url, mode="no-cors", method="POST", headers=headers, **{"body": json.dumps(HELLO)} | more)


class Pages(ThreadingHTTPServer):
    """Serves page.html by the names of its plan, each with its calls; keeps what they saw and how workers were then."""

    daemon_threads = True
    html = (Path(__file__).parent / "page.html").read_text("utf-8")

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.port = self.server_address[1]
        self.calls: dict[str, list[Seen]] = {}
        self.order: list[str] = []
        """URLs; the browser is sent from one to the next."""
        self.seen: dict[str, dict[str, Seen]] = {}
        self.workers: dict[str, Worker] = {}
        self.states: dict[str, dict[str, str]] = {}
        self.refusals: dict[str, dict[str, int]] = {}
        self.is_over = threading.Event()

    def plan(self, name: str, host: str, calls: list[Seen]) -> None:
        self.calls[name] = calls
        self.order.append(f"http://{host}:{self.port}/{name}")

    def take(self, name: str, seen: dict[str, Seen]) -> str:
        """Keeps it; where to go next."""
        self.seen[name] = seen
        self.states[name] = {place: worker.state() for place, worker in self.workers.items()}
        self.refusals[name] = {place: _refusals(worker) for place, worker in self.workers.items()}
        if len(self.seen) < len(self.order):
            return self.order[len(self.seen)]
        self.is_over.set()
        return ""


class _Page(BaseHTTPRequestHandler):
    server: Pages

    def do_GET(self) -> None:
        name = self.path[1:]
        if name in self.server.calls:
            self._answer(200, "text/html", self.server.html.replace("CALLS", json.dumps(self.server.calls[name])))
        else:
            self._pass_on()

    def do_POST(self) -> None:
        if self.path.startswith("/seen/"):
            seen = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(200, "text/plain", self.server.take(self.path.removeprefix("/seen/"), seen))
        else:
            self._pass_on()

    def _pass_on(self) -> None:
        """To a browser, our name now means the address of another."""
        worker = self.server.workers["bare"]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        line = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=10)
        try:
            line.request(self.command, self.path, body, dict(self.headers.items()))
            answer = line.getresponse()
            self._answer(answer.status, answer.getheader("Content-Type", ""), answer.read().decode())
        finally:
            line.close()

    def _answer(self, status: int, sort: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", sort)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """What came stands in `seen`."""


@contextmanager
def serving() -> Iterator[Pages]:
    with Pages() as pages:
        thread = threading.Thread(target=pages.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield pages
        finally:
            pages.shutdown()
            thread.join()


def browse(pages: Pages, folder: Path) -> None:
    """One run of Chromium over all pages."""
    program = os.environ.get("WAKEGATE_TEST_BROWSER") or shutil.which("chromium")
    if program is None:
        pytest.fail("no Chromium: `make test-browser` installs one, WAKEGATE_TEST_BROWSER names one")
    options = (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-proxy-server",
        "--no-first-run", "--no-default-browser-check", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--disable-breakpad", "--host-resolver-rules=MAP *.example 127.0.0.1",
    )  # fmt: skip
    console = folder / "chromium.txt"
    with console.open("wb") as log:
        browser = subprocess.Popen(
            [program, *options, f"--user-data-dir={folder / 'profile'}", pages.order[0]],
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        if not pages.is_over.wait(60):
            pytest.fail(
                f"no word of {pages.order[len(pages.seen)]} within 60 s\n{console.read_text('utf-8', 'replace')}"
            )
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()


@dataclass(frozen=True)
class Visit:
    """All that there is to look at afterwards."""

    seen: dict[str, dict[str, Seen]]
    """What came, by page and call."""
    states: dict[str, dict[str, str]]
    """By page, of each worker when the browser was done with that page."""
    refusals: dict[str, dict[str, int]]
    """The same: calls that it has refused until then because of where they came from."""


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """Five workers, three pages, one browser."""
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys.write_text(
        f'[[keys]]\nname = "limited"\nhash = "sha256:{hashlib.sha256(LIMITED.encode()).hexdigest()}"\n'
        "requests_per_minute = 1\n"
    )
    keys.chmod(0o600)
    keys_off = {"AUTH_ENABLED": "false", "API_KEY": ""}
    with ExitStack() as stack:
        pages = stack.enter_context(serving())
        listed = f"http://127.0.0.1:{pages.port}"

        def worker(name: str, **settings: str) -> Worker:
            folder = tmp_path_factory.mktemp(name)
            return stack.enter_context(running(folder, WAKE_ON_START="false", ENGINE_COMMAND=QUICK, **settings))

        workers = pages.workers = {
            "keyed": worker("keyed", CORS_ORIGINS=listed, API_KEYS_FILE=str(keys)),
            "any": worker("any", CORS_ORIGINS="*"),
            "silent": worker("silent"),
            "open": worker("open", CORS_ORIGINS=listed, **keys_off),
            "bare": worker("bare", **keys_off),
        }
        for each in workers.values():
            each.until("stopped")
        keyed, anyone, silent, trusting, bare = (each.base for each in workers.values())
        pages.plan(
            "stranger",
            "localhost",
            [
                call("chat", keyed + CHAT, HELLO, KEY),
                call("health", keyed + "/health"),
                call("models", keyed + "/v1/models", key=KEY),
                call("any", anyone + CHAT, HELLO, KEY),
                call("sandbox at any", anyone + CHAT, HELLO, KEY, how="sandbox"),
                call("sandbox at keyed", keyed + CHAT, HELLO, KEY, how="sandbox"),
                *(
                    each
                    for place, base in (("open", trusting), ("bare", bare))
                    for each in (
                        call(f"chat at {place}", base + CHAT, HELLO),
                        call(f"models at {place}", base + "/v1/models"),
                        call(f"image at {place}", base + "/v1/models", mode="no-cors"),
                        simple(f"simple at {place}", base + CHAT),
                        simple(f"unreferred at {place}", base + CHAT, referrerPolicy="no-referrer"),
                        simple(f"sandboxed at {place}", base + CHAT, how="sandbox"),
                        call(f"form at {place}", base + CHAT, json.dumps(HELLO | {"user": "="}), how="form"),
                    )
                ),
            ],
        )
        pages.plan(
            "listed",
            "127.0.0.1",
            [
                call("models", keyed + "/v1/models", key=KEY),
                call("chat", keyed + CHAT, HELLO, KEY),
                call("endless", keyed + CHAT, ENDLESS, KEY, leave="Hi"),
                call("wrong key", keyed + CHAT, HELLO, "sk-wrong"),
                call("bad body", keyed + CHAT, "{", KEY),
                call("no such path", keyed + "/v1/nothing", HELLO, KEY),
                call("limited", keyed + CHAT, HELLO, LIMITED),
                call("limited again", keyed + CHAT, HELLO, LIMITED),
                call("forwarded", keyed + "/v1/models", key=KEY, headers={"X-Forwarded-For": "10.0.0.1"}),
                call("cookies", keyed + "/health", credentials="include"),
                call("silent", silent + CHAT, HELLO, KEY),
                call("silent health", silent + "/health"),
                call("open", trusting + CHAT, HELLO),
                call("open models", trusting + "/v1/models"),
                call("bare", bare + CHAT, HELLO),
            ],
        )
        pages.plan(
            "rebound",
            "evil.example",
            [
                call("models", "/v1/models"),
                call("models in disguise", "/v1/models", headers={"User-Agent": "curl/8.0"}),
                call("chat", CHAT, HELLO),
                call("health", "/health"),
            ],
        )
        browse(pages, tmp_path_factory.mktemp("browser"))
        return Visit(pages.seen, pages.states, pages.refusals)


def _refusals(worker: Worker) -> int:
    found = re.search(r'wakegate_auth_failures_total\{reason="browser"\} (\d+)', worker.get("/metrics")[1])
    assert found is not None
    return int(found[1])


def whole(seen: Seen) -> str:
    """What a page read of an answer that it could read."""
    assert "error" not in seen and seen["type"] == "cors", seen
    return "".join(seen["pieces"])


def error_code(seen: Seen) -> str:
    return str(json.loads(whole(seen))["error"]["code"])


def shows_nothing(seen: Seen) -> bool:
    """Whether the page learned neither the status, nor a header, nor a byte of it."""
    if "text" in seen:
        return seen["text"] is None
    if "error" in seen:
        return seen["error"] == "TypeError: Failed to fetch" and "status" not in seen
    return seen["type"] == "opaque" and (seen["status"], seen["headers"], seen["pieces"]) == (0, {}, [])


# -- keys on


def test_a_listed_page_streams_with_a_key_and_an_sdks_headers(visit: Visit) -> None:
    chat = visit.seen["listed"]["chat"]
    assert chat["status"] == 200 and whole(chat).endswith("data: [DONE]\n\n")
    assert chat["headers"]["x-request-id"] and "prefill" in chat["headers"]["server-timing"]


def test_a_listed_page_reads_pieces_of_a_stream_that_has_not_ended(visit: Visit) -> None:
    """This engine's stream ends when its caller leaves, and the page left because it had read something."""
    endless = visit.seen["listed"]["endless"]
    assert endless["left"] and whole(endless).startswith("data: ") and "Hi" in whole(endless)


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("wrong key", 401, "invalid_api_key"),
        ("bad body", 400, "invalid_json"),
        ("no such path", 404, "route_not_found"),
        ("limited again", 429, "rate_limit_exceeded"),
    ],
)
def test_a_listed_page_reads_why_it_was_refused(visit: Visit, name: str, status: int, code: str) -> None:
    seen = visit.seen["listed"][name]
    assert (seen["status"], error_code(seen)) == (status, code)
    assert seen["headers"]["x-request-id"]


def test_a_listed_page_reads_what_is_left_of_its_keys_limits_and_when_to_come_back(visit: Visit) -> None:
    first, second = visit.seen["listed"]["limited"], visit.seen["listed"]["limited again"]
    assert first["status"] == 200 and first["headers"]["x-ratelimit-remaining-requests"] == "0"
    assert second["headers"]["x-ratelimit-limit-requests"] == "1" and second["headers"]["x-ratelimit-reset-requests"]
    assert 1 <= int(second["headers"]["retry-after"]) <= 60 and second["headers"]["x-should-retry"] == "true"


def test_a_listed_page_can_list_models_and_not_speak_for_a_proxy_nor_send_cookies(visit: Visit) -> None:
    seen = visit.seen["listed"]
    assert json.loads(whole(seen["models"]))["object"] == "list"
    assert shows_nothing(seen["forwarded"]) and shows_nothing(seen["cookies"])


def test_a_page_that_is_not_listed_reads_nothing_even_with_a_right_key(visit: Visit) -> None:
    seen = visit.seen["stranger"]
    assert all(shows_nothing(seen[name]) for name in ("chat", "models", "health", "sandbox at keyed"))
    assert visit.states["stranger"]["keyed"] == "stopped", "its browser asked first, and sent nothing"


def test_no_page_reads_anything_where_none_is_listed(visit: Visit) -> None:
    seen = visit.seen["listed"]
    assert shows_nothing(seen["silent"]) and shows_nothing(seen["silent health"])
    assert visit.states["rebound"]["silent"] == "stopped"


def test_where_all_are_listed_every_page_may_call_with_a_key_one_without_an_origin_too(visit: Visit) -> None:
    seen = visit.seen["stranger"]
    assert seen["sandbox at any"]["origin"] == "null"
    for name in ("any", "sandbox at any"):
        assert whole(seen[name]).endswith("data: [DONE]\n\n"), name


# -- keys off


@pytest.mark.parametrize("place", ["open", "bare"])
def test_with_keys_off_a_strangers_page_reads_nothing_and_starts_nothing(visit: Visit, place: str) -> None:
    """Whatever it tries: calls that ask beforehand, and all sorts that do not."""
    tried = {name: seen for name, seen in visit.seen["stranger"].items() if name.endswith(f" at {place}")}
    assert len(tried) == 7 and all(shows_nothing(seen) for seen in tried.values()), tried
    assert visit.states["stranger"][place] == "stopped"
    assert visit.refusals["stranger"][place] == 6, "all but the one whose browser asked beforehand got their 403"


def test_with_keys_off_a_listed_page_may_call_and_elsewhere_it_may_not(visit: Visit) -> None:
    seen = visit.seen["listed"]
    assert whole(seen["open"]).endswith("data: [DONE]\n\n")
    assert json.loads(whole(seen["open models"]))["data"][0]["id"] == "quick"
    assert visit.refusals["listed"]["open"] == visit.refusals["stranger"]["open"]
    assert shows_nothing(seen["bare"])


def test_with_keys_off_a_page_whose_name_now_means_our_address_is_refused(visit: Visit) -> None:
    """DNS rebinding: to the browser it asks its own server. On plain HTTP there is no Sec-Fetch-Site, and with a GET no
    Origin: only the name that it asks for tells, and that it is a browser, which a page's program cannot hide."""
    for name in ("models", "models in disguise", "chat"):
        seen = visit.seen["rebound"][name]
        assert (seen["type"], seen["status"]) == ("basic", 403), name
        assert "evil.example" in "".join(seen["pieces"])
    assert visit.seen["rebound"]["health"]["status"] == 200, "open to all, and says nothing of whose it is"
    assert visit.states["rebound"]["bare"] == "stopped"
