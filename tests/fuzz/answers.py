"""Fuzzes the reader of engines' answers: any bytes, in any pieces, by the laws of tests/support/answer_readers.py.

    python -m tests.fuzz.answers [--seconds N] [--seed N] [--blind] [--keep FOLDER]

With atheris (libFuzzer), which keeps what takes a new way through the reader and goes on from there; --blind, and where
there is no atheris for the platform, valid answers are mutated without looking. Prints what it did. When a law is
broken its exit code is not 0, and it prints the bytes that broke it. --keep: what was found stays there, and the next
run goes on from it.
"""

import argparse
import importlib.util
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\n"
SEEDS = [
    OK + b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n" + b'{"ok": 1}',
    OK + b'Transfer-Encoding: chunked\r\n\r\n9\r\n{"ok": 1}\r\n0\r\n\r\n',
    OK + b'transfer-encoding: Chunked\r\n\r\n1;a=b; c="\\"d"\r\nx\r\n00A \r\n0123456789\r\n000\r\nX-T: t\r\n\r\n',
    OK + b"Connection: close\r\n\r\nall of this",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: </x>\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nx",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 304\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"\r\n" + OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: xyz\r\nX-A:\t a b \t\r\n\r\nabc",
    OK + b"Content-Length: 1\r\n\r\nx\r\nHTTP/1.1 200 OK\r\n\r\n",
    OK + b"Connection: Keep-Alive, Close\r\nContent-Length: 0\r\nX-A: \xe9\r\n\r\n",
]
WORDS = [
    *(
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\0",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b'"',
        b"\\",
        b"=",
        b"\x0b",
        b"\x80",
        b"+",
    ),
    *(b"-", b"_", b"0x", b"0", b"1", b"9", b"a", b"F" * 15, b"0" * 16, b"HTTP/1.1 ", b"HTTP/1.0 ", b"100 ", b"101 "),
    *(
        b"204 ",
        b"chunked",
        b"gzip",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
    ),
    *(b"0\r\n\r\n", b"3\r\nabc\r\n", b"X: y\r\n", b"x" * 300),
]
METHODS = ("POST", "GET", "HEAD")


def one(data: bytes) -> str:
    """A method, places to cut at, and the answer itself, out of any bytes. Its verdict."""
    from tests.support.answer_readers import check

    if len(data) < 4:
        return "too short"
    how, *cuts = data[:4]
    scale = 1 if how & 4 else 7
    return check(data[4:], [cut * scale for cut in cuts], METHODS[(how & 3) % 3]).verdict


def told(data: bytes) -> str:
    try:
        return one(data)
    except Exception:
        print(f"A law is broken by {data!r}", file=sys.stderr, flush=True)
        raise


def mutants(chance: random.Random) -> Iterator[bytes]:
    while True:
        answer = bytearray(chance.choice(SEEDS))
        for _ in range(chance.randrange(5)):
            at, many = chance.randrange(len(answer) + 1), chance.choice((0, 0, 1, 2, 9))
            word = chance.choice(WORDS) if chance.random() < 0.8 else chance.randbytes(chance.randrange(3))
            answer[at : at + many] = word
        yield chance.randbytes(4) + answer


def fuzz_blindly(seconds: float, seed: int) -> int:
    verdicts: dict[str, int] = {}
    ends = time.monotonic() + seconds
    for data in mutants(random.Random(seed)):
        verdict = told(data)
        verdicts[verdict] = verdicts.get(verdict, 0) + 1
        if time.monotonic() >= ends:
            break
    print(f"{sum(verdicts.values())} answers, mutated blindly: {verdicts}")
    return 0


def fuzz_guided(seconds: int, seed: int, folder: Path) -> None:
    """Does not return: libFuzzer ends the process, and no clean-up of Python's runs."""
    import atheris

    # Only ours is watched for new ways; it has to be imported here for the first time.
    with atheris.instrument_imports(include=["gateway.proxy.http1"]):
        import gateway.proxy.http1  # noqa: F401

    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, answer in enumerate(SEEDS):
        (corpus / f"seed-{number}").write_bytes(b"\0\3\5\7" + answer)
    escaped = ["".join(f"\\x{byte:02x}" for byte in word) for word in WORDS]
    words = folder / "words"
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    options = [f"-max_total_time={seconds}", f"-seed={seed}", f"-dict={words}", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *options, "-max_len=4096", "-timeout=5", "-verbosity=0", str(corpus)], told)
    atheris.Fuzz()


def fuzz_guided_elsewhere(seconds: int, seed: int) -> int:
    """In a child, so that its folder is removed behind it."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--seconds", str(seconds), "--seed", str(seed), "--keep", folder]
        code = subprocess.run([sys.executable, "-m", "tests.fuzz.answers", *options], check=False).returncode
        found = len(list(Path(folder, "corpus").glob("*")))
    print(f"{found} answers that took ways of their own through the reader, in {seconds} s")
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blind", action="store_true", help="without atheris")
    parser.add_argument("--keep", type=Path, help="a folder")
    options = parser.parse_args()
    if options.blind or importlib.util.find_spec("atheris") is None:
        return fuzz_blindly(options.seconds, options.seed)
    if options.keep is None:
        return fuzz_guided_elsewhere(options.seconds, options.seed)
    fuzz_guided(options.seconds, options.seed, options.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
