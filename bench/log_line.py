"""What one line of the log costs the thread that says it, and what it costs in all.

    python bench/log_line.py [--quick]

Prints microseconds per request's line: on the calling thread (what the event loop pays), in CPU time of the whole
process until it stands in the file, and of its parts; and next to it what the logging module costs.
"""

import argparse
import contextlib
import logging
import logging.handlers
import os
import queue
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path

from gateway.records import lines
from gateway.records.ended import Ended
from gateway.records.logs import Formats, LogPlan, Logs
from gateway.records.redact import Redactor

ENDED = Ended(
    at=1_795_000_000.0,
    request_id="req_0123456789abcdef",
    caller_id="",
    upstream="default",
    key="frank",
    route="/v1/chat/completions",
    model="org/name:Q4_K_M",
    status=200,
    outcome="answered",
    code="",
    ended_by="engine",
    state="ready",
    line=0.0,
    wake=0.0,
    first_byte=0.123,
    took=1.234,
    tokens_in=12,
    tokens_out=123,
    bytes_in=1234,
    bytes_out=4567,
)
FORMATS = Formats(lines.text_line, lines.json_line, lines.happening_text, lines.happening_json)
REDACT = Redactor(["sk-abcdefghijklmnopqrstuv", "adm1n-key-0123456789", "hf_abcdefghijklmnopqrstuvwxyz"])
BURST = 500
"""Lines between two pauses: what a busy gateway says in a tenth of a second."""


def burst_by_burst(say: Callable[[Ended], None], settle: Callable[[], object], bursts: int) -> tuple[float, float]:
    """Microseconds per line on this thread, and of the process' CPU in all."""
    spent, cpu = 0.0, time.process_time()
    for _ in range(bursts):
        began = time.perf_counter()
        for _ in range(BURST):
            say(ENDED)
        spent += time.perf_counter() - began
        settle()
    count = bursts * BURST
    return spent / count * 1e6, (time.process_time() - cpu) / count * 1e6


def ours(folder: Path, form: str, bursts: int) -> tuple[float, float]:
    logs = Logs(LogPlan(folder, "llama", f"20261121T000000Z_{form}", form=form), formats=FORMATS, redact=REDACT)
    logs.start()
    measured = burst_by_burst(logs.request, lambda: logs.flush(10), bursts)
    logs.close(10)
    return measured


def with_queue_handler(folder: Path, bursts: int) -> tuple[float, float]:
    logger, line = logging.getLogger("bench"), lines.text_line(ENDED)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    file = logging.FileHandler(folder / "logging.txt")
    listener = logging.handlers.QueueListener(waiting, file)
    logger.addHandler(logging.handlers.QueueHandler(waiting))
    listener.start()

    def settle() -> None:
        while not waiting.empty():
            time.sleep(0.001)

    measured = burst_by_burst(lambda ended: logger.info(line), settle, bursts)
    listener.stop()
    file.close()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description="What one line of the log costs.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the lines")
    bursts = 10 if parser.parse_args().quick else 100
    rows: list[tuple[str, tuple[float, float]]] = []
    with tempfile.TemporaryDirectory() as name, Path(os.devnull).open("w") as nowhere:
        folder = Path(name)
        with contextlib.redirect_stdout(nowhere):
            for form in ("text", "json"):
                rows.append((f"ours, {form}, console and file", ours(folder, form, bursts)))
            rows.append(("logging: QueueHandler, listener, one file", with_queue_handler(folder, bursts)))
    print(f"{'µs per line':<44}{'calling thread':>16}{'CPU in all':>12}")
    for what, (calling, in_all) in rows:
        print(f"{what:<44}{calling:>16.2f}{in_all:>12.1f}")
    line = lines.text_line(ENDED)
    parts = {
        "of it: text_line": lambda: lines.text_line(ENDED),
        "of it: json_line": lambda: lines.json_line(ENDED),
        "of it: taking secrets out": lambda: REDACT(line),
    }
    for what, part in parts.items():
        print(f"{what:<44}{'':>16}{timeit.timeit(part, number=5000) / 5000 * 1e6:>12.1f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
