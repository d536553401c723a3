"""Beside aiohttp's reader and h11's: where all of them take an answer they take it for the same; and where they differ.

`check` has the laws; here are the answers that it is asked about, generated, mutated and fuzzed.
"""

import random
import re
import subprocess
import sys
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.answers import SEEDS, WORDS, mutants, one
from tests.support.answer_readers import check, read_by_aiohttp, read_by_h11, read_by_us

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = b"Content-Length: 3\r\n"


@given(
    st.lists(st.sampled_from([*SEEDS, *WORDS]) | st.binary(max_size=5), max_size=8),
    st.lists(st.integers(0, 200), max_size=5),
    st.sampled_from(["POST", "HEAD"]),
)
def test_whatever_an_engine_sends_is_whole_cut_or_malformed_in_any_split(
    parts: list[bytes], cuts: list[int], method: str
) -> None:
    """Never another exception, and never another body than the others would have."""
    check(b"".join(parts), cuts, method)


def test_answers_that_went_wrong_in_a_few_places_are_read_as_others_read_them() -> None:
    verdicts = {one(data) for data in islice(mutants(random.Random(9)), 2000)}
    assert verdicts == {"whole", "cut", "malformed"}


@pytest.mark.parametrize("answer", SEEDS)
def test_the_answers_that_fuzzing_begins_with_are_whole(answer: bytes) -> None:
    assert check(answer, [1, 5, 9], "POST").verdict == "whole"


@pytest.mark.parametrize("options", [[], ["--blind"]], ids=["guided", "blind"])
def test_fuzzing_for_some_seconds_finds_nothing(options: list[str]) -> None:
    """`make fuzz` does it for ten minutes. Where atheris has no wheel both are blind."""
    seconds = "1" if options else "3"
    command = [sys.executable, "-m", "tests.fuzz.answers", "--seconds", seconds, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(r"^(\d+) answers", done.stdout, re.MULTILINE)
    assert found is not None and int(found[1]) > len(SEEDS)


@pytest.mark.parametrize(
    ("answer", "taken_by"),
    {
        # Line ends, and lines that go on
        OK[:-2] + b"\n" + LENGTH + b"\r\nabc": "aiohttp and h11",
        OK + b"Content-Length: 3\n\nabc": "aiohttp and h11",
        OK + LENGTH + b"X-A: a\r\n b\r\n\r\nabc": "aiohttp and h11",
        # Framing
        OK + LENGTH * 2 + b"\r\nabc": "h11",
        OK + b"Content-Length: 3, 3\r\n\r\nabc": "h11",
        OK + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n": "h11",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n": "aiohttp and h11",
        OK + b"Content-Length: 0000000000000000003\r\n\r\nabc": "aiohttp and h11",
        CHUNKED + b"0" * 16 + b"3\r\nabc\r\n0\r\n\r\n": "aiohttp and h11",
        # Characters
        OK + LENGTH + b"X-A: a\x01b\r\n\r\nabc": "aiohttp and h11",
        CHUNKED + b"3;a b\r\nabc\r\n0\r\n\r\n": "h11",
        # What nobody asked for
        b"HTTP/1.1 100 X\r\n\r\n" * 9 + OK + LENGTH + b"\r\nabc": "aiohttp and h11",
    }.items(),
)
def test_what_we_refuse_and_others_take(answer: bytes, taken_by: str) -> None:
    """On purpose: each of these has been used to make two readers see two answers, or is written by no engine."""
    takers = {"aiohttp": read_by_aiohttp([answer]).verdict, "h11": read_by_h11([answer]).verdict}
    assert read_by_us([answer]).verdict == "malformed"
    assert {name for name, verdict in takers.items() if verdict == "whole"} == set(taken_by.split(" and "))


@pytest.mark.parametrize(
    ("answer", "refused_by"),
    {
        b"\r\n" + OK + LENGTH + b"\r\nabc": "h11",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n": "h11",
        OK + b"Transfer-Encoding: xyz\r\n\r\nabc": "h11",
        CHUNKED + b"3 ; a = b\r\nabc\r\n0\r\n\r\n": "aiohttp and h11",
    }.items(),
)
def test_what_we_take_and_others_refuse(answer: bytes, refused_by: str) -> None:
    """Harmless, and written by some servers; the coded ones are for our caller to refuse, who reads the head."""
    others = {"aiohttp": read_by_aiohttp([answer]).verdict, "h11": read_by_h11([answer]).verdict}
    assert read_by_us([answer]).verdict == "whole"
    assert {name for name, verdict in others.items() if verdict == "malformed"} == set(refused_by.split(" and "))
