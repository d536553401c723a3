"""The text of a file of keys: both forms are read, everything wrong is said at once, and nothing secret is repeated."""

import hashlib
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.keys import Key, digest_of
from gateway.web import keyfile
from gateway.web.keyfile import HEADER, NotEditable, Reading, name_problem, read, render, rewrite

HASH = hashlib.sha256(b"sk-alice").hexdigest()
OTHER = hashlib.sha256(b"sk-bob").hexdigest()
ALICE = Key("alice", bytes.fromhex(HASH))
BOB = Key("bob", bytes.fromhex(OTHER))


def of(text: str) -> Reading:
    return read(text.encode())


# --- TOML


def test_a_key_has_everything_that_its_table_says() -> None:
    reading = of(f"""
        [[keys]]
        name = "alice"
        hash = "sha256:{HASH.upper()}"
        requests_per_minute = 60
        tokens_per_minute = 100_000
        max_concurrent = 2
        monthly_spend = 12.5
        fallback = false
        expires = 2027-01-31T12:00:00+01:00
        models = ["small", "large"]
        routes = ["/v1/chat/completions", "/v1/models"]
    """)
    assert reading.problems == () and reading.form == "toml"
    assert reading.keys == (
        Key(
            "alice",
            bytes.fromhex(HASH),
            requests_per_minute=60,
            tokens_per_minute=100_000,
            max_concurrent=2,
            monthly_spend=12_500_000,
            fallback=False,
            expires=1801393200.0,
            models=frozenset({"small", "large"}),
            routes=frozenset({"/v1/chat/completions", "/v1/models"}),
        ),
    )


@pytest.mark.parametrize(
    ("expires", "moment"),
    [
        ("2027-01-31T12:00:00+01:00", 1801393200.0),
        ("2027-01-31T11:00:00", 1801393200.0),
        ("2027-01-31 11:00:00", 1801393200.0),
        ("2027-01-30", 1801353600.0),
        ('"2027-01-31T11:00Z"', 1801393200.0),
        ('"2027-W04-7T11"', 1801393200.0),
        ('"2027-01-30"', 1801353600.0),
    ],
)
def test_an_end_is_a_toml_time_or_any_text_of_iso_8601(expires: str, moment: float) -> None:
    reading = of(f'[[keys]]\nname = "a"\nhash = "sha256:{HASH}"\nexpires = {expires}\n')
    assert reading.problems == () and reading.keys[0].expires == moment


@pytest.mark.parametrize(("spend", "sum_"), [("12", 12_000_000), ("0.1", 100_000), ('"0.34"', 340_000), ("0", 0)])
def test_money_is_in_dollars_and_exact(spend: str, sum_: int) -> None:
    reading = of(f'[[keys]]\nname = "a"\nhash = "sha256:{HASH}"\nmonthly_spend = {spend}\n')
    assert reading.keys[0].monthly_spend == sum_


def test_everything_that_is_wrong_is_said_at_once_with_its_line() -> None:
    reading = of(f"""\
title = "ours"

[[keys]]
name = "alice"
hash = "sha256:{HASH}"
requests_per_minut = 3

[[keys]]  # again
hash = "sha256:{HASH}"
name = "alice"
requests_per_minute = 0
max_concurrent = "two"
tokens_per_minute = true

[[keys]]
name = "bob"
monthly_spend = -1
expires = 12:00:00
models = []
routes = ["v1/chat"]
fallback = "no"
key = "sk-abc"
""")
    starts = [
        "line 1: title is nothing here",
        "line 6: requests_per_minut is not a field",
        "line 8: the name alice is there already (line 3)",
        "line 8: this is the same key as alice (line 3)",
        "line 11: requests_per_minute: not right; allowed: 1, 2",
        "line 12: max_concurrent: not right",
        "line 13: tokens_per_minute: not right",
        "line 15: hash: missing",
        "line 17: monthly_spend: not right",
        "line 18: expires: not right",
        "line 19: models: not right",
        "line 20: routes: not right",
        "line 21: fallback: not right",
        "line 22: key: a key itself does not belong here",
    ]
    assert len(reading.problems) == len(starts), reading.problems
    for problem, start in zip(reading.problems, starts, strict=True):
        assert problem.startswith(start)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty"),
        (" \n\n", "it is empty"),
        ("[[keys]]\nname = \n", "line 2: this is not TOML"),
        ("[[keys]]\nname = 'a'", "line 1: hash: missing"),
        ("[keys]\nname = 'a'\n", "line 1: keys: not right; write [[keys]]"),
        ("keys = 3\n", "line 1: keys: not right"),
        ("[[keys]]\n[[keys]\n", "line 2: this is not TOML"),
        ("[[" * 40_000, "not TOML"),
        ("[[keys]]\nname='a'\nrequests_per_minute = " + "9" * 5000, "not TOML"),
        (f"[[keys]]\nname='a'\nhash='{HASH}'\n", "line 3: hash: not right; allowed: sha256:"),
        (f"[[keys]]\nname='a'\nhash='sha256:{digest_of(b'').hex()}'\n", "line 3: hash: not right"),
        (f"[[keys]]\nname='admin'\nhash='sha256:{HASH}'\n", "line 1: name: admin is how logs call ADMIN_KEY"),
        (f"keys = [{{name='a b', hash='sha256:{HASH}'}}]\n", "key 1: name: not a name"),
        (f"[[keys]]\nname = 'a'\nhash = 'sha256:{HASH}'\nexpires = 2027\n", "line 4: expires: not right"),
    ],
)
def test_what_is_wrong_is_named(text: str, problem: str) -> None:
    problems = of(text).problems
    assert len(problems) == 1 and problem in problems[0]


