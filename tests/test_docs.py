"""The documentation says what the code does: generated pages are up to date, names exist, links lead somewhere."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from gateway.cli import app
from gateway.config import FOREIGN, INTERNAL_NAMES, NAMES_TO_FIELD, PREFIX, SETTINGS, VLLM_KEYS, load
from gateway.doctor.findings import CATALOGUE as FINDINGS
from gateway.errors import CATALOGUE
from gateway.providers.runpod_pod.provider import Spec
from gateway.surroundings import read_file
from scripts.make_reference import PAGES, ROOT, cli_page, doctor_page, errors_page, settings_page
from tests.emulators.runpod import RunPodCloud

DOCUMENTS = sorted(
    [*(ROOT / "docs").rglob("*.md"), *(path for path in ROOT.glob("*.md")), *(ROOT / "tests").rglob("*.md")]
)
SETTING_NAMES = {*NAMES_TO_FIELD, *VLLM_KEYS, *FOREIGN}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_the_reference_is_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == PAGES[path](), "run python scripts/make_reference.py"


def test_the_script_says_so_from_anywhere(tmp_path: Path) -> None:
    """As `make check` may call it; not importing it is what this test is for."""
    script = str(ROOT / "scripts" / "make_reference.py")
    done = subprocess.run([sys.executable, script, "--check"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_setting_has_a_sentence_and_a_row() -> None:
    page = settings_page()
    for setting in SETTINGS.values():
        assert setting.sentence.endswith("."), setting.name
        assert f"\n| `{setting.name}` | " in page
        for alias in setting.aliases:
            assert f"`{alias}`" in page


def test_every_error_has_a_row() -> None:
    page = errors_page()
    for name, kind in CATALOGUE.items():
        assert f"| {kind.status} | `{name}` | " in page
        assert kind.meaning in page


def test_every_finding_of_the_doctor_has_a_row() -> None:
    page = doctor_page()
    for name, kind in FINDINGS.items():
        assert f"\n| `{name}` | {', '.join(kind.levels)} | " in page


def commands(command: Any, name: str = "wakegate") -> Iterator[tuple[str, Any]]:
    for word, each in command.commands.items():
        yield f"{name} {word}", each
        if hasattr(each, "commands"):
            yield from commands(each, f"{name} {word}")


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does_and_what_it_takes(name: str) -> None:
    """Sentences for whoever has never seen it; a word of its own for each value, not the name of a Python type."""
    command = COMMANDS[name]
    assert f"# {name}\n" in cli_page()
    for text in (command.help.strip(), *(value.help for value in command.params)):
        assert re.fullmatch(r"[A-Z].*[.?]", text, re.DOTALL), text
    for value in command.params:
        assert value.metavar or value.is_flag, f"{name}: {value.name} would be shown by its type"


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_command_that_a_document_names_exists(path: Path) -> None:
    for span in spans(path.read_text(encoding="utf-8")):
        for called in re.findall(r"(?:^|bin/)(wakegate (?:keys )?[a-z]+(?:-[a-z]+)*)", span, re.MULTILINE):
            assert called in COMMANDS, f"there is no {called}"


@pytest.mark.parametrize("page", [settings_page, cli_page, errors_page, doctor_page])
def test_no_cell_breaks_its_table(page) -> None:
    rows = [line.replace("\\|", "") for line in page().splitlines() if line.startswith("|")]
    columns = 0
    for index, row in enumerate(rows):
        if index + 1 < len(rows) and rows[index + 1].startswith("|---"):
            columns = row.count("|")
        assert row.count("|") == columns, row


@cache
def source() -> str:
    """All that runs: what a document calls by name in capitals is a setting, or stands in there."""
    files = [
        *(ROOT / "gateway").rglob("*.py"),
        *(ROOT / "health").rglob("*.py"),
        *(ROOT / "scripts").iterdir(),
        *(ROOT / "bench").rglob("*.py"),
        *(path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)),
        *ROOT.glob("*.sh"),
        *(ROOT / "deploy").rglob("*.*"),
        ROOT / "Makefile",
        ROOT / "Dockerfile",
    ]
    return "\n".join(path.read_text(encoding="utf-8") for path in files if path.is_file())


def spans(text: str) -> list[str]:
    """What stands in code: spans and blocks."""
    blocks = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [*blocks, *re.findall(r"`([^`\n]+)`", rest)]


NAME = re.compile(r"(?<![\w.$/-])[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9](?![\w/-])")


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_setting_that_a_document_names_exists(path: Path) -> None:
    for span in spans(path.read_text(encoding="utf-8")):
        for name in NAME.findall(span):
            known = name.removeprefix(PREFIX) in SETTING_NAMES or name in INTERNAL_NAMES
            assert known or re.search(rf"\b{name}\b", source()), f"{name} is neither a setting nor named in the code"


def anchors(path: Path) -> set[str]:
    """As GitHub makes them from headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        number = 1
        while (unique := slug if number == 1 else f"{slug}-{number - 1}") in found:
            number += 1
        found.add(unique)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_links_inside_the_repository_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert target.exists(), f"{link} leads nowhere"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_test_that_a_document_names_exists(path: Path) -> None:
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", path.read_text(encoding="utf-8")):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^((async )?def {name}\(|{name} = )", text, re.MULTILINE), f"{file} has no {name}"


