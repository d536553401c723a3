#!/usr/bin/env python3
"""The figures of docs/adr/0002 and 0005: cancelling llama.cpp and its cost, loading progress, embeddings beside a chat.

    python bench/llama_child.py

Needs the extras `llama` and `demo`, no GPU, a few minutes and 1 GB of disk for a while. Prints one line per figure.
"""

import asyncio
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import llama_cpp
from llama_cpp import llama_cpp as native

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gateway.providers.local.llama_child.brake import Brake, CallerLeft  # noqa: E402
from gateway.providers.local.llama_child.model import Model  # noqa: E402

PROMPT = [6 + (at * 37) % 250 for at in range(5000)]


def make(folder: Path, *words: str) -> Path:
    path = folder / ("-".join(words).replace("--", "") + ".gguf")
    subprocess.run([sys.executable, str(ROOT / "scripts/make_demo_model.py"), str(path), *words], check=True)
    return path


def load(path: Path, brake: Brake) -> Model:
    threads = len(os.sched_getaffinity(0))
    return Model(
        str(path),
        brake=brake,
        progress=lambda _: True,
        trained_only=False,
        n_ctx=8192,
        n_threads=threads,
        n_threads_batch=threads,
    )


@contextmanager
def busy_thread(wanted: bool) -> Iterator[None]:
    """Something that holds the interpreter lock most of the time, as a loop that serves streams does."""
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if wanted:
            thread.join()


def cost_of_asking(tiny: Path, slow: Path) -> None:
    never = native.ggml_abort_callback(0)
    python = native.ggml_abort_callback(lambda _: False)
    for path, tokens in ((tiny, 1000), (slow, 60)):
        brake = Brake()
        model = load(path, brake)
        c_function = native.ggml_abort_callback(brake.callback)
        for busy in (False, True):
            speeds: dict[str, list[float]] = {"none": [], "C": [], "Python": []}
            for _ in range(3):
                for name, callback in (("none", never), ("C", c_function), ("Python", python)):
                    native.llama_set_abort_callback(model.ctx, callback, brake.data)
                    model.reset()
                    model.eval(PROMPT[:16])
                    with busy_thread(busy):
                        began = time.perf_counter()
                        for _ in range(tokens):
                            model.eval([7])
                        speeds[name].append(tokens / (time.perf_counter() - began))
            told = ", ".join(f"{name} {max(values):.0f}" for name, values in speeds.items())
            print(f"tokens/s, {path.stem}, other thread {'busy' if busy else 'idle'}, by abort callback: {told}")


def time_to_stop(slow: Path) -> None:
    brake = Brake()
    model = load(slow, brake)
    ask: dict[str, Any] = {"max_tokens": 24, "temperature": 0.0, "seed": 1}
    fresh = model.create_completion(PROMPT[:700], **ask)["choices"][0]["text"]
    model.reset()
    model._ctx.kv_cache_clear()
    for name, callback in (("abort callback", brake.callback), ("between blocks only (as on CUDA)", 0)):
        native.llama_set_abort_callback(model.ctx, native.ggml_abort_callback(callback), brake.data)
        waits, same = [], 0
        for number in range(5):
            pulled_at = 0.0

            def pull() -> None:
                nonlocal pulled_at
                pulled_at = time.perf_counter()
                brake.pull()

            threading.Timer(0.7 + 0.13 * number, pull).start()
            try:
                model.reset()
                model.create_completion(PROMPT, **ask)
            except CallerLeft:
                waits.append(1000 * (time.perf_counter() - pulled_at))
            brake.release()
            same += model.create_completion(PROMPT[:700], **ask)["choices"][0]["text"] == fresh
        told = ", ".join(f"{wait:.0f}" for wait in waits)
        print(f"ms from pulling the brake in a 5,000-token prefill to a free engine, {name}: {told}")
        print(f"  and the next answer, whose prompt begins like the stopped one, is the fresh engine's: {same} of 5")


def text_of_long_answers(tiny: Path) -> None:
    """The package asks for the text of the whole answer two or three times after each token."""
    model = load(tiny, Brake())
    answer = [270 + at % 300 for at in range(4000)]
    told = {}
    for name, method in (("the package", llama_cpp.Llama.detokenize), ("ours", Model.detokenize)):
        method(model, answer)
        began = time.perf_counter()
        for _ in range(20):
            method(model, answer)
        told[name] = 1000 * (time.perf_counter() - began) / 20
    print("ms for the text of 4,000 tokens: " + ", ".join(f"{name} {each:.2f}" for name, each in told.items()))


def progress(big: Path) -> None:
    with big.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    heard: list[float] = []
    began = time.perf_counter()
    Model(
        str(big),
        brake=Brake(),
        progress=lambda _: heard.append(time.perf_counter() - began) is None,
        trained_only=False,
        n_ctx=512,
    )
    whole = time.perf_counter() - began
    print(
        f"native progress, mapped cold file of {big.stat().st_size >> 20} MiB: loading took {whole:.2f} s; first figure"
    )
    print(f"  (0 %) at {heard[0]:.2f} s, last (100 %) at {heard[-1]:.2f} s")


def memory_of_embeddings(big: Path) -> None:
    model = load(big, Brake())
    for tokens in (500, 2000):
        before = resident()
        model.embedder.embed(PROMPT[:tokens], "input")
        print(
            f"MiB more for embeddings of up to {model.embedder._size} tokens beside the chat: {resident() - before:.0f}"
        )
        model.embedder.close()


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def loop_while_generating(model: Path, folder: Path) -> None:
    path = folder / "child.sock"
    command = [
        sys.executable,
        "-m",
        "gateway.providers.local.llama_child",
        "--socket",
        str(path),
        "--model",
        str(model),
    ]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL)
    try:
        while not path.exists():
            await asyncio.sleep(0.01)
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as client:
            while (await client.get("http://engine/health")).status != 200:
                await asyncio.sleep(0.02)
            body = {"prompt": "x", "max_tokens": 7000 if "tiny" in model.name else 200, "stream": True}
            times: list[float] = []
            async with client.post("http://engine/v1/completions", json=body) as answer:
                reading = asyncio.create_task(answer.read())
                while not reading.done():
                    began = time.perf_counter()
                    await (await client.get("http://engine/health")).read()
                    times.append(1000 * (time.perf_counter() - began))
                    await asyncio.sleep(0.005)
        times.sort()
        print(
            f"ms for /health while {model.stem} streams: median {statistics.median(times):.1f}, "
            f"99th {times[int(len(times) * 0.99)]:.1f}, worst {times[-1]:.1f} of {len(times)}"
        )
    finally:
        process.terminate()
        await process.wait()


def main() -> None:
    native.llama_log_set(native.llama_log_callback(0), ctypes.c_void_p(0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the package's chatter while it loads
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tiny, slow = make(folder, "--size", "tiny"), make(folder, "--size", "slow")
        cost_of_asking(tiny, slow)
        time_to_stop(slow)
        text_of_long_answers(tiny)
        for model in (tiny, slow):
            asyncio.run(loop_while_generating(model, folder))
        big = make(folder, "--layers", "24", "--dim", "1536")
        progress(big)
        memory_of_embeddings(big)


if __name__ == "__main__":
    main()
