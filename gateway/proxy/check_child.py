"""The helper process that checks large bodies: one loop, hardly an import, started by `checker.py` as `python -I -S`.

It holds the end of a socket pair as its standard input. An order comes as one packet with the file that holds the body
(a memfd); the checked body is written back into the same file and the facts go back as one packet. It ends when the
gateway does (the socket closes), after a minute without work, or, when one check takes too long, by its own alarm: a
parser written in C runs no Python code in between, and the default action of SIGALRM needs none.
"""

import gc
import json
import os
import resource
import signal
import socket
from typing import Any

from gateway.errors import Refused, refuse
from gateway.proxy.checks import Checked, Rules, check, memory_of

IDLE_MAX = 60.0
"""Seconds without work after which it ends, and gives back the memory that a large parse leaves behind."""
PACKET_MAX = 64 * 1024


def main() -> None:
    gc.disable()  # what is parsed has no cycles, and to look for some costs as much as the parse
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C and a drain are the gateway's to hear
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=0) as orders:
        orders.settimeout(IDLE_MAX)
        while True:
            try:
                packet, files, _, _ = socket.recv_fds(orders, PACKET_MAX, 1)
            except (TimeoutError, OSError):
                return
            if not packet or not files:
                return
            answer = _carry_out(json.loads(packet), files[0])
            os.close(files[0])
            try:
                orders.send(json.dumps(answer).encode())
            except OSError:
                return  # nobody waits for it any more


def _carry_out(order: dict[str, Any], file: int) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_AS, (order["memory"], resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_REAL, order["time"])
    try:
        raw = os.pread(file, order["size"], 0)
        quickly = memory_of(raw) <= order["memory"] * 3 // 4
        return _written(check(raw, order["route"], Rules.from_wire(order["rules"]), quickly=quickly), file)
    except Refused as refused:
        refusal = refused.refusal
    except MemoryError:
        refusal = refuse("invalid_request", "The body holds too many values to be checked.").refusal
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"code": refusal.code, "message": refusal.message, "param": refusal.param}


def _written(checked: Checked, file: int) -> dict[str, Any]:
    os.ftruncate(file, 0)
    place = 0
    for part in (checked.before, checked.after):
        view = memoryview(part)
        while view:
            written = os.pwrite(file, view[: 1 << 24], place)
            place += written
            view = view[written:]
    facts = {name: getattr(checked.facts, name) for name in checked.facts.__slots__}
    answer = {"facts": facts, "before": len(checked.before), "after": len(checked.after), "name": checked.name.decode()}
    if checked.wanted:  # behind the body, because a packet has no room for so many URLs
        wanted = [(each.url, each.place, each.uses) for each in checked.wanted]
        gaps = [(gap.at, gap.image, gap.fill.value) for gap in checked.gaps]
        answer["gaps"] = os.pwrite(file, json.dumps({"wanted": wanted, "gaps": gaps}).encode(), place)
    return answer
