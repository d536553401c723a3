"""This Python, its packages, and what the machine allows."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.doctor.case import Facts, ModelSeen
from gateway.doctor.findings import BREAKS, DOUBTFUL, NOTE
from gateway.doctor.runtime import AIOHTTP_CEILING, PYTHONS, check, version_of
from gateway.gpus import Gpu, GpusSeen
from gateway.web.wire import AIOHTTP_FLOOR
from tests.support.doctoring import GIB, PLAIN, case, codes, gguf, only

ROOT = Path(__file__).parents[2]


def test_a_supported_python_with_its_packages_is_nothing_to_say() -> None:
    assert codes(check(case())) == []


def test_the_bounds_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    floor, ceiling = (".".join(map(str, version)) for version in (AIOHTTP_FLOOR, AIOHTTP_CEILING))
    assert f"aiohttp>={floor},<{ceiling}" in project["dependencies"]
    assert project["requires-python"] == f">={PYTHONS[0][0]}.{PYTHONS[0][1]},<3.{PYTHONS[1][1] + 1}"


@pytest.mark.parametrize(
    ("version", "expected"),
    [("3.14.4", ["aiohttp-old"]), ("3.14.5", []), ("3.14.10", []), ("3.15.0", ["aiohttp-new"]), ("", ["aiohttp-old"])],
)
def test_aiohttp_between_its_floor_and_its_ceiling(version: str, expected: list[str]) -> None:
    assert codes(check(case(Facts(aiohttp=version)))) == expected


def test_aiohttp_without_its_compiled_parser() -> None:
    said = only(check(case(Facts(aiohttp_compiled=False))), "aiohttp-pure")
    assert said.level is BREAKS and "--only-binary aiohttp" in said.cure
    told = Facts(aiohttp_compiled=False, told={"AIOHTTP_NO_EXTENSIONS": "1"})
    assert only(check(case(told)), "aiohttp-pure").cure == "unset AIOHTTP_NO_EXTENSIONS"


def test_versions_are_read_as_numbers() -> None:
    assert version_of("3.14.10") == (3, 14, 10) > version_of("3.14.9")
    assert version_of("3.15.0rc1") == (3, 15, 0)
    assert version_of("?") == ()


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 15, 0)])
def test_a_python_that_is_not_supported(version: tuple[int, ...]) -> None:
    assert only(check(case(Facts(python=version))), "python-unsupported").level is BREAKS


def test_a_python_that_does_not_say_how_it_was_built_is_not_called_slow() -> None:
    assert codes(check(case(Facts(python_pgo=None)))) == []


def test_what_makes_python_slower_or_less_sure() -> None:
    assert only(check(case(Facts(python_pgo=False))), "python-without-pgo").level is NOTE
    assert only(check(case(Facts(uvloop=False))), "uvloop-missing").level is NOTE
    assert only(check(case(Facts(python_optimized=True))), "python-optimized").level is DOUBTFUL


def test_too_few_open_files_for_the_connections() -> None:
    few = replace(PLAIN, open_files=1024)
    said = only(check(case(around=few)), "open-files")
    assert said.level is NOTE  # the default gives way
    assert said.what == "1024 files may be open, which is enough for 384 connections; MAX_CONNECTIONS is 2000."
    assert said.cure == "sudo prlimit --pid $$ --nofile=65536"
    inside = replace(few, platform="container", in_container=True)
    assert only(check(case(around=inside)), "open-files").cure == "docker run --ulimit nofile=65536 …"
    assert only(check(case(around=few, MAX_CONNECTIONS="1000")), "open-files").level is DOUBTFUL
    assert codes(check(case(around=few, MAX_CONNECTIONS="300"))) == []


def test_a_model_larger_than_memory() -> None:
    facts = Facts(model=ModelSeen("m.gguf", gguf(80 * GIB)))
    assert only(check(case(facts, MODEL="m.gguf")), "memory-too-small").level is BREAKS
    on_gpu = replace(facts, gpus=GpusSeen((Gpu("H200", 139 * GIB, 139 * GIB),)))
    assert codes(check(case(on_gpu, MODEL="m.gguf"))) == []
    guessed = Facts(model=ModelSeen("org/Big-405B-GGUF:Q4_K_M"))
    assert only(check(case(guessed, MODEL="org/Big-405B-GGUF:Q4_K_M")), "memory-too-small").level is DOUBTFUL
    assert codes(check(case(facts, replace(PLAIN, memory=None), MODEL="m.gguf"))) == []


def test_a_queue_that_with_the_model_fills_memory() -> None:
    facts = Facts(model=ModelSeen("m.gguf", gguf(40 * GIB)))
    said = only(check(case(facts, MODEL="m.gguf", MAX_QUEUE_BYTES="20GiB")), "queue-memory")
    assert "the model takes 40.0 GiB" in said.what and said.cure == "export MAX_QUEUE_BYTES=4915MiB"
    assert codes(check(case(MAX_QUEUE_BYTES="40GiB"))) == ["queue-memory"]


@pytest.mark.parametrize(("now", "expected"), [(0.0, ["clock-wrong"]), (1_700_000_000.0, ["clock-wrong"])])
def test_a_clock_that_cannot_be_right(now: float, expected: list[str]) -> None:
    assert codes(check(case(Facts(now=now)))) == expected


def test_a_clock_that_the_kernel_does_not_trust_is_a_note() -> None:
    assert codes(check(case(Facts(clock_synchronised=False)))) == ["clock-unsynchronised"]
    assert codes(check(case(Facts(clock_synchronised=True)))) == []
