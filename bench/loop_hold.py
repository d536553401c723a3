"""How long checking a JSON body holds the event loop: inline, in a thread, and as the gateway does it.

    python bench/loop_hold.py [--quick]

Prints one row per kind of content: milliseconds of one check on the loop, in a thread, and as the gateway does it above
its threshold (arriving in reads of 256 KiB), each with the longest time in which a timer that is due every millisecond
was not served. The figures behind `is_cheap` are the last table: what a byte and a value cost. They are those of
Python's parser, the slower one, which has the last word on a body.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable

from gateway.errors import Refused
from gateway.proxy.checker import Body, Checker, Spool, spooled
from gateway.proxy.checks import Rules, check, is_cheap
from gateway.proxy.sieve import Sieve

ROUTE = "/v1/chat/completions"
MIB = 1 << 20


def kinds(size: int) -> dict[str, bytes]:
    """Bodies of about `size` bytes, kind ones and hostile ones."""

    def filled(head: bytes, unit: bytes, tail: bytes) -> bytes:
        return head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail

    message = b'{"role":"user","content":"Tell me more of it, please."},'
    code = json.dumps('def f(x):\n\treturn {"a": [x, "b"]}, None  # \\d+\n').encode()[1:-1]
    return {
        "one picture": filled(b'{"messages":[{"role":"user","content":"data:image/png;base64,', b"QUJD", b'"}]}'),
        "one text": filled(b'{"messages":[{"role":"user","content":"', b"The quick brown fox, again. ", b'"}]}'),
        "one source file": filled(b'{"messages":[{"role":"user","content":"', code, b'"}]}'),
        "emoji": filled(b'{"messages":[{"role":"user","content":"', "\U0001f600 ä ".encode(), b'"}]}'),
        "many messages": filled(b'{"messages":[', message, message[:-1] + b"]}"),
        "empty lists": filled(b'{"input":[', b"[],", b"[]]}"),
        "empty objects": filled(b'{"messages":[', b"{},", b"{}]}"),
        "token ids": filled(b'{"input":[', b"12345,", b"1]}"),
        "floats": filled(b'{"input":[', b"0.123456789,", b"1]}"),
        "empty strings": filled(b'{"input":[', b'"",', b'""]}'),
        "quotes in a text": filled(b'{"input":"', b'\\"', b'"}'),
        "escapes in a text": filled(b'{"input":"', b"\\u00e4", b'"}'),
        "lone surrogates": filled(b'{"input":"', b"\\ud83d", b'"}'),
    }


async def held(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Seconds of `work`, and the longest that a timer due each millisecond was kept waiting meanwhile."""
    longest, running = 0.0, True

    async def watch() -> None:
        nonlocal longest
        while running:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - due)

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0.02)
    longest = 0.0
    began = time.perf_counter()
    try:
        await work()
    except Refused:
        pass  # too many values for the memory limit: an answer like any other
    took = time.perf_counter() - began
    await asyncio.sleep(0.005)
    running = False
    await watcher
    return took, longest


async def arrive(checker: Checker, raw: bytes, chunk: int = 256 * 1024) -> Body:
    """As `Bodies.read` does it, with the loop free between two reads, and as `Upstream` sends it."""
    held: Sieve | Spool = checker.sieve()
    for place in range(0, len(raw), chunk):
        if isinstance(held, Sieve) and held.has_given_up:
            held = spooled(held.pieces())
        if isinstance(held, Sieve):
            held.take(raw[place : place + chunk])
        else:
            held.write(raw[place : place + chunk])
        await asyncio.sleep(0)
    if isinstance(held, Sieve):
        held.finish()
    body = await checker.check(held, ROUTE)
    for _ in body.chunks:
        await asyncio.sleep(0)
    body.close()
    return body


async def main(quick: bool) -> None:
    rules = Rules()
    checker = Checker(rules)
    cold = await held(lambda: checker.check(spooled([b'{"model":"m","messages":[]}']), ROUTE))
    print(f"start of a helper: {cold[0] * 1000:.1f} ms, loop held {cold[1] * 1000:.1f} ms\n")

    async def inline(raw: bytes) -> None:
        check(raw, ROUTE, rules)

    for size in (4 * MIB,) if quick else (4 * MIB, 30 * MIB):
        print(f"{size // MIB} MiB (ms)          inline: took   thread: took  held   gateway: took  held")
        for name, raw in kinds(size).items():
            at_once = await held(lambda raw=raw: inline(raw))
            thread = await held(lambda raw=raw: asyncio.to_thread(check, raw, ROUTE, rules))
            ours = await held(lambda raw=raw: arrive(checker, raw))
            figures = [at_once[0], *thread, *ours]
            print(f"  {name:20}" + "".join(f"{1000 * figure:12.1f}" for figure in figures))
        print()

    print("what decides inline (is_cheap)      bytes   ms   allowed")
    for size in (4096, 65536, 256 * 1024):
        for name, raw in kinds(size).items():
            began = time.perf_counter()
            check(raw, ROUTE, rules, quickly=False)
            print(f"  {name:28}{len(raw):10}{1000 * (time.perf_counter() - began):8.2f}   {is_cheap(raw)}")
    await checker.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="4 MiB only")
    asyncio.run(main(parser.parse_args().quick))
