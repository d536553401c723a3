"""A rented worker whose controller goes silent: the real worker, its TLS port, and a vendor that hears what it asks."""

import asyncio
import json
import re
import ssl
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiohttp
import pytest

from gateway.providers.base import Endpoint
from gateway.providers.renting.leases import Lessor, Told, by
from tests.support.worker import KEY, ROOT, running, wait_for

QUICK = f"{sys.executable} -I -S {ROOT / 'tests/support/quick_engine.py'} {{socket}}"


class Vendor(ThreadingHTTPServer):
    """RunPod's API, as far as a pod may ask it about itself."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Asked)
        self.asked: list[tuple[str, str, object]] = []
        """Method and path, key, body."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v2"


class _Asked(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        assert isinstance(self.server, Vendor)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        said = f"{self.command} {self.path}", self.headers["Authorization"], json.loads(body) if body else None
        self.server.asked.append(said)
        answer = b'{"id": "pod1", "status": "RUNNING", "locked": false}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    server = Vendor()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def _leased(endpoint: Endpoint, ends_in: float | None = None) -> Told | None:
    """One lease, as a controller sends it."""
    async with aiohttp.ClientSession() as session:
        lessor = Lessor(by(session), wall=time.time, ends_in=lambda instance: ends_in)
        return await lessor.send("pod1", endpoint)


def test_a_pod_whose_controller_goes_silent_stops_itself(tmp_path: Path, vendor: Vendor) -> None:
    here = {
        "RUNPOD_DC_ID": "EU-1",
        "RUNPOD_POD_ID": "pod1",
        "RUNPOD_API_KEY": "the-pods-own-key",
        "RUNPOD_API_URL": vendor.url,
    }
    with running(tmp_path, ENGINE_COMMAND=QUICK, TLS_CERT="self", SELF_STOP_AFTER="1h", **here) as worker:
        wait_for(lambda: "READY" in worker.console, 60, "ready")
        found = re.search(r"TLS_FINGERPRINT=([0-9a-f]{64})$", worker.console, re.MULTILINE)
        assert found is not None, worker.console
        endpoint = Endpoint(f"https://127.0.0.1:{worker.port}", key=KEY, fingerprint=found[1])

        wait_for(lambda: vendor.asked, 30, "the key is tried")
        told = asyncio.run(_leased(endpoint))
        assert told is not None and told.report is not None and told.can_stop_itself is True
        assert (told.report.self_stop, told.report.refused) == ("armed", "") and 290 < told.report.seconds_left <= 300

        unsigned = ssl.create_default_context()
        unsigned.check_hostname, unsigned.verify_mode = False, ssl.CERT_NONE
        for path, said in (
            ("/health", '"self_stop":{"machine":"RunPod pod pod1","state":"armed","by":"lease"'),
            ("/metrics", "wakegate_self_stop_key_ok 1"),
        ):
            asked = urllib.request.Request(endpoint.url + path, headers={"Authorization": f"Bearer {KEY}"})
            with urllib.request.urlopen(asked, timeout=30, context=unsigned) as answer:
                assert said in answer.read().decode()

        stranger = Endpoint(endpoint.url, key=KEY, fingerprint="0" * 64)
        assert asyncio.run(_leased(stranger)) == Told(
            "pod1", trouble="another certificate than the one in TLS_FINGERPRINT"
        )
        another = Endpoint(endpoint.url, key="another-key-of-16", fingerprint=found[1])
        assert asyncio.run(_leased(another)) == Told("pod1", trouble="it has another key than UPSTREAM_API_KEY")

        asyncio.run(_leased(endpoint, ends_in=12))  # the last one: two seconds
        wait_for(lambda: len(vendor.asked) > 1, 30, "it stops itself")
        assert vendor.asked == [
            ("GET /v2/pods/pod1", "Bearer the-pods-own-key", None),
            ("POST /v2/pods/pod1/action", "Bearer the-pods-own-key", {"action": "stop"}),
        ]
        wait_for(lambda: "RunPod was told to stop it" in worker.console, 30, "the stop is told")
        assert "its controller has been silent" in worker.console
        assert "the-pods-own-key" not in worker.console
