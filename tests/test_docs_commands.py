"""The documentation's commands are run, as a reader would paste them.

Each `sh`, `bash` and `python` block is run, page by page and in order, in a folder that stands for the clone. What a
block exports is there in the next one. A block that ends in `./start.sh` starts a worker, and the blocks after it speak
to that worker: the pages' ports are replaced by free ones, nothing else is. curl fails at an error status here.

A comment right above a block changes that:

    <!-- not run: why it cannot be -->
    <!-- prints: what must stand in its output -->
    <!-- refused: what must stand in the output of a command that is to fail -->
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.worker import Worker, free_port, wait_for

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("[!R]*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ("sh", "bash", "python")
SHOWN = ("text", "json", "toml", "ini", "mermaid", "yaml")
"""Languages of blocks that nobody pastes into a shell."""
PORTS = ("8000", "8001", "9000", "9001")
"""The ports that the pages use."""

FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[a-z ]+?)(?:: (?P<text>.+?))? -->\n)?^```(?P<language>.*)\n(?P<code>(?:.*\n)*?)```$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    line: int
    language: str
    mark: str
    text: str
    code: str

    @property
    def starts_a_worker(self) -> bool:
        return self.language != "python" and self.code.rstrip().endswith("./start.sh")

    @property
    def needs_a_worker(self) -> bool:
        return re.search(r"127\.0\.0\.1:\d|data/", self.code) is not None


def blocks(page: str) -> list[Block]:
    return [
        Block(
            page.count("\n", 0, found.start("code")),
            found["language"].strip(),
            found["mark"] or "",
            found["text"] or "",
            found["code"],
        )
        for found in FENCE.finditer(page)
    ]


class Reader:
    """Somebody with a clone, who pastes."""

    def __init__(self, folder: Path, demo_model: Path) -> None:
        self.folder = folder
        self._ports = {port: str(free_port()) for port in PORTS}
        self._workers: dict[str, tuple[dict[str, str], Worker]] = {}
        (folder / "data" / "models").mkdir(parents=True)
        shutil.copy(demo_model, folder / "data" / "models" / "wakegate-demo.gguf")
        shutil.copytree(ROOT / "deploy" / "prometheus", folder / "deploy" / "prometheus")
        logs = Path("tests", "providers", "local", "logs")
        shutil.copytree(ROOT / logs, folder / logs)
        (folder / ".curlrc").write_text("fail-with-body\nshow-error\nmax-time = 30\n")
        self._fresh = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._fresh |= {"CURL_HOME": str(folder), "PYTHONPATH": str(ROOT), "DATA_DIR": str(folder / "data")}
        self._fresh |= {"PORT": self._ports["8000"], "PORT_HEALTH": self._ports["8001"]}  # also for `wakegate doctor`
        (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)  # `.venv/bin/wakegate …`
        self._shell = dict(self._fresh)

    def read(self, page: str, name: str) -> None:
        """Run the blocks of one page. A page begins with a fresh shell and, if it has to be there, a plain worker."""
        self._shell = dict(self._fresh)
        try:
            for block in blocks(page):
                if block.language in RUN and block.mark != "not run":
                    self._paste(block, f"{name} line {block.line}")
        finally:
            for port, (settings, worker) in list(self._workers.items()):
                if settings:
                    del self._workers[port]
                    worker.stop()

    def _paste(self, block: Block, where: str) -> None:
        code = re.sub(rf"\b({'|'.join(PORTS)})\b", lambda port: self._ports[port[1]], block.code)
        if block.starts_a_worker:
            self._start(self._settings_in(code))
            return
        if block.needs_a_worker and self._ports["8000"] not in self._workers:
            self._start({})
        done = self._run_python(code) if block.language == "python" else self._run_shell(code)
        said = f"{where}\n{block.code}\nexit {done.returncode}, it printed:\n{done.stdout}\n{self._consoles()}"
        if block.mark == "refused":
            assert done.returncode != 0, f"should have been refused: {said}"
        else:
            assert done.returncode == 0, said
        assert block.text in done.stdout, f"{block.text!r} is not in the output of {said}"

    def _run_shell(self, code: str) -> subprocess.CompletedProcess[str]:
        exported = self.folder / "exported"
        script = f"set -euo pipefail\ntrap 'env -0 >\"{exported}\"' EXIT\n{code}"
        done = self._run(["bash", "-c", script])
        pairs = (entry.partition("=") for entry in exported.read_text().split("\0") if entry)
        self._shell = {name: value for name, _, value in pairs}
        return done

    def _run_python(self, code: str) -> subprocess.CompletedProcess[str]:
        return self._run([sys.executable, "-c", code])

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self._shell,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )

    def _settings_in(self, code: str) -> dict[str, str]:
        """What start.sh would get besides the shell's own environment."""
        asking = re.sub(r"\./start\.sh\s*$", "env -0", code)
        said = subprocess.run(
            ["bash", "-euc", asking], cwd=self.folder, env=self._shell, check=True, capture_output=True, text=True
        ).stdout
        pairs = (entry.partition("=") for entry in said.split("\0") if entry)
        own = {"_", "PWD", "SHLVL", "OLDPWD", "API_KEY"}
        return {name: value for name, _, value in pairs if name not in own and value != self._fresh.get(name)}

    def _start(self, settings: dict[str, str]) -> None:
        port = settings.get("PORT", self._ports["8000"])
        if port in self._workers:
            known, worker = self._workers[port]
            if known == settings:
                return
            assert worker.stop() == 0
        places = {"PORT": port, "PORT_HEALTH": settings.get("PORT_HEALTH", self._ports["8001"]), "API_KEY": ""}
        worker = Worker(self.folder, **(places | settings))
        worker.port, worker.base = int(port), f"http://127.0.0.1:{port}"
        worker.log = self.folder / f"console-{port}.txt"
        worker.log.unlink(missing_ok=True)
        self._workers[port] = (settings, worker.start())
        if "TLS_CERT" in settings:
            wait_for(lambda: "READY" in worker.console, 60, "ready")  # Worker itself speaks plain HTTP
        else:
            worker.until("stopped" if "WAKE_AFTER" in settings else "ready", within=60)

    def _consoles(self) -> str:
        return "\n".join(worker.console[-2000:] for _, worker in self._workers.values())

    def leave(self) -> None:
        for _, worker in self._workers.values():
            worker.stop()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path_factory.mktemp("clone"), demo_model)
    yield reader
    reader.leave()


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def with_commands() -> list[Path]:
    return [page for page in PAGES if any(block.language in RUN for block in blocks(page.read_text("utf-8")))]