def test_what_is_not_text_is_named() -> None:
    assert read(b"# ok\n\xff\xfe").problems == ("line 2: not UTF-8 text",)
    assert read("[[keys]]".encode("utf-16")).problems


def test_a_file_may_begin_with_a_byte_order_mark_and_have_lines_of_windows() -> None:
    text = render(ALICE).replace("\n", "\r\n")
    assert read(b"\xef\xbb\xbf" + text.encode()).keys == (ALICE,)


def test_a_file_with_comments_alone_is_right_and_has_no_keys() -> None:
    """The last key was revoked. A file that is really empty is one that is being written, or that was lost."""
    assert of(HEADER) == Reading()


def test_a_block_in_a_text_of_several_lines_is_none() -> None:
    inner = f'[[keys]]\nname = "mallory"\nhash = "sha256:{OTHER}"\n'
    reading = of(f'[[keys]]\nname = "alice"\nhash = "sha256:{HASH}"\nmodels = ["""\n{inner}"""]\nx = 1\n')
    assert [key.name for key in reading.keys] == ["alice"]
    assert reading.problems[0].startswith("key 1: models: not right"), "no line rather than a wrong one"


# --- lines


def test_lines_with_hashes_are_read_without_a_warning() -> None:
    reading = of(f"# ours\n\nalice:sha256:{HASH}\r\nbob:SHA256:{OTHER}:60:2027-01-31T12:00:00+01:00  # until then\n")
    assert reading.form == "lines" and reading.problems == () and reading.warnings == ()
    assert reading.keys == (ALICE, Key("bob", BOB.digest, requests_per_minute=60, expires=1801393200.0))


def test_lines_in_clear_text_are_read_and_warned_about() -> None:
    reading = of("alice:sk-alice-0123456789:60\nbob:sk-bob-0123456789::2027-01-31T12:00:00+01:00\ncarol:short::never\n")
    assert reading.problems == () and reading.clear == ("alice", "bob", "carol")
    assert reading.keys == (
        Key("alice", digest_of(b"sk-alice-0123456789"), requests_per_minute=60),
        Key("bob", digest_of(b"sk-bob-0123456789"), expires=1801393200.0),
        Key("carol", digest_of(b"short")),
    )
    assert "3 keys stand there in clear text (alice, bob, carol)" in reading.warnings[0]
    assert reading.warnings[1] == "line 3: the key carol has fewer than 16 characters"


def test_wrong_lines_are_all_named() -> None:
    reading = of(f"alice\nbob:\ncarol:sha256:abc\ndave:sha256:{HASH}:many\neve:sha256:{HASH}::soon\n:x\n")
    assert [problem.partition(";")[0] for problem in reading.problems] == [
        "line 1: not a key",
        "line 2: not a key",
        "line 3: hash: not right",
        "line 4: requests_per_minute: not right",
        "line 5: expires: not right",
        "line 5: this is the same key as dave (line 4)",
        "line 6: name: not a name",
    ]


# --- secrets


SECRETS = st.text(alphabet=string.ascii_letters + string.digits + "_-=+/.:\"'[]# ", min_size=8, max_size=40).map(
    lambda text: "c4nary" + text + "c4nary"
)


@given(SECRETS, st.integers(0, 9))
def test_no_message_repeats_what_stood_in_the_file(secret: str, place: int) -> None:
    """Wherever somebody has put a key by mistake: as a name, a hash, a number, a field, a line, the other way round."""
    texts = [
        f'[[keys]]\nname = "{secret}"\n',
        f'[[keys]]\nname = "a"\nhash = "{secret}"\n',
        f'[[keys]]\nname = "a"\nrequests_per_minute = "{secret}"\nmodels = "{secret}"\nroutes = ["{secret}"]\n',
        f'[[keys]]\nname = "a"\nexpires = "{secret}"\nkey = "{secret}"\n"{secret}" = 1\n',
        f'"{secret}" = 1\n',
        f"[[keys]]\n{secret}\n",
        f"alice:{secret}:{secret}:{secret}\n",
        f"{secret}:alice\n",
        f"{secret}\n",
        f"alice:sha256:{secret}\nbob:{secret}\n",
    ]
    reading = of(texts[place])
    said = "\n".join(reading.problems + reading.warnings)
    if any("c4nary" in key.name for key in reading.keys):  # short and plain enough to be a name: then it is one
        return
    assert "c4nary" not in said


