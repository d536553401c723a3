"""Whether a Python was built with profile-guided optimization, by what it says of its build. Pure.

Requests cost more CPU without it. The doctor asks for the Python that it runs on, and scripts/setup.sh for each
that it finds, before anything is installed: nothing is imported here that such a Python may lack.
"""

from collections.abc import Mapping

_USED = ("-fprofile-use", "-fprofile-instr-use", "-prof-use")
"""How gcc, clang and icc are told to go by a profile; CPython's own tests look for these (test.support)."""
_FLAGS = ("PY_CFLAGS_NODIST", "PY_CORE_CFLAGS", "PY_CFLAGS", "CFLAGS", "CONFIGURE_CFLAGS_NODIST", "CFLAGS_NODIST")
_DEBIAN = ("--prefix=/usr", "--with-dbmliborder=bdb:gdbm", "--with-computed-gotos")
_DEBIAN_PROFILES = ("x86_64", "i386", "aarch64", "arm", "powerpc64le", "s390x")
"""Where Debian's and Ubuntu's rules say `make profile-opt` (with_pgo in debian/rules; deadsnakes' are the same)."""


def has_pgo(build: Mapping[str, object]) -> bool | None:
    """None: it does not say. `build` is what sysconfig.get_config_vars() gives.

    1. The flags of the compiler: whoever uses a profile passes one of these. Distributions take them out again.
    2. The arguments of configure: python.org's, the python: images', uv's, Fedora's, Arch's, Homebrew's have it there.
    3. Debian and Ubuntu profile without saying so in either.
    4. conda profiles, and ships what another, unprofiled build said. Other distributions may do as they please.
    5. Anything else is built from source (pyenv, a Dockerfile): by its own account, without.
    """
    if any(used in str(build.get(name) or "") for name in _FLAGS for used in _USED):
        return True
    arguments = str(build.get("CONFIG_ARGS") or "")
    words = [word.strip("'\"") for word in arguments.split()]
    if "--enable-optimizations" in words or "--enable-optimizations=yes" in words:
        return True
    if all(word in words for word in _DEBIAN):
        return True if str(build.get("MULTIARCH") or "").startswith(_DEBIAN_PROFILES) else None
    is_packaged = "--prefix=/usr" in words or _by_conda(arguments, build)
    return None if not arguments or is_packaged else False


def _by_conda(arguments: str, build: Mapping[str, object]) -> bool:
    said = f"{arguments} {build.get('CFLAGS') or ''} {build.get('prefix') or ''}"
    return "conda" in said or ("--with-tcltk-includes=" in arguments and "--with-ensurepip=no" in arguments)
