"""`wakegate keys …`: a key is shown once, the file holds its hash, and what is wrong is one line and an exit code."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.policy.keys import Key, digest_of, parse_moment
from gateway.web import keydisk, keyfile
from gateway.web.keyfile import render

ROOT = Path(__file__).parents[2]


class Shell:
    """Somebody who types `wakegate keys …` where DATA_DIR is a folder of the test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "data" / "keys" / "keys.toml"
        self.env: dict[str, str] = {"DATA_DIR": str(folder / "data"), "WAKEGATE_ENV_FILE": os.devnull}
        self.said = ""

    def keys(self, *words: object, stdin: str | bytes = "", code: int = 0) -> str:
        """What goes to standard output, stripped; what goes beside it is in `said`."""
        gone = dict.fromkeys(("API_KEY", "ADMIN_KEY", "API_KEYS_FILE", "WAKEGATE_CONFIG"))
        done = CliRunner().invoke(app, ["keys", *map(str, words)], input=stdin, env=gone | self.env)
        self.said = done.stderr
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.output
        return done.stdout.strip()

    @property
    def in_force(self) -> dict[str, Key]:
        reading = keyfile.read(self.file.read_bytes())
        assert reading.problems == ()
        return {key.name: key for key in reading.keys}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


# --- new


def test_a_new_key_is_alone_on_standard_output_and_only_its_hash_is_kept(shell: Shell) -> None:
    """So that `KEY=$(wakegate keys new alice)` works."""
    key = shell.keys("new", "alice")
    assert key.startswith("sk-wakegate-") and len(key) > 40 and len(key.split()) == 1
    assert shell.in_force == {"alice": Key("alice", digest_of(key.encode()))}
    assert key not in shell.file.read_text() and key not in shell.said
    assert "shown only now" in shell.said and "X-API-Key" in shell.said
    assert f"Set API_KEYS_FILE={shell.file}" in shell.said


def test_the_file_is_its_owners_alone(shell: Shell) -> None:
    shell.keys("new", "alice")
    assert stat.S_IMODE(shell.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(shell.file.parent.stat().st_mode) == 0o700


def test_a_key_gets_the_limits_that_were_asked_for(shell: Shell) -> None:
    key = shell.keys(
        *("new", "shop", "--rpm", 60, "--tpm", 100000, "--max-concurrent", 4, "--monthly-spend", "12.50"),
        *("--expires", "2099-12-31T12:00+01:00", "--model", "small", "--model", "tiny"),
        *("--route", "/v1/chat/completions", "--no-fallback"),
    )
    assert shell.in_force["shop"] == Key(
        "shop",
        digest_of(key.encode()),
        requests_per_minute=60,
        tokens_per_minute=100_000,
        max_concurrent=4,
        monthly_spend=12_500_000,
        fallback=False,
        expires=parse_moment("2099-12-31T11:00Z"),
        models=frozenset({"small", "tiny"}),
        routes=frozenset({"/v1/chat/completions"}),
    )
    assert "warning: monthly_spend is set for shop, and HOURLY_PRICE is not" in shell.said


def test_the_file_of_the_settings_is_the_one_that_is_changed(shell: Shell) -> None:
    shell.env["API_KEYS_FILE"] = str(shell.folder / "elsewhere" / "ours.toml")
    shell.keys("new", "alice")
    assert not shell.file.exists() and "API_KEYS_FILE is not set" not in shell.said
    shell.file = shell.folder / "elsewhere" / "ours.toml"
    assert list(shell.in_force) == ["alice"]


def test_a_link_stays_one(shell: Shell) -> None:
    shell.keys("new", "alice")
    link = shell.folder / "link.toml"
    link.symlink_to(shell.file)
    shell.env["API_KEYS_FILE"] = str(link)
    shell.keys("new", "bob")
    assert link.is_symlink() and list(shell.in_force) == ["alice", "bob"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a b"], "NAME: not a name; allowed: letters, digits"),
        (["sk-0123456789abcdef"], "NAME: not a name"),
        (["admin"], "NAME: admin is how logs call ADMIN_KEY"),
        (["alice"], "alice is there already; `wakegate keys rotate alice` gives it a new key"),
        (["bob", "--rpm", "0"], '--rpm: "0" is not a whole number above zero; allowed: 1, 2, 3, …'),
        (["bob", "--tpm", "many"], '--tpm: "many" is not a whole number above zero'),
        (["bob", "--monthly-spend", "-1"], '--monthly-spend: "-1" is not a sum; allowed: dollars'),
        (["bob", "--expires", "soon"], '--expires: "soon" is not a time; allowed: 30d, 12h, never, or ISO 8601'),
        (["bob", "--expires", "2020-01-01"], "--expires: 2020-01-02T00:00:00Z is over already"),
        (["bob", "--route", "v1/models"], '--route: "v1/models" is not a path'),
        (["bob", "--model", "a\nb"], '--model: "a\\nb" is not a text'),
    ],
)
def test_what_is_wrong_is_one_line_and_changes_nothing(shell: Shell, words: list[str], line: str) -> None:
    shell.keys("new", "alice")
    before = shell.file.read_bytes()
    assert shell.keys("new", *words, code=2) == ""
    assert shell.said.startswith(line) and shell.said.count("\n") == 1
    assert shell.file.read_bytes() == before