def test_each_promise_about_money_names_the_tests_that_hold_it() -> None:
    text = (ROOT / "docs" / "explanation" / "money.md").read_text(encoding="utf-8")
    promised = re.findall(r"^\*\*(.+?)\.\*\*", text.partition("## The promises")[2].partition("\n## ")[0], re.MULTILINE)
    held: dict[str, list[str]] = {}
    promise = ""
    for row in re.findall(r"^\| (.+) \|$", text.partition("## Which tests hold it")[2], re.MULTILINE):
        name, _, tests = (cell.strip() for cell in f" {row} ".split(" | "))
        promise = name or promise
        held.setdefault(promise, []).extend(re.findall(r"`tests/[\w/]+\.py::\w+`", tests))
    del held["promise"]
    assert len(promised) >= 6 and list(held) == promised
    assert all(held.values()), held


RENT = (ROOT / "docs" / "how-to" / "rent-a-gpu.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "block", re.findall(r"^```json\n(.*?)^```", RENT, re.MULTILINE | re.DOTALL), ids=["ours", "vllm"]
)
def test_a_pod_spec_to_copy_is_one_that_runpod_takes(block: str) -> None:
    """Each GPU that it names, as the gateway asks for it, by an emulator that follows RunPod's schema."""
    spec = Spec.read(block)
    cloud = RunPodCloud()
    for candidate in spec.candidates:
        body = {**spec.body, candidate.kind: dict(candidate.config), "name": "wakegate-0-0"}
        answer = cloud.handle(
            "POST", "/v2/pods", {"Authorization": f"Bearer {cloud.key}"}, json.dumps(body).encode(), 0
        )
        assert answer.status == 201, answer
    assert len(spec.candidates) == len(cloud.creates) == 2


def test_the_settings_to_copy_for_renting_rent_with_every_line_taken_in(tmp_path: Path) -> None:
    [block] = re.findall(r"^```ini\n(.*?)^```", RENT, re.MULTILINE | re.DOTALL)
    for path in set(re.findall(r"=(/srv/wakegate/\S+)", block)):
        (tmp_path / Path(path).name).write_text("sk-0123456789abcdef\n")
        block = block.replace(path, str(tmp_path / Path(path).name))
    (tmp_path / ".env").write_text(re.sub(r"^# ", "", block, flags=re.MULTILINE).replace("…", "T0"))
    settings = load({}, read=read_file, dotenv=tmp_path / ".env")
    assert settings.warnings == () and settings.rents and settings.runpod_pod_spec == str(tmp_path / "pod.json")


def test_the_example_of_a_dotenv_loads_with_every_line_taken_in(tmp_path: Path) -> None:
    """Each line that can be taken in is a setting, with a value that is right."""
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    lines = re.findall(r"^# ([A-Z][A-Z0-9_]*=.*)$", text, re.MULTILINE)
    assert len(lines) > 10
    for name in (line.partition("=")[0] for line in lines):
        assert name in NAMES_TO_FIELD, f"{name} is not a setting"
    taken = re.sub(r"^# ([A-Z][A-Z0-9_]*=.*)$", r"\1", text, flags=re.MULTILINE)
    taken = taken.replace("/run/secrets/", f"{tmp_path}/")
    for name in ("hf_token", "api_key", "upstream_key"):
        (tmp_path / name).write_text("sk-0123456789abcdef\n")
    (tmp_path / ".env").write_text(taken)
    settings = load({}, read=read_file, dotenv=tmp_path / ".env")
    assert settings.warnings == ()
    assert settings.model_fields_set >= {NAMES_TO_FIELD[line.partition("=")[0]] for line in lines}


def test_the_example_of_a_dotenv_changes_nothing_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text(encoding="utf-8"))
    assert load({}, read=read_file, dotenv=tmp_path / ".env") == load({}, read=read_file)
