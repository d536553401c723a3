"""Which Pythons were built with profile-guided optimization, by what real ones say of themselves."""

import pytest

from gateway.doctor.pgo import has_pgo

DEBIAN = (
    "'--enable-shared' '--prefix=/usr' '--libdir=/usr/lib/x86_64-linux-gnu' '--enable-ipv6' "
    "'--enable-loadable-sqlite-extensions' '--with-dbmliborder=bdb:gdbm' '--with-computed-gotos' '--without-ensurepip' "
    "'--with-system-expat' '--with-dtrace' '--with-wheel-pkg-dir=/usr/share/python-wheels/' 'MKDIR_P=/bin/mkdir -p' "
    "'--with-system-ffi' 'CC=x86_64-linux-gnu-gcc' 'CFLAGS=-g   -fstack-protector-strong -Wformat'"
)
"""3.11.2 of Debian 12. Its flags have been cleaned of `-fprofile-use`, and so has PGO_PROF_USE_FLAG."""
PYENV = (
    "'--prefix=/root/.pyenv/versions/3.13.0' '--enable-shared' '--libdir=/root/.pyenv/versions/3.13.0/lib' "
    "'LDFLAGS=-L/root/.pyenv/versions/3.13.0/lib -Wl,-rpath,/root/.pyenv/versions/3.13.0/lib' "
    "'CPPFLAGS=-I/root/.pyenv/versions/3.13.0/include'"
)
PLAIN_FLAGS = "-fno-strict-overflow -Wsign-compare -DNDEBUG -g -O3 -Wall -std=c11 -Wextra -fvisibility=hidden"
USED = "-fprofile-use -fprofile-correction"
"""PGO_PROF_USE_FLAG: with gcc each build has it, profiled or not."""
IMAGE = (
    "'--build=x86_64-linux-gnu' '--enable-loadable-sqlite-extensions' '--enable-optimizations' "
    "'--enable-option-checking=fatal' '--enable-shared' '--with-lto' '--with-ensurepip' 'build_alias=x86_64-linux-gnu'"
)
"""As docker-library/python configures python:3.13-slim-bookworm."""
UV = (
    "'--build=x86_64-unknown-linux-gnu' '--host=x86_64-unknown-linux-gnu' '--prefix=/install' "
    "'--with-openssl=/tools/deps' '--without-ensurepip' '--with-readline=editline' '--enable-shared' "
    "'--enable-optimizations' '--with-lto' 'ac_cv_buggy_getaddrinfo=no' 'CC=clang' 'CFLAGS=-march=x86-64-v2  -fPIC'"
)
"""python-build-standalone, which uv installs (its issue 145)."""
CLOUD_SDK = (
    "'--build=x86_64-unknown-linux-gnu' '--host=x86_64-unknown-linux-gnu' '--prefix=/install' "
    "'--with-system-expat' '--without-ensurepip' '--enable-shared' '--with-build-python=/tools/host/bin/python3.12' "
    "'CC=clang' 'CFLAGS=  -fPIC  '"
)
"""3.12.10 as Google's SDK brings it: the same recipe as uv's, without optimizations."""
CONDA = (
    "'--enable-shared' '--enable-ipv6' '--with-ensurepip=no' '--prefix=/home/me/anaconda3' "
    "'--with-tcltk-includes=-I/home/me/anaconda3/include' '--with-tcltk-libs=-L/home/me/anaconda3/lib -ltcl -ltk' "
    "'CPPFLAGS=-I/home/me/anaconda3/include'"
)
"""ContinuumIO/anaconda-issues 11963. It is the shared build's; the program comes from another, which is profiled."""


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        ({"CONFIG_ARGS": DEBIAN, "MULTIARCH": "x86_64-linux-gnu", "PGO_PROF_USE_FLAG": ""}, True),
        ({"CONFIG_ARGS": DEBIAN, "MULTIARCH": "aarch64-linux-gnu"}, True),
        ({"CONFIG_ARGS": DEBIAN, "MULTIARCH": "riscv64-linux-gnu"}, None),
        ({"CONFIG_ARGS": IMAGE, "MULTIARCH": "x86_64-linux-gnu"}, True),
        ({"CONFIG_ARGS": UV}, True),
        ({"CONFIG_ARGS": PYENV, "PY_CORE_CFLAGS": PLAIN_FLAGS, "PGO_PROF_USE_FLAG": USED}, False),
        ({"CONFIG_ARGS": CLOUD_SDK, "PGO_PROF_USE_FLAG": '-fprofile-instr-use="code.profclangd"'}, False),
        ({"CONFIG_ARGS": CONDA}, None),
        ({"CONFIG_ARGS": CONDA.replace("anaconda3", "envs/py313")}, None),
        ({"CONFIG_ARGS": "'--prefix=/usr' '--enable-shared' '--with-system-ffi'"}, None),
    ],
    ids=[
        *("Debian", "Debian on ARM", "Debian on RISC-V", "python: image", "uv", "pyenv", "Cloud SDK"),
        *("conda", "conda environment", "another distribution"),
    ],
)
def test_pythons_that_people_have(build: dict[str, object], expected: bool | None) -> None:
    assert has_pgo(build) is expected


def test_pyenv_with_the_flag_that_its_manual_names() -> None:
    assert has_pgo({"CONFIG_ARGS": f"{PYENV} '--enable-optimizations' '--with-lto'"}) is True
    assert has_pgo({"CONFIG_ARGS": f"{PYENV} '--enable-optimizations=no'"}) is False


@pytest.mark.parametrize("flag", ["-fprofile-use -fprofile-correction", '-fprofile-instr-use="code.profclangd"'])
def test_a_profile_that_the_compiler_was_given_counts_whoever_asked_for_it(flag: str) -> None:
    """`make profile-opt` by hand; CPython's own tests look in the same place."""
    assert has_pgo({"CONFIG_ARGS": PYENV, "PY_CFLAGS_NODIST": f"{PLAIN_FLAGS} {flag}"}) is True


def test_a_python_that_says_nothing_is_not_called_slow() -> None:
    assert has_pgo({}) is None
    assert has_pgo({"CONFIG_ARGS": None, "PY_CORE_CFLAGS": 0}) is None