def test_a_key_is_not_taken_for_a_name() -> None:
    """Name and key the wrong way round: every log line would have the key in it."""
    for secret in ("sk-wakegate-abcdefgh", "hf_abcdefghijk", "rpa-ABCDEFGH", "0123456789abcdef0123456789abcdef"):
        assert name_problem(secret) is not None
        assert secret not in "".join(of(f"{secret}:alice-is-my-name\n").problems)


@pytest.mark.parametrize("name", ["alice", "team-7", "a.b_c", "x@example.org", "A", "0", "my-hf-bot", "n" * 40])
def test_names_are_short_and_plain(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize(
    "name", ["", "a b", "-a", "é", 'a"b', "a\n", "n" * 41, "api-key", "Admin", "first-key", 3, None]
)
def test_what_could_not_stand_in_a_label_is_no_name(name: object) -> None:
    assert name_problem(name) is not None


def test_a_key_that_another_setting_gives_too_is_a_clash() -> None:
    fixed = [Key("api-key", ALICE.digest)]
    assert keyfile.clashes([ALICE, BOB], fixed) == ("alice is the same key as API_KEY; take one of them away",)


# --- writing

NAMES = st.from_regex(r"[a-z][a-z0-9._@-]{0,10}", fullmatch=True).filter(lambda name: name_problem(name) is None)
LIMITS = st.none() | st.integers(1, 10**9)
KEYS = st.builds(
    Key,
    NAMES,
    st.binary(min_size=32, max_size=32),
    LIMITS,
    LIMITS,
    LIMITS,
    st.none() | st.integers(0, 10**12 - 1),
    st.booleans(),
    st.none() | st.integers(-(2**33), 2**37).map(lambda ms: ms / 1000 * 4),
    st.frozensets(st.text(min_size=1, max_size=5).filter(lambda text: text.isprintable() and text.strip() == text)),
    st.frozensets(st.from_regex(r"/[a-z0-9._~]{1,8}[a-z]", fullmatch=True)),
)
BOOKS = st.lists(KEYS, max_size=4, unique_by=(lambda key: key.name, lambda key: key.digest))


@given(KEYS)
def test_a_key_that_is_written_reads_as_it_was(key: Key) -> None:
    assert of(render(key)) == Reading(keys=(key,))


@settings(max_examples=40)
@given(BOOKS, BOOKS)
def test_a_file_says_what_it_was_told_last(before: list[Key], after: list[Key]) -> None:
    """New ones, others that go, some that stay or change."""
    after = [*after, *(key for key in before[::2] if key.name not in {each.name for each in after})]
    if len({key.digest for key in after}) < len(after):
        return
    text = rewrite(rewrite("", before), after)
    assert {key.name: key for key in of(text).keys} == {key.name: key for key in after}


THEIRS = f"""\
# Who may. Ask Dora before you change this.

# the web shop
[[keys]] # since May
name = "alice"   # Alice Example
hash = "sha256:{HASH}"   # made by hand

# --- people ---

# Bob, until he finds another
[[keys]]
name = 'bob'
hash = 'sha256:{OTHER}'
models = [
  # the cheap one
  "small",
]
# he asked for more

# the end
"""


def test_what_people_wrote_around_the_keys_stays() -> None:
    carol = Key("carol", digest_of(b"carol"))
    small = Key("bob", BOB.digest, models=frozenset({"small"}))
    assert rewrite(THEIRS, [ALICE, small]) == THEIRS
    assert rewrite(THEIRS, [ALICE, small, carol]) == THEIRS + "\n" + render(carol)


def test_a_key_that_goes_takes_the_comment_right_above_it_along() -> None:
    small = Key("bob", BOB.digest, models=frozenset({"small"}))
    assert "web shop" not in rewrite(THEIRS, [small]) and "--- people ---" in rewrite(THEIRS, [small])
    without_bob = rewrite(THEIRS, [ALICE])
    assert "another" not in without_bob and "cheap" not in without_bob and "# the end" in without_bob


def test_a_new_hash_goes_where_the_old_one_stood() -> None:
    changed = Key("alice", digest_of(b"new"))
    small = Key("bob", BOB.digest, models=frozenset({"small"}))
    assert rewrite(THEIRS, [changed, small]) == THEIRS.replace(HASH, changed.digest.hex())


def test_a_file_whose_keys_stand_elsewhere_is_left_alone() -> None:
    text = f"keys = [{{name = 'alice', hash = 'sha256:{HASH}'}}]\n"
    assert of(text).keys == (ALICE,)
    with pytest.raises(NotEditable):
        rewrite(text, [ALICE, BOB])


def test_a_file_that_says_nothing_gets_our_header() -> None:
    assert rewrite("", [ALICE]) == HEADER + "\n" + render(ALICE)
    assert rewrite(HEADER, []) == HEADER
