"""A certificate of a rented worker's own: nobody signs one for an address that changes with each start.

So the worker signs it itself, and who rents it looks for this very one (Endpoint.fingerprint). Of a machine that is
created, the one who rents makes the pair and hands it over in the environment; one that exists makes its own, and says
the fingerprint for somebody to copy into TLS_FINGERPRINT. Neither ever makes a second one: the file is kept.

Python's ssl cannot make certificates; the `openssl` program does, which is wherever there are certificates to trust on
Debian and Ubuntu (docs/adr/0018). The key comes through a pipe: it is in no argument, and in no file but ours.
"""

import base64
import hashlib
import os
import re
import secrets
import shutil
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ENVIRONMENT: Final = "WAKEGATE_TLS_PAIR"
"""What a pair is handed over in: base64 of its PEM. No setting, since nobody should have to write one."""
WITHIN: Final = 30.0
"""Seconds for openssl to make a pair: it takes some milliseconds."""
_CONFIG: Final = """\
[req]
distinguished_name = name
x509_extensions = rest
prompt = no
[name]
CN = wakegate worker
[rest]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:wakegate-worker
"""
_MAKE: Final = (
    *("req", "-x509", "-config", "/dev/stdin", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
    *("-nodes", "-sha256", "-days", "7300", "-keyout", "/dev/stdout", "-out", "/dev/stdout"),
)
_BLOCKS: Final = re.compile(rb"-----BEGIN (?:PRIVATE KEY|CERTIFICATE)-----[A-Za-z0-9+/=\s]+-----END [A-Z ]+-----")


class NoCertificate(Exception):
    """One line: why there is none, and what to do."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A private key and its certificate."""

    pem: bytes = field(repr=False)
    fingerprint: str
    """SHA-256 of the certificate, hexadecimal digits."""

    @classmethod
    def of(cls, pem: bytes) -> "Pair":
        """Raises NoCertificate."""
        blocks = _BLOCKS.findall(pem)
        kinds = [b"CERTIFICATE" in block[:30] for block in blocks]
        if kinds != [False, True]:
            raise NoCertificate("it is not one private key and its certificate in PEM")
        try:
            der = ssl.PEM_cert_to_DER_cert(blocks[1].decode("ascii"))
        except ValueError as error:
            raise NoCertificate("its certificate is damaged") from error
        return cls(b"\n".join([*blocks, b""]), hashlib.sha256(der).hexdigest())

    def environment(self) -> dict[str, str]:
        """What a created worker is handed over in."""
        return {ENVIRONMENT: base64.b64encode(self.pem).decode("ascii")}


def make() -> Pair:
    """A new one, good for twenty years: it is known by its fingerprint, and a rented machine lives for hours. A
    process of some milliseconds. Raises NoCertificate."""
    program = shutil.which("openssl")
    if program is None:
        raise NoCertificate(
            "there is no `openssl` here to make a certificate with; install it, or give TLS_CERT and TLS_KEY files"
        )
    try:
        made = subprocess.run(  # noqa: S603 - all of it is written here
            [program, *_MAKE],
            input=_CONFIG.encode(),
            capture_output=True,
            timeout=WITHIN,
            check=False,
            env={"LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoCertificate(f"openssl made no certificate ({type(error).__name__})") from error
    if made.returncode != 0:
        said = made.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise NoCertificate(f"openssl made no certificate: {said[:200]}")
    return Pair.of(made.stdout)


def kept(path: Path) -> Pair:
    """The one in this file, made if there is none. Of two who begin at once one makes it, and both have it. Raises
    NoCertificate, OSError."""
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = make()
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        write(draft, made)
        try:
            os.link(draft, path)
        except FileExistsError:
            return _read(path)
        except OSError:  # a volume without links
            draft.replace(path)
            return _read(path)
    finally:
        draft.unlink(missing_ok=True)
    return made


def write(path: Path, pair: Pair) -> None:
    """A new file that only we can read. Raises OSError, where there is one already too."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pair.pem)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> Pair:
    try:
        return Pair.of(path.read_bytes())
    except NoCertificate as error:
        raise NoCertificate(f"{path} cannot be used: {error}; take it away, and another is made") from error


def handed_over(environ: Mapping[str, str]) -> Pair | None:
    """What whoever rents this machine gave it; None: nothing. Raises NoCertificate."""
    text = environ.get(ENVIRONMENT)
    if not text:
        return None
    try:
        return Pair.of(base64.b64decode(text, validate=True))
    except (ValueError, NoCertificate) as error:
        raise NoCertificate(f"{ENVIRONMENT} cannot be used: {error}") from error