def test_a_time_from_now_and_never_are_times(shell: Shell) -> None:
    import time

    shell.keys("new", "alice", "--expires", "30d")
    shell.keys("new", "bob", "--expires", "never")
    keys = shell.in_force
    assert keys["alice"].expires == pytest.approx(time.time() + 30 * 86400, abs=30)
    assert keys["bob"].expires is None


def test_a_folder_that_cannot_be_written_is_one_line(shell: Shell) -> None:
    (shell.folder / "data").write_text("")
    shell.keys("new", "alice", code=1)
    assert "cannot be written" in shell.said and shell.said.count("\n") == 1


def test_who_finds_another_at_it_waits_and_then_says_so(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.keys("new", "alice")
    monkeypatch.setattr(keydisk, "LOCK_WAIT", 0.05)
    with keydisk.locked(shell.file):
        shell.keys("new", "bob", code=1)
    assert "another `wakegate keys`" in shell.said
    assert list(shell.in_force) == ["alice"]


# --- list


def test_the_list_says_what_each_may_and_how_it_stands(shell: Shell) -> None:
    shell.keys("new", "alice", "--rpm", 60, "--model", "small")
    shell.file.write_text(shell.file.read_text() + "\n" + render(Key("bob", digest_of(b"bob"), expires=1.0)))
    shell.env["API_KEY"] = "sk-0123456789abcdef"
    rows = shell.keys("list").splitlines()
    assert rows[0].split() == ["name", "state", "expires", "limits", "hash"]
    assert rows[1].startswith("alice  right") and "60/min; models small" in rows[1]
    assert rows[2].startswith("bob    expired  1970-01-01T00:00:01Z  none")
    assert "API_KEYS_FILE is not set" in shell.said and "API_KEY is a key, too." in shell.said
    assert "0123456789" not in shell.said


def test_without_keys_the_list_says_how_one_is_made_and_what_is_a_key_already(shell: Shell) -> None:
    assert shell.keys("list") == ""
    assert shell.said == f"No keys in {shell.file} yet: `wakegate keys new NAME` makes one.\n"
    first = shell.file.parent / "first-key.txt"
    first.parent.mkdir(parents=True)
    first.write_text("sk-wakegate-0123456789abcdef\n")
    shell.keys("list")
    assert shell.said.endswith(f"The first key ({first}) is a key, too.\n")
    shell.env["API_KEY"] = "sk-0123456789abcdef"
    shell.keys("list")
    assert "first key" not in shell.said


def test_the_list_for_programs(shell: Shell) -> None:
    assert json.loads(shell.keys("list", "--json")) == []
    key = shell.keys("new", "alice", "--expires", "2099-01-01T00:00Z", "--monthly-spend", "0.5")
    assert json.loads(shell.keys("list", "--json")) == [
        {
            "name": "alice",
            "hash": f"sha256:{digest_of(key.encode()).hex()}",
            "expired": False,
            "expires": "2099-01-01T00:00:00Z",
            "requests_per_minute": None,
            "tokens_per_minute": None,
            "max_concurrent": None,
            "monthly_spend": 0.5,
            "fallback": True,
            "models": [],
            "routes": [],
        }
    ]


# --- revoke, rotate


def test_a_revoked_key_is_gone_and_the_others_stay(shell: Shell) -> None:
    shell.keys("new", "alice")
    bob = shell.keys("new", "bob")
    shell.keys("revoke", "alice")
    assert shell.in_force == {"bob": Key("bob", digest_of(bob.encode()))}
    shell.keys("revoke", "bob")
    assert shell.in_force == {} and keyfile.read(shell.file.read_bytes()).problems == ()
    shell.keys("revoke", "bob", code=1)
    assert "there is no key of this name" in shell.said and shell.said.count("\n") == 1


def test_a_rotated_key_keeps_its_limits_and_the_old_one_ends_at_once(shell: Shell) -> None:
    old = shell.keys("new", "alice", "--rpm", 60)
    new = shell.keys("rotate", "alice")
    assert new != old and "wrong from now on" in shell.said
    assert shell.in_force == {"alice": Key("alice", digest_of(new.encode()), requests_per_minute=60)}


def test_the_old_key_can_be_kept_for_a_while(shell: Shell) -> None:
    import time

    old = shell.keys("new", "alice", "--rpm", 60)
    new = shell.keys("rotate", "alice", "--keep-old", "24h")
    keys = shell.in_force
    assert keys["alice"].digest == digest_of(new.encode()) and keys["alice"].expires is None
    kept = keys["alice-old"]
    assert kept.digest == digest_of(old.encode()) and kept.requests_per_minute == 60
    assert kept.expires == pytest.approx(time.time() + 86400, abs=30)
    assert "alice-old" in shell.said
    shell.keys("rotate", "alice", "--keep-old", "1h")
    assert list(shell.in_force) == ["alice", "alice-old", "alice-old2"]


def test_rotating_clears_away_what_has_ended_of_the_same_name(shell: Shell) -> None:
    shell.keys("new", "alice")
    ended = Key("alice-old", digest_of(b"ended"), expires=1.0)
    other = Key("alice-older", digest_of(b"other"), expires=1.0)
    shell.file.write_text(shell.file.read_text() + f"\n{render(ended)}\n{render(other)}")
    shell.keys("rotate", "alice")
    assert list(shell.in_force) == ["alice", "alice-older"], "somebody else's name"


def test_an_old_key_is_not_kept_beyond_its_own_end(shell: Shell) -> None:
    shell.keys("new", "alice", "--expires", "2h")
    end = shell.in_force["alice"].expires
    shell.keys("rotate", "alice", "--keep-old", "24h", "--expires", "30d")
    assert shell.in_force["alice-old"].expires == end
    assert (shell.in_force["alice"].expires or 0) > (end or 0)


def test_a_key_that_has_expired_needs_a_new_end(shell: Shell) -> None:
    shell.file.parent.mkdir(parents=True)
    shell.file.write_text(render(Key("alice", digest_of(b"a"), expires=1.0)))
    shell.keys("rotate", "alice", code=2)
    assert "--expires" in shell.said
    shell.keys("rotate", "alice", "--expires", "never")
    assert shell.in_force["alice"].expires is None
    shell.keys("rotate", "nobody", code=1)


# --- import


def test_clear_text_becomes_hashes_and_the_file_is_named_for_deletion(shell: Shell) -> None:
    clear = shell.folder / "api_keys.txt"
    clear.write_text("alice:sk-alice-0123456789:60:2099-01-01T00:00:00+01:00\nbob:sk-bob-0123456789\n")
    shell.env["API_KEYS_FILE"] = str(clear)
    shell.keys("import", clear)
    assert shell.in_force == {
        "alice": Key(
            "alice",
            digest_of(b"sk-alice-0123456789"),
            requests_per_minute=60,
            expires=parse_moment("2098-12-31T23:00Z"),
        ),
        "bob": Key("bob", digest_of(b"sk-bob-0123456789")),
    }
    assert f"Set API_KEYS_FILE={shell.file}" in shell.said and f"Then delete {clear}" in shell.said
    assert "0123456789" not in shell.said + shell.file.read_text()
    shell.keys("import", clear)
    assert "0 of 2 keys" in shell.said


def test_another_key_of_the_same_name_stops_the_whole_import(shell: Shell) -> None:
    shell.keys("new", "bob")
    before = shell.file.read_bytes()
    other = shell.folder / "other.txt"
    other.write_text("alice:sk-alice-0123456789\nbob:sk-bob-0123456789\n")
    shell.keys("import", other, code=2)
    assert "other keys called bob" in shell.said and shell.file.read_bytes() == before


def test_what_cannot_be_imported_is_said_by_line(shell: Shell) -> None:
    other = shell.folder / "other.txt"
    shell.keys("import", other, code=2)
    assert "cannot be read (no such file or directory)" in shell.said
    other.write_text("alice:sk-c4nary-0123456789:many\nb c:sk-c4nary-x\n")
    shell.keys("import", other, code=2)
    lines = shell.said.splitlines()
    assert len(lines) == 2 and "line 1:" in lines[0] and "line 2:" in lines[1] and "c4nary" not in shell.said
    shell.file.parent.mkdir(parents=True)
    shell.file.write_text("alice:sk-alice-0123456789\n")
    shell.env["API_KEYS_FILE"] = str(shell.file)
    shell.keys("import", shell.file, code=2)
    assert "give it another name first" in shell.said


def test_a_file_of_lines_is_changed_by_hand(shell: Shell) -> None:
    lines = shell.folder / "keys.txt"
    lines.write_text("alice:sk-alice-0123456789\n")
    shell.env["API_KEYS_FILE"] = str(lines)
    shell.keys("revoke", "alice", code=2)
    assert f"`wakegate keys import {lines}`" in shell.said
    assert lines.read_text() == "alice:sk-alice-0123456789\n"


# --- check


def test_the_file_is_checked(shell: Shell) -> None:
    shell.keys("check")
    assert "nothing to check" in shell.said
    shell.keys("new", "alice")
    assert shell.keys("check") == f"{shell.file} is right: 1 key"
    shell.file.chmod(0o666)
    shell.keys("check")
    assert "warning" in shell.said and "chmod 600" in shell.said
    shell.file.write_text("[[keys]]\nname = 'a'\nmodels = 3\n")
    shell.keys("check", code=2)
    assert [line.partition(": ")[2][:7] for line in shell.said.splitlines()] == ["line 1:", "line 3:"]
    shell.env["API_KEYS_FILE"] = str(shell.folder / "nowhere")
    shell.keys("check", code=2)
    assert "cannot be read" in shell.said


def test_what_other_settings_have_against_it_is_said(shell: Shell) -> None:
    key = shell.keys("new", "alice")
    shell.env["API_KEY"] = key
    shell.keys("check", code=2)
    assert "alice is the same key as API_KEY" in shell.said and key not in shell.said
    del shell.env["API_KEY"]
    shell.keys("new", "bob", "--monthly-spend", 3)
    shell.keys("check", code=2)
    assert "HOURLY_PRICE" in shell.said


def test_whose_key_it_is(shell: Shell) -> None:
    key = shell.keys("new", "alice", "--rpm", 60, "--expires", "2099-01-01T00:00Z")
    said = shell.keys("check", "-", stdin=key + "\n")
    assert said == "alice, expires at 2099-01-01T00:00:00Z, limits: 60/min"
    shell.keys("check", "-", stdin="sk-c4nary", code=1)
    assert shell.said == "no key of this gateway\n"
    shell.keys("check", "-", stdin=b"\xff\xfe", code=1)
    for nothing in ("", "two words"):
        shell.keys("check", "-", stdin=nothing, code=2)


def test_the_keys_of_other_settings_are_known_too(shell: Shell) -> None:
    (shell.folder / "data" / "keys").mkdir(parents=True)
    (shell.folder / "data" / "keys" / "first-key.txt").write_text("sk-first-0123456789\n")
    assert shell.keys("check", "-", stdin="sk-first-0123456789") == "first-key, never expires, limits: none"
    shell.env |= {"API_KEY": "sk-api-0123456789", "ADMIN_KEY": "sk-admin-0123456789"}
    assert shell.keys("check", "-", stdin="sk-api-0123456789").startswith("api-key")
    assert shell.keys("check", "-", stdin="sk-admin-0123456789").startswith("admin")
    shell.keys("check", "-", stdin="sk-first-0123456789", code=1)


def test_a_key_on_the_command_line_is_not_taken_and_not_repeated(shell: Shell) -> None:
    shell.keys("check", "sk-c4nary-0123456789", code=2)
    assert "pipe it" in shell.said and "c4nary" not in shell.said


# --- processes


def process(shell: Shell, *words: str, under: tuple[str, ...] = (), **env: str) -> "subprocess.Popen[str]":
    keep = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*under, sys.executable, "-m", "gateway", "keys", *words],
        cwd=shell.folder,
        env=keep | shell.env | env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_several_who_make_keys_at_once_lose_none(shell: Shell) -> None:
    made = [process(shell, "new", f"key-{n}") for n in range(3)]
    printed = [each.communicate(timeout=60)[0].strip() for each in made]
    assert [each.returncode for each in made] == [0, 0, 0]
    assert {key.digest for key in shell.in_force.values()} == {digest_of(key.encode()) for key in printed}


@pytest.mark.parametrize(
    ("clock", "right"),
    [
        ("2026-10-25T00:59:58Z", True),  # Berlin: 02:59:58, the first time that night
        ("2026-10-25T01:30:02Z", False),  # Berlin: 02:30:02, the second time
    ],
)
def test_a_key_ends_at_its_time_wherever_the_machine_stands(shell: Shell, clock: str, right: bool) -> None:
    """In the hour that Berlin has twice, by a clock that says what UTC says."""
    shell.file.parent.mkdir(parents=True)
    shell.file.write_text(
        f'[[keys]]\nname = "a"\nhash = "sha256:{digest_of(b"k").hex()}"\nexpires = 2026-10-25T01:30:00\n'
    )
    now = int(parse_moment(clock))
    check = process(shell, "check", "-", under=("faketime", "-f", str(now)), FAKETIME_FMT="%s", TZ="Europe/Berlin")
    said, beside = check.communicate("k\n", timeout=60)
    assert (check.returncode == 0) is right, said + beside
    assert "2026-10-25T01:30:00Z" in said + beside
