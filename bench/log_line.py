"""What one line of the log costs the thread that says it, and what it costs in all.

    python bench/log_line.py [--quick]

Prints microseconds per request's line: on the calling thread (what the event loop pays), in CPU time of the whole
process until it stands in the file, and of its parts; next to it what the logging module costs; and how often each
thread of the logs is woken for a batch.
"""

import argparse
import contextlib
import logging
import logging.handlers
import os
import queue
import sys
import tempfile
import threading
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from gateway.records import lines
from gateway.records.ended import Ended
from gateway.records.logs import Formats, LogPlan, Logs
from gateway.records.logs.writer import GATHER, TOGETHER
from gateway.records.redact import Redactor

ENDED = Ended(
    at=1_795_000_000.0,
    request_id="req_0123456789abcdef",
    caller_id="",
    upstream="default",
    key="api-key",
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
    first_token=0.125,
    longest_gap=0.045,
    took=1.234,
    tokens_in=12,
    tokens_out=123,
    bytes_in=1234,
    bytes_out=4567,
)
FORMATS = Formats(lines.text_line, lines.json_line, lines.happening_text, lines.happening_json)
REDACT = Redactor(["sk-abcdefghijklmnopqrstuv", "adm1n-key-0123456789", "hf_abcdefghijklmnopqrstuvwxyz"])
FORMS: tuple[Literal["text"], Literal["json"]] = ("text", "json")
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


def ours(folder: Path, form: Literal["text", "json"], bursts: int) -> tuple[float, float]:
    logs = Logs(LogPlan(folder, "llama", f"20261121T000000Z_{form}", form=form), formats=FORMATS, redact=REDACT)
    logs.start()
    measured = burst_by_burst(logs.request, lambda: logs.flush(10), bursts)
    logs.close(10)
    return measured


def wakes(folder: Path, batches: int) -> dict[str, float]:
    """How often each thread of the logs gave up the processor to wait, per batch that came by itself."""
    logs = Logs(LogPlan(folder, "llama", "20261121T000000Z_wakes"), formats=FORMATS, redact=REDACT)
    logs.start()
    before = waits()
    for _ in range(batches):
        for _ in range(BURST):
            logs.request(ENDED)
        time.sleep(2 * GATHER)
    after = waits()
    logs.close(10)
    return {name: (after[name] - before.get(name, 0)) / batches for name in after if name.startswith("log-")}


def waits() -> dict[str, int]:
    """proc(5): voluntary_ctxt_switches."""
    found = {}
    for thread in threading.enumerate():
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        found[thread.name] = int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return found


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
            for form in FORMS:
                rows.append((f"ours, {form}, console and file", ours(folder, form, bursts)))
            rows.append(("logging: QueueHandler, listener, one file", with_queue_handler(folder, bursts)))
            woken = wakes(folder, bursts)
    print(f"{'µs per line':<44}{'calling thread':>16}{'CPU in all':>12}")
    for what, (calling, in_all) in rows:
        print(f"{what:<44}{calling:>16.2f}{in_all:>12.1f}")
    line = lines.text_line(ENDED)
    together = " ".join([line] * TOGETHER)
    parts = {
        "of it: text_line": lambda: lines.text_line(ENDED),
        "of it: json_line": lambda: lines.json_line(ENDED),
        "of it: looking for secrets in a line alone": lambda: REDACT(line),
    }
    for what, part in parts.items():
        print(f"{what:<44}{'':>16}{timeit.timeit(part, number=5000) / 5000 * 1e6:>12.1f}")
    among_many = timeit.timeit(lambda: REDACT(together), number=100) / 100 / TOGETHER * 1e6
    print(f"{f'of it: looking in {TOGETHER} lines at once':<44}{'':>16}{among_many:>12.1f}")
    print(f"\nwaits per batch of {BURST} lines: " + ", ".join(f"{name} {count:.1f}" for name, count in woken.items()))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
