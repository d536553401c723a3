"""Draw docs/explanation/loading.svg: how a start looks on the console.

python scripts/make_loading_picture.py           draw it, from docs/explanation/loading.txt
python scripts/make_loading_picture.py --check   exit 1 when it is not up to date
python scripts/make_loading_picture.py --record  first run a real start, and write what it prints to loading.txt

What is recorded: llama-server (found in PATH) with a made model of 1.7 GiB, whose file is read at 150 MB/s as a slow
volume would give it (tests/support/slow_disk.py), for the second time: the first start is what the second is judged by.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "explanation"
RECORD, PICTURE = FOLDER / "loading.txt", FOLDER / "loading.svg"
SPEED = 150_000_000
"""Bytes a second of the played disk."""
SHAPE = ("--layers", "24", "--dim", "2048")
"""Of the made model."""

LINE, LEFT, WIDTH = 19, 14, 720
"""Pixels: of a line, before it, of the picture."""
STYLE = """\
.back { fill: #14181f } text { font: 13px ui-monospace, monospace; fill: #c9d1d9; white-space: pre }
.done { fill: #e58145 } .left { fill: #4b5563 } .ready { fill: #7ee787; font-weight: 600 }"""
_BAR = re.compile(r"(\[LOADING\] )(#*)(-*)( .*)")


def record() -> str:
    """The console of the second start. Raises RuntimeError when it does not come up."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.gguf"
        subprocess.run([sys.executable, ROOT / "scripts" / "make_demo_model.py", *SHAPE, model], check=True)
        start(folder, model)
        return "".join(f"{line}\n" for line in start(folder, model))


def start(folder: Path, model: Path) -> list[str]:
    """One start of a gateway, from a cold file, until it is ready; what it says of it."""
    with model.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    llama_server = shutil.which("llama-server")
    if llama_server is None:
        raise RuntimeError("llama-server is not in PATH: scripts/build_llama_server.sh says where it is.")
    slow = [sys.executable, "-IS", str(ROOT / "tests" / "support" / "slow_disk.py"), str(model), str(SPEED)]
    command = f"{shlex.join([*slow, llama_server])} -m {{model}} --host {{socket}} -c 2048"
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {
        "MODEL": str(model),
        "ENGINE_COMMAND": command,
        "DATA_DIR": str(folder / "data"),
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
        "API_KEY": "sk-not-secret-0123456789abcdef",
        "READ_AHEAD": "false",
        "TMPDIR": str(folder),
    }
    gateway = subprocess.Popen(
        [sys.executable, "-m", "gateway"],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert gateway.stdout is not None
    try:
        said: list[str] = []
        for line in gateway.stdout:
            if line.startswith(("[LOADING]", "READY")):
                said.append(line.rstrip())
            if line.startswith("READY"):
                return said
    finally:
        gateway.terminate()
        gateway.communicate()
    raise RuntimeError("It did not become ready:\n" + "\n".join(said))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def picture(record: str) -> str:
    lines = record.splitlines()
    height = LINE * len(lines) + 2 * LEFT
    drawn = "\n".join(
        f'<text x="{LEFT}" y="{LEFT + LINE * (number + 1) - 6}">{"".join(spans(line))}</text>'
        for number, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">\n'
        f"<title>The console while a model loads: one line for each 5 %</title>\n<style>{STYLE}</style>\n"
        f'<rect class="back" width="{WIDTH}" height="{height}" rx="8"/>\n{drawn}\n</svg>\n'
    )


def spans(line: str) -> Iterator[str]:
    bar = _BAR.fullmatch(line)
    if bar is None:
        yield f'<tspan class="ready">{escape(line)}</tspan>' if line.startswith("READY") else escape(line)
        return
    before, done, left, rest = bar.groups()
    yield escape(before)
    yield f'<tspan class="done">{done}</tspan><tspan class="left">{left}</tspan>'
    yield escape(rest)


def main(words: list[str]) -> int:
    if words == ["--record"]:
        RECORD.write_text(record(), "utf-8")
    elif words not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    drawn = picture(RECORD.read_text("utf-8"))
    if words == ["--check"]:
        return 0 if PICTURE.read_text("utf-8") == drawn else 1
    PICTURE.write_text(drawn, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