@pytest.mark.engine
@pytest.mark.parametrize("page", with_commands(), ids=relative)
def test_what_a_page_says_to_paste_works(page: Path, reader: Reader) -> None:
    reader.read(page.read_text("utf-8"), relative(page))


@pytest.mark.engine
@pytest.mark.parametrize(
    ("mark", "code"),
    [
        ("", "curl http://127.0.0.1:8000/v1/models"),
        ("", "false\ntrue"),
        ("<!-- prints: something else -->\n", "curl http://127.0.0.1:8000/ping"),
        ("<!-- refused: 200 -->\n", "curl http://127.0.0.1:8000/ping"),
    ],
    ids=["an error status", "a command that fails", "another output", "something that works"],
)
def test_a_wrong_page_is_found(mark: str, code: str, reader: Reader) -> None:
    """The faults that this file is there for, planted."""
    with pytest.raises(AssertionError):
        reader.read(f"# Page\n\n{mark}```sh\n{code}\n```\n", "planted")


@pytest.mark.engine
def test_what_is_exported_is_there_in_the_next_block(reader: Reader) -> None:
    page = '```sh\nexport A=1\n```\n\n<!-- prints: 1 -->\n```python\nimport os\nprint(os.environ["A"])\n```\n'
    reader.read(page, "planted")


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    text = page.read_text("utf-8")
    found = blocks(text)
    assert len(found) * 2 == len(re.findall(r"^\s*```", text, re.MULTILINE)), "a block that this file cannot read"
    for block in found:
        assert block.language in (*RUN, *SHOWN), f"line {block.line}: a block names its language, of {RUN + SHOWN}"
        assert block.mark in ("", "not run", "prints", "refused"), (
            f"line {block.line}: <!-- {block.mark} --> means nothing"
        )
        assert bool(block.mark) == bool(block.text), f"line {block.line}: say why, or what"


FILE = re.compile(
    r"(?<![\w/.-])((?:gateway|health|scripts|tests|bench|docs|\.ci)/[\w./-]*\w|[\w-]+\.(?:sh|toml))(?![\w/])"
)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    """Of this repository. Placeholders have capitals in angle brackets or NNNN, and are none."""
    for span in re.findall(r"`([^`\n]+)`", page.read_text("utf-8")):
        for name in FILE.findall(span):
            assert "NNNN" in name or (ROOT / name).exists(), f"{name} is not there"


@pytest.mark.parametrize("way", ["request", "chunk"])
def test_every_file_that_the_picture_names_is_there(way: str) -> None:
    picture = (ROOT / f"docs/explanation/how-a-{way}-travels.svg").read_text("utf-8")
    named = set(re.findall(r"[\w/]+\.(?:py|sh)\b", picture))
    assert len(named) >= 10
    there = [str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.sh"), *(ROOT / "gateway").rglob("*.py"))]
    for name in named:
        assert any(f"/{path}".endswith(f"/{name}") for path in there), f"{name} is not there"


def test_every_page_stands_in_a_list() -> None:
    docs = ROOT / "docs"
    index = (docs / "index.md").read_text("utf-8")
    decisions = (docs / "adr" / "README.md").read_text("utf-8")
    for page in sorted(docs.rglob("*.md")):
        if page.parent.name == "adr" and page.name != "README.md":
            title = page.read_text("utf-8").partition("\n")[0]
            number, _, words = title.removeprefix("# ").partition(". ")
            assert f"| {number} | [{words}]({page.name}) |" in decisions, page.name
            assert page.name.startswith(f"{int(number):04}-"), page.name
        elif page.name != "index.md":
            assert f"({page.relative_to(docs)})" in index, page.name
