"""Large bodies are checked in a helper process, with the same result, and without holding the loop."""

import asyncio
import base64
import errno
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.errors import Refused
from gateway.proxy.checker import PIECE, Body, Checker, Image, Spool, body_of
from gateway.proxy.checks import IMAGES_MAX, URL_MAX, USES_MAX, Rules, check
from gateway.proxy.sieve import Sieve

CHAT = "/v1/chat/completions"
LARGE = {"model": "m", "messages": [{"role": "user", "content": "words " * 200_000}], "stream": True, "n": 2}


@pytest.fixture
async def checker() -> AsyncIterator[Checker]:
    made = Checker(Rules(), time_limit=20.0)
    yield made
    await made.close()
    assert not made._free
    assert not made._ending


def spooled(raw: bytes) -> Spool:
    spool = Spool()
    spool.write(raw)
    return spool


def helpers() -> list[int]:
    """Our living children that are helpers (a killed one that was not waited for yet is a zombie)."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat") as file:
                _, _, rest = file.read().rpartition(")")
            with open(f"/proc/{entry}/cmdline") as file:
                line = file.read()
        except OSError:
            continue
        if int(rest.split()[1]) == os.getpid() and "check_child" in line:
            found.append(int(entry))
    return found


async def until(holds: Callable[[], bool], within: float = 5.0) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "not within the deadline"
        await asyncio.sleep(0.01)


async def test_a_large_body_is_the_same_as_one_checked_at_once(checker: Checker) -> None:
    raw = json.dumps(LARGE).encode()
    body = await checker.check(spooled(raw), CHAT)
    at_once = body_of(check(raw, CHAT, Rules()))
    assert body.facts == at_once.facts
    assert body.size == at_once.size == sum(map(len, body.chunks))
    assert b"".join(body.chunks) == b"".join(at_once.chunks)
    assert max(map(len, body.chunks)) <= PIECE
    assert b"".join(body.chunks) == b"".join(body.chunks), "it can be sent a second time"
    assert (body.facts.model, body.facts.stream, body.facts.slots) == ("m", True, 2)
    body.close()


@pytest.mark.parametrize("order", [["model", "x"], ["x", "model"], ["x", "model", "n"], ["x"], ["n", "x"]])
async def test_a_large_body_takes_another_model_name(checker: Checker, order: list[str]) -> None:
    document = {key: {"model": "m", "x": "ä" * 200_000, "n": 1}[key] for key in order}
    body = await checker.check(spooled(json.dumps(document).encode()), CHAT)
    renamed = body.with_model("other")
    assert json.loads(b"".join(renamed.chunks)) == document | {"model": "other"}
    assert renamed.size == sum(map(len, renamed.chunks))
    assert renamed.facts.model == "other"
    assert json.loads(b"".join(body.chunks)) == document
    renamed.close()
    with pytest.raises(OSError):
        b"".join(body.chunks)


def sifted(checker: Checker, raw: bytes) -> Sieve:
    """As `bodies.py` gives it what comes."""
    sieve = checker.sieve()
    for place in range(0, len(raw), PIECE):
        sieve.take(raw[place : place + PIECE])
    sieve.finish()
    return sieve


async def test_a_body_of_long_texts_needs_no_helper_and_is_the_same(checker: Checker) -> None:
    texts = [
        "words " * 100_000,
        "data:image/png;base64," + "QUJD" * 200_000,
        'ä "\
'
        * 90_000,
    ]
    raw = json.dumps({"messages": [{"role": "user", "content": text} for text in texts], "model": "m", "n": 2}).encode()
    body = await checker.check(sifted(checker, raw), CHAT)
    whole = await checker.check(spooled(raw), CHAT)
    assert b"".join(body.chunks) == b"".join(whole.chunks)
    assert body.facts == whole.facts
    assert body.size == whole.size == sum(map(len, body.chunks))
    assert max(map(len, body.chunks)) <= PIECE
    renamed, other = body.with_model("another"), whole.with_model("another")
    assert b"".join(renamed.chunks) == b"".join(other.chunks)
    assert (renamed.size, renamed.facts.model) == (other.size, "another")
    assert "in memory" in repr(body)
    whole.close()
    body.close()


async def test_only_what_the_sieve_leaves_to_doubt_goes_to_a_helper(checker: Checker) -> None:
    long = "x" * 600_000
    await checker.check(sifted(checker, json.dumps({"model": "m", "messages": [{"content": long}]}).encode()), CHAT)
    assert helpers() == []
    in_a_key = {"model": "m", long: 1, "messages": []}
    body = await checker.check(sifted(checker, json.dumps(in_a_key).encode()), CHAT)
    assert len(helpers()) == 1
    assert json.loads(b"".join(body.chunks)) == in_a_key
    body.close()
    crowded = {"model": "m", "messages": [{"content": long}], "input": [[]] * 20_000}
    body = await checker.check(sifted(checker, json.dumps(crowded).encode()), CHAT)
    assert json.loads(b"".join(body.chunks)) == crowded
    body.close()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"n_discard": 1}, "unsupported_parameter"),
        ({"n": 500}, "invalid_request"),
        ({"grammar": "x" * 400_000}, "invalid_request"),
        ({"model": "x" * 400_000}, "invalid_request"),
        ({"stream": "x" * 400_000}, "invalid_request"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_refusal_of_a_sifted_body_is_that_of_the_whole(
    checker: Checker, fields: dict[str, object], code: str
) -> None:
    """No mark is ever shown: what is refused is checked again, whole."""
    raw = json.dumps({"model": "m", "messages": [{"content": "y" * 600_000}]} | fields).encode()
    sieve = sifted(checker, raw)
    with pytest.raises(Refused) as caught:
        await checker.check(sieve, CHAT)
    with pytest.raises(Refused) as whole:
        check(raw, CHAT, Rules())
    assert caught.value.refusal == whole.value.refusal
    assert caught.value.refusal.code == code
    assert sieve.mark not in caught.value.refusal.message


async def test_a_small_body_needs_no_helper_and_a_crowded_one_does(checker: Checker) -> None:
    await checker.check(b'{"model":"m"}', CHAT)
    assert helpers() == []
    body = await checker.check(b'{"model":"m","input":[' + b"[]," * 9_000 + b"1]}", CHAT)
    assert len(helpers()) == 1
    body.close()


async def test_a_refusal_comes_back_whole_and_the_helper_serves_on(checker: Checker) -> None:
    for _ in range(3):
        with pytest.raises(Refused) as caught:
            await checker.check(spooled(json.dumps(LARGE | {"n_discard": 1}).encode()), CHAT)
        assert (caught.value.refusal.code, caught.value.refusal.param) == ("unsupported_parameter", "n_discard")
    assert len(helpers()) == 1


async def test_the_settings_rules_hold_in_the_helper_too() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://good.org/a"}}
    document = LARGE | {"messages": [{"role": "user", "content": [part]}], "n_discard": 1, "pad": "x" * 300_000}
    checker = Checker(Rules(refused=frozenset(), media_hosts=("good.org",)))
    body = await checker.check(spooled(json.dumps(document).encode()), CHAT)
    assert json.loads(b"".join(body.chunks)) == document
    await checker.close()


@pytest.mark.parametrize("size", [10, 600_000])
async def test_what_the_engine_is_asked_for_beyond_a_body_is_the_same_wherever_it_is_checked(size: int) -> None:
    rules = Rules(count_tokens=True, gather=True)
    checker = Checker(rules)
    for fields in ({}, {"stream": False}, {"stream": True}, {"stream": True, "stream_options": {"x": 1}}):
        document = {"model": "m", "messages": [{"role": "user", "content": "x" * size}], **fields}
        raw = json.dumps(document).encode()
        at_once = body_of(check(raw, CHAT, rules))
        options = {**document.get("stream_options", {}), "include_usage": True}  # type: ignore[dict-item]
        assert json.loads(b"".join(at_once.chunks)) == document | {"stream": True, "stream_options": options}
        assert at_once.facts.gathered != at_once.facts.stream
        for taken in (sifted(checker, raw), spooled(raw)):
            body = await checker.check(taken, CHAT)
            assert (body.facts, b"".join(body.chunks)) == (at_once.facts, b"".join(at_once.chunks))
            body.close()
    await checker.close()


async def test_helpers_are_reused_and_never_more_than_two(checker: Checker) -> None:
    bodies = await asyncio.gather(*(checker.check(spooled(json.dumps(LARGE).encode()), CHAT) for _ in range(6)))
    assert len(helpers()) == 2
    assert len({body.size for body in bodies}) == 1


async def test_closing_ends_every_helper() -> None:
    checker = Checker(Rules())
    await checker.check(spooled(json.dumps(LARGE).encode()), CHAT)
    (pid,) = helpers()
    await checker.close()
    assert helpers() == []
    assert not os.path.exists(f"/proc/{pid}")


async def test_a_helper_that_was_killed_is_replaced_and_nobody_notices(checker: Checker) -> None:
    await checker.check(spooled(json.dumps(LARGE).encode()), CHAT)
    (pid,) = helpers()
    os.kill(pid, signal.SIGKILL)
    body = await checker.check(spooled(json.dumps(LARGE).encode()), CHAT)
    assert body.facts.model == "m"
    await until(lambda: pid not in helpers())
    assert len(helpers()) == 1


async def test_signals_for_the_gateway_do_not_end_a_helper(checker: Checker) -> None:
    await checker.check(spooled(json.dumps(LARGE).encode()), CHAT)
    (pid,) = helpers()
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)
    await checker.check(spooled(json.dumps(LARGE).encode()), CHAT)
    assert helpers() == [pid]


async def test_a_check_that_takes_too_long_ends_with_its_helper() -> None:
    checker = Checker(Rules(), time_limit=0.2)
    with pytest.raises(Refused) as caught:
        await checker.check(spooled(b'{"input":[' + b"{}," * 1_500_000 + b"{}]}"), CHAT)
    assert caught.value.refusal.status == 400
    assert "0.2 s" in caught.value.refusal.message
    await checker.close()
    assert helpers() == []


async def test_a_body_of_too_many_values_is_refused_within_its_memory() -> None:
    checker = Checker(Rules(), memory=100 << 20)
    with pytest.raises(Refused) as caught:
        await checker.check(spooled(b'{"input":[' + b"{}," * 1_500_000 + b"{}]}"), CHAT)
    assert (caught.value.refusal.status, caught.value.refusal.code) == (400, "invalid_request")
    assert "too many values" in caught.value.refusal.message
    body = await checker.check(b'{"input":[' + b"[]," * 9_000 + b"1]}", CHAT)
    assert body.size
    await checker.close()


async def test_a_caller_who_leaves_ends_the_check_and_gives_back_its_turn() -> None:
    checker = Checker(Rules(), helpers=1)
    slow = spooled(b'{"input":[' + b"{}," * 1_500_000 + b"{}]}")
    first = asyncio.create_task(checker.check(slow, CHAT))
    second = asyncio.create_task(checker.check(spooled(json.dumps(LARGE).encode()), CHAT))
    await until(lambda: len(helpers()) == 1)
    began = time.monotonic()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second).facts.model == "m"
    assert time.monotonic() - began < 2.0
    assert slow.fileno() == -1
    await checker.close()


async def test_a_caller_who_leaves_while_waiting_for_a_helper_is_gone_from_the_line() -> None:
    checker = Checker(Rules(), helpers=1, waiting=2)
    spools = [spooled(json.dumps(LARGE).encode()) for _ in range(3)]
    first, second = (asyncio.create_task(checker.check(spool, CHAT)) for spool in spools[:2])
    await asyncio.sleep(0)
    with pytest.raises(Refused) as caught:
        await checker.check(spools[2], CHAT)
    assert caught.value.refusal.code == "queue_full"
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert spools[1].fileno() == spools[2].fileno() == -1
    assert (await first).facts.model == "m"
    assert "0 bodies" in repr(checker)
    await checker.close()


# -- bodies whose images are fetched -----------------------------------------------------------------------------------

PICTURES = {
    "https://a.example.org/1": ("image/png", b"one" * 999),
    "https://b.example.org/2": ("image/webp", b"two!" * 99),
}


def vision(pad: str) -> dict[str, object]:
    first, second = PICTURES
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in (first, second, first)]
    source = {"type": "image", "source": {"type": "url", "url": second}}
    return {"messages": [{"role": "user", "content": [*parts, source]}], "model": "m", "system": [source], "pad": pad}


def inline(document: dict[str, object], model: str = "m") -> object:
    """What the engine is to get."""
    text = json.dumps(document | {"model": model})
    for url, (kind, data) in PICTURES.items():
        said = base64.b64encode(data).decode()
        text = text.replace(
            f'{{"type": "url", "url": "{url}"}}', f'{{"type": "base64", "media_type": "{kind}", "data": "{said}"}}'
        ).replace(url, f"data:{kind};base64,{said}")
    return json.loads(text)


def fetched(body: Body) -> list[Image]:
    images = []
    for wanted in body.wanted:
        kind, data = PICTURES[wanted.url]
        images.append(Image(kind, spooled(base64.b64encode(data))))
    return images


@pytest.mark.parametrize("pad", ["", "ä" * 300_000], ids=["checked here", "checked by a helper"])
async def test_images_are_put_into_a_body_that_is_sent_as_any_other(pad: str) -> None:
    checker, document = Checker(Rules(media_fetch=True)), vision(pad)
    body = await checker.check(json.dumps(document).encode(), CHAT)
    assert (len(helpers()) == 1) == bool(pad)
    assert [(wanted.url, wanted.uses) for wanted in body.wanted] == [
        (url, 2 + (n == 1)) for n, url in enumerate(PICTURES)
    ]
    done = body.filled(fetched(body))
    assert not done.wanted
    assert json.loads(b"".join(done.chunks)) == inline(document)
    assert done.size == sum(map(len, done.chunks))
    assert max(map(len, done.chunks)) <= PIECE
    assert b"".join(done.chunks) == b"".join(done.chunks), "it can be sent a second time"
    renamed = done.with_model("another")
    assert json.loads(b"".join(renamed.chunks)) == inline(document, "another")
    assert renamed.size == sum(map(len, renamed.chunks))
    renamed.close()
    with pytest.raises(OSError):
        b"".join(done.chunks)
    await checker.close()


async def test_a_body_is_not_sent_without_its_images() -> None:
    checker = Checker(Rules(media_fetch=True))
    body = await checker.check(json.dumps(vision("")).encode(), CHAT)
    assert body.size < 2000
    for use in (len, b"".join, lambda chunks: chunks[0]):
        with pytest.raises(RuntimeError, match="without them"):
            use(body.with_model("x").chunks)
    with pytest.raises(RuntimeError, match="does not want 0 images"):
        body.filled([])
    body.close()
    await checker.close()


async def test_as_many_urls_as_there_may_be_come_back_from_a_helper() -> None:
    checker = Checker(Rules(media_fetch=True))
    urls = [f"https://a.example.org/{n:02}" + '"' * (URL_MAX - 26) for n in range(IMAGES_MAX)]
    parts = [{"image_url": {"url": urls[n % IMAGES_MAX]}} for n in range(USES_MAX)]
    body = await checker.check(json.dumps({"messages": [{"content": parts}], "pad": "x" * 300_000}).encode(), CHAT)
    assert [wanted.url for wanted in body.wanted] == urls
    assert len(helpers()) == 1
    body.close()
    await checker.close()


async def test_checking_four_mib_hardly_holds_the_loop(checker: Checker) -> None:
    """Measured at 1 to 5 ms (bench/loop_hold.py; the promise is 10). A busy machine may be slow, so the bound is wide,
    but far below the 150 ms that the check itself takes."""
    message = {"role": "user", "content": "Tell me more of it, please."}
    spool = spooled(json.dumps({"model": "m", "messages": [message] * 70_000}).encode())
    await checker.check(spooled(json.dumps(LARGE).encode()), CHAT)
    longest, done = 0.0, False

    async def watch() -> None:
        nonlocal longest
        while not done:
            began = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - began)
            await asyncio.sleep(0.001)

    watcher = asyncio.create_task(watch())
    body = await checker.check(spool, CHAT)
    for _ in body.chunks:
        await asyncio.sleep(0)
    done = True
    await watcher
    assert longest < 0.1
    body.close()


def test_a_spool_gives_its_memory_back_with_its_last_reference() -> None:
    spool = spooled(b"x" * 3_000_000)
    file = spool.fileno()
    assert (spool.size, os.fstat(file).st_size) == (3_000_000, 3_000_000)
    assert spool.read(1, 3) == b"xx"
    del spool
    with pytest.raises(OSError):
        os.fstat(file)


async def test_no_room_for_a_body_is_a_refusal_that_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "memfd_create", full)
    with pytest.raises(Refused) as caught:
        Spool()
    assert (caught.value.refusal.status, caught.value.refusal.code) == (503, "overloaded")


HOUSEHOLD = """
import asyncio, sys
from gateway.proxy.checker import Checker, Spool
from gateway.proxy.checks import Rules

async def main():
    checker, spool = Checker(Rules()), Spool()
    spool.write(b'{"model":"m"}')
    await checker.check(spool, "/v1/chat/completions")
    print(checker._free[0].process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_gateway_that_is_killed_leaves_no_helper_behind() -> None:
    gateway = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOUSEHOLD, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert gateway.stdout is not None
    helper = int(await gateway.stdout.readline())
    assert os.path.exists(f"/proc/{helper}")
    gateway.kill()
    await gateway.wait()
    await until(lambda: not alive(helper))


def alive(pid: int) -> bool:
    """Whether it runs; a zombie that nobody waits for has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
