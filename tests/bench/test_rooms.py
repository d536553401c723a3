"""Whose a line, a call or a library is."""

import pytest

from bench.rooms import (
    AIOHTTP,
    CONDUCTOR,
    INTERPRETER,
    KERNEL,
    LOOP,
    OTHERS,
    OURS,
    PROXY,
    PYDANTIC,
    RECORDS,
    REST,
    ROOMS,
    STANDARD,
    UVLOOP,
    WEB,
    Calls,
    calls_by_room,
    library_of,
    room_of,
    shares_by_library,
    short,
)

ROOT = "/home/me/gateway/wakegate"
PACKAGES = f"{ROOT}/.venv/lib/python3.11/site-packages"


@pytest.mark.parametrize(
    ("path", "room"),
    [
        (f"{ROOT}/gateway/web/door.py", WEB),
        (f"{ROOT}/gateway/proxy/reply.py", PROXY),
        (f"{ROOT}/gateway/conductor.py", CONDUCTOR),
        (f"{ROOT}/gateway/policy/admission.py", CONDUCTOR),
        (f"{ROOT}/gateway/records/logs/files.py", RECORDS),
        (f"{ROOT}/gateway/app.py", REST),
        (f"{ROOT}/bench/profiled.py", REST),
        (f"{PACKAGES}/aiohttp/web_protocol.py", AIOHTTP),
        (f"{PACKAGES}/multidict/__init__.py", AIOHTTP),
        (f"{PACKAGES}/pydantic/main.py", PYDANTIC),
        (f"{PACKAGES}/orjson/__init__.py", OTHERS),
        ("/usr/lib/python3/dist-packages/yarl/_url.py", AIOHTTP),
        ("/usr/lib/python3.11/asyncio/runners.py", LOOP),
        ("/usr/lib/python3.11/asyncio/timeouts.py", STANDARD),
        ("<frozen importlib._bootstrap>", STANDARD),
    ],
)
def test_a_file_belongs_to_its_package_also_within_a_folder_called_like_another(path: str, room: str) -> None:
    assert room_of(path, ROOT) == room
    assert room in ROOMS


def test_what_is_ours_is_shown() -> None:
    assert set(ROOMS) > OURS


def test_a_line_is_named_without_what_stands_before_its_package() -> None:
    assert short(f"{PACKAGES}/aiohttp/streams.py:130") == "aiohttp/streams.py:130"
    assert short(f"{ROOT}/gateway/proxy/pool.py:7") == "gateway/proxy/pool.py:7"
    assert short("/usr/lib/python3.11/asyncio/runners.py:118") == "asyncio/runners.py:118"
    assert short("/usr/lib/python3.11/weakref.py:5") == "weakref.py:5"


def test_built_in_functions_are_their_packages_or_else_their_callers() -> None:
    take = (f"{ROOT}/gateway/proxy/stream.py", 10, "take")
    start = (f"{PACKAGES}/aiohttp/web_protocol.py", 20, "start")
    stats = {
        take: (2, 3, 0.5, 9.0, {start: (3, 2, 0.5, 9.0)}),
        start: (1, 1, 0.25, 9.0, {}),
        ("~", 0, "<built-in method builtins.len>"): (
            5, 5, 0.75, 0.75, {take: (4, 4, 0.5, 0.5), start: (1, 1, 0.25, 0.25)},
        ),
        ("~", 0, "<method 'get' of 'multidict._multidict.CIMultiDictProxy' objects>"): (
            2, 2, 0.125, 0.125, {take: (2, 2, 0.125, 0.125)},
        ),
        ("~", 0, "<method 'write' of 'uvloop.loop.UVStream' objects>"): (1, 1, 1.0, 1.0, {take: (1, 1, 1.0, 1.0)}),
    }  # fmt: skip
    assert calls_by_room(stats, ROOT) == {
        PROXY: Calls(python=3, built_in=4, seconds=1.0),
        AIOHTTP: Calls(python=1, built_in=3, seconds=0.625),
        UVLOOP: Calls(built_in=1, seconds=1.0),
    }


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("[kernel.kallsyms]", KERNEL),
        ("[vdso]", KERNEL),
        ("loop.cpython-311-x86_64-linux-gnu.so", UVLOOP),
        ("_http_parser.cpython-311-x86_64-linux-gnu.so", "aiohttp's compiled parts"),
        ("_multidict.cpython-314-aarch64-linux-gnu.so", "aiohttp's compiled parts"),
        ("_pydantic_core.cpython-311-x86_64-linux-gnu.so", PYDANTIC),
        ("libc.so.6", "libc"),
        ("libc-2.31.so", "libc"),
        ("ld-linux-x86-64.so.2", "libc"),
        ("libcrypto.so.3", "TLS and hashes"),
        ("_hashlib.cpython-311-x86_64-linux-gnu.so", "TLS and hashes"),
        ("python3.11", INTERPRETER),
        ("libpython3.13.so.1.0", INTERPRETER),
        ("_asyncio.cpython-311-x86_64-linux-gnu.so", INTERPRETER),
    ],
)
def test_a_library_is_known_by_its_file(name: str, library: str) -> None:
    assert library_of(name) == library


def test_libraries_are_added_up_with_the_greatest_first() -> None:
    report = [
        "",
        " 19.00% ;[kernel.kallsyms]   ",
        "  1.00% ;[vdso]",
        " 60.00% ;python3.11",
        " 20.00% ;libpython3.11.so",
    ]
    shares = shares_by_library(report)
    assert list(shares) == [INTERPRETER, KERNEL]
    assert list(shares.values()) == pytest.approx([0.8, 0.2])
