"""What the image holds, as CycloneDX 1.6 JSON: Python packages, Debian packages, the interpreter.

    python -I -S make_sbom.py SITE_PACKAGES… > wakegate.cdx.json

From what is installed, not from what was asked for; with nothing but the standard library, because whatever wrote the
list would stand in it. The same image gives the same bytes: no time, and a serial number made from the content.
"""

import importlib.metadata
import json
import platform
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

Component = dict[str, Any]
NAMESPACE = uuid.UUID("f2b7c7a4-33ac-4f0a-9a6e-3d5d1c2f6d11")


def component(kind: str, name: str, version: str, purl: str, **more: object) -> Component:
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl} | more


def python_packages(places: list[str]) -> Iterator[Component]:
    for found in importlib.metadata.distributions(path=places):
        name, version = found.metadata["Name"], found.version
        if not name or not version:
            continue  # the remains of something that was removed
        more: dict[str, object] = {}
        if licences := list(licences_of(found.metadata)):
            more["licenses"] = licences
        # https://github.com/package-url/purl-spec: names of PyPI are lower case, with dashes
        purl = f"pkg:pypi/{quote(name.lower().replace('_', '-'))}@{quote(version)}"
        yield component("library", name, version, purl, **more)


def licences_of(metadata: Any) -> Iterator[dict[str, object]]:
    """An SPDX expression where there is one (PEP 639), else what the package says in a line or by a classifier."""
    expression = metadata.get("License-Expression")
    if expression:
        yield {"expression": expression}
        return
    text = (metadata.get("License") or "").strip()
    if text and "\n" not in text and len(text) < 80:
        yield {"license": {"name": text}}
        return
    for classifier in metadata.get_all("Classifier") or ():
        if classifier.startswith("License :: "):
            yield {"license": {"name": classifier.rpartition(" :: ")[2]}}


def debian_packages() -> Iterator[Component]:
    said = subprocess.run(
        ["/usr/bin/dpkg-query", "-W", "-f", "${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    system = platform.freedesktop_os_release()
    distro = system.get("VERSION_CODENAME") or system.get("VERSION_ID", "")
    for line in said.splitlines():
        status, name, version, architecture = line.split("\t")
        if status == "installed":
            purl = f"pkg:deb/{system['ID']}/{quote(name)}@{quote(version)}?arch={architecture}&distro={distro}"
            yield component("library", name, version, purl)


def interpreter() -> Component:
    version = platform.python_version()
    return component("application", "CPython", version, f"pkg:generic/cpython@{version}")


def bill(components: list[Component], version: str) -> dict[str, Any]:
    listed = sorted({item["bom-ref"]: item for item in components}.values(), key=lambda item: item["bom-ref"])
    serial = uuid.uuid5(NAMESPACE, json.dumps(listed, sort_keys=True))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {"type": "container", "bom-ref": "wakegate-image", "name": "wakegate", "version": version}
        },
        "components": listed,
    }


def main(places: list[str]) -> int:
    listed = [*python_packages([place for place in places if Path(place).is_dir()]), interpreter(), *debian_packages()]
    ours = next(item["version"] for item in listed if item["name"] == "wakegate")
    json.dump(bill(listed, ours), sys.stdout, indent=1)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
