"""Real engines that do not start: their reason, on its way to those who wait, to /health and to the log."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gateway.providers.local.ends.reasons import CAUSES
from tests.support.house import KEY
from tests.support.real_house import CHAT, Engine, real_house

HELLO = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


def cut(model: Path, folder: Path) -> Path:
    """The last tensor's end is missing, which nothing but loading it finds out."""
    path = folder / "cut.gguf"
    shutil.copyfile(model, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 20_000)
    return path


def renamed(model: Path, folder: Path) -> Path:
    """Of an architecture that nobody has."""
    path = folder / "renamed.gguf"
    content = model.read_bytes()
    at = content.index(b"llama", content.index(b"general.architecture"))
    path.write_bytes(content[:at] + b"nobdy" + content[at + 5 :])
    return path


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("spoil, cause", [(cut, "corrupt"), (renamed, "architecture")], ids=["cut", "unknown"])
async def test_the_reason_reaches_those_who_wait_and_health_after_one_try(
    engine: Engine, demo_model: Path, tmp_path: Path, spoil: Any, cause: str, stream: bool
) -> None:
    """Once: a second try would fail the same way."""
    async with real_house(engine, spoil(demo_model, tmp_path), grace=0.01, heartbeat=0.05) as house:
        said = await house.raw(house.request(HELLO | {"stream": stream}, path=CHAT))
        sentence = CAUSES[cause].sentence
        assert b'"code":"start_failed"' in said and json.dumps(sentence)[1:-1].encode() in said
        assert house.conductor.snapshot().starts == len(house.spawned) == 1
        asked = f"GET /health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
        health = json.loads((await house.raw(asked.encode())).partition(b"\r\n\r\n")[2])
        assert (health["state"], health["reason"]) == ("failed", sentence)
        assert ".gguf" not in said.decode() and "tensor" not in said.decode()
        assert {"corrupt": "not within the file bounds", "architecture": "nobdy"}[cause] in (
            house.conductor.snapshot().detail
        )
