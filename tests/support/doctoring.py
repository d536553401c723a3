"""Cases for the doctor in one line: settings by their names, a machine, and the facts that are wrong."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gateway import config
from gateway.config import File
from gateway.doctor.case import Case, Facts
from gateway.doctor.findings import Finding
from gateway.providers.local.models.model_files import Model
from gateway.surroundings import Surroundings, settle

GIB = 1024**3
PLAIN = Surroundings(open_files=65536, cwd=Path("/srv"), home=Path("/home/me"), memory=64 * GIB)
SERVERLESS = Surroundings(
    platform="runpod-serverless",
    in_container=True,
    open_files=65536,
    memory=64 * GIB,
    endpoint_id="ep42",
    volumes=(Path("/runpod-volume"),),
)
POD = Surroundings(platform="runpod-pod", in_container=True, open_files=65536, memory=64 * GIB, pod_id="abc123")
VAST = Surroundings(
    platform="vast",
    in_container=True,
    open_files=65536,
    memory=64 * GIB,
    public_ip="203.0.113.7",
    public_ports=((8000, 33526),),
)
KEY = "sk-0123456789abcdef-test"
RENTS = {
    "PROVIDER": "runpod-pod",
    "RUNPOD_API_KEY": KEY,
    "RUNPOD_POD_ID": "abc123",
    "UPSTREAM_API_KEY": KEY,
    "API_KEY": KEY,
    "MONTHLY_BUDGET": "20",
}
"""Of a small server that rents."""


def case(facts: Facts | None = None, around: Surroundings = PLAIN, **environ: str) -> Case:
    """Settings as the gateway would have them there."""
    return Case(settle(config.load(environ, read=lambda path: File("")), around), around, facts or Facts())


def codes(findings: Iterable[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def only(findings: Iterable[Finding], code: str) -> Finding:
    """The one finding with this code."""
    (found,) = [finding for finding in findings if finding.code == code]
    return found


def gguf(size: int = 5 * GIB, **values: object) -> Model:
    """A model on the disk, without the disk."""
    given: dict[str, Any] = {"path": Path("/data/models/m.gguf"), "name": "m", "format": "gguf", **values}
    return Model(size=size, **given)
