"""What it costs to look for the engine's `usage` in a stream, per read, and in answers in one piece.

    python bench/usage_scan.py [--quick]

One row per kind of read, in microseconds, the best of five rounds: a usual event, the same with the `"usage":null` that
vLLM may say in each, with the whole usage in each (`continuous_usage_stats`), a burst of events in one read, an event
in two reads; the same for a stream from which the usage is stripped; and `usage_in` on answers, the last one written to
be as dear as it can be. Beside it the two other ways to know: `json.loads` of each event, and `in` alone. At the end
what it costs to put one answer together from a stream, per event.
"""

import argparse
import json
import timeit
from collections.abc import Callable
from functools import partial

from gateway.proxy.gathered import CHAT, Gathered
from gateway.proxy.usage import TRIES, UsageWatch, usage_in

COUNTS = {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46}


def event(usage: object = ..., choice: dict[str, object] | None = None) -> bytes:
    """222 bytes without a usage, as a token of llama-server or vLLM has."""
    chunk: dict[str, object] = {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1795262400,
        "model": "an-org/a-model-of-8b",
        "choices": [{"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}],
    }
    if choice:
        chunk["choices"] = [{"index": 0, "delta": {"content": " word"}, "finish_reason": None, **choice}]
    if usage is not ...:
        chunk["usage"] = usage
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def row(name: str, size: int, times: int, work: Callable[[], object]) -> None:
    """Bytes, and the microseconds of one."""
    best = min(timeit.repeat(work, number=times, repeat=5)) / times * 1e6
    print(f"{name:<50}{size:>8}{best:>10.2f}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--quick", action="store_true", help="fewer rounds")
    times = 200 if options.parse_args().quick else 20_000

    watch = UsageWatch()
    plain, null, full = event(), event(None), event(COUNTS)
    half, other = plain[:100], plain[100:]
    reads = {
        "an event": plain,
        'an event with "usage":null': null,
        "an event with its usage": full,
        "20 events": plain * 20,
        '20 events with "usage":null': null * 20,
        "64 KiB of events": plain * (65536 // len(plain)),
    }
    print(f"{'one read of a stream':<50}{'bytes':>8}{'µs':>10}")
    for name, read in reads.items():
        row(name, len(read), max(10, times // (1 + len(read) // 4000)), partial(watch.feed, read))
    row("an event in two reads", len(plain), times, lambda: (watch.feed(half), watch.feed(other)))
    row("json.loads of an event", len(plain), times, lambda: json.loads(plain[6:]))
    row("`in` alone", len(plain), times, lambda: b'"usage"' in plain)

    watch = UsageWatch(strip=True)
    last = b'data: {"choices":[],"usage":%b}\n\n' % json.dumps(COUNTS).encode()
    print(f"\n{'one read of a stream that is stripped':<50}{'bytes':>8}{'µs':>10}")
    for name, read in (reads | {"an event, and the one that is stripped": plain + last}).items():
        row(name, len(read), max(10, times // (1 + len(read) // 4000)), partial(watch.feed, read))

    text = "The quick brown fox, again. "
    answers = {
        "a chat of 1 KB": {"choices": [{"message": {"content": text * 30}}], "usage": COUNTS},
        "a chat of 60 KB": {"choices": [{"message": {"content": text * 2100}}], "usage": COUNTS},
        "60 KB of embeddings, usage last": {"data": [0.123456789] * 5000, "usage": COUNTS},
        "60 KB of embeddings, usage first": {"usage": COUNTS, "data": [0.123456789] * 5000},
        "60 KB of a tool's input, made to be dear": {
            "usage": COUNTS,
            "content": [["", {}] * 5000, [{"usage": COUNTS}] * TRIES, ["", {}] * 5000],
        },
    }
    print(f"\n{'an answer in one piece':<50}{'bytes':>8}{'µs':>10}")
    for name, answer in answers.items():
        whole = json.dumps(answer, separators=(",", ":")).encode()
        assert usage_in(whole) is not None, name
        row(name, len(whole), max(1, times // 100), partial(usage_in, whole))

    print(f"\n{'one event of an answer that is put together':<50}{'bytes':>8}{'µs':>10}")
    entry = {"token": " word", "logprob": -1.25, "bytes": [32, 119, 111, 114, 100], "top_logprobs": []}
    call = {"tool_calls": [{"index": 0, "function": {"arguments": '{"city"'}}]}
    events = {
        "an event": plain,
        "an event with a logprob": event(choice={"logprobs": {"content": [entry]}}),
        "an event of a tool's call": event(choice={"delta": call}),
    }
    for name, each in events.items():
        row(name, len(each), times // 2, partial(Gathered(CHAT).feed, each))
    parts = [plain] * 10_000
    whole = Gathered(CHAT)
    for each in (*parts, plain.replace(b'"finish_reason":null', b'"finish_reason":"stop"')):
        whole.feed(each)
    row("the JSON of 10,000 events", len(whole.answer()), max(1, times // 2000), whole.answer)


if __name__ == "__main__":
    main()
