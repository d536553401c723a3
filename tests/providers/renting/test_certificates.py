"""A worker's own certificate: made by the real openssl, kept, handed over, and known by its fingerprint."""

import base64
import os
import ssl
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.providers.renting.certificates import ENVIRONMENT, NoCertificate, Pair, handed_over, kept, make, write


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make()


def test_what_is_made_can_be_served_with_and_openssl_agrees_on_its_fingerprint(pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "pair.pem"
    write(file, pair)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file)
    said = subprocess.run(
        ["openssl", "x509", "-in", str(file), "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert said.stdout.partition("=")[2].strip().replace(":", "").lower() == pair.fingerprint


def test_no_two_are_alike(pair: Pair) -> None:
    assert make().fingerprint != pair.fingerprint


def test_the_key_is_in_no_repr_and_for_nobody_else_to_read(pair: Pair, tmp_path: Path) -> None:
    assert "PRIVATE" not in repr(pair)
    file = tmp_path / "pair.pem"
    write(file, pair)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        write(file, pair)


def test_the_one_that_was_made_first_is_kept(tmp_path: Path) -> None:
    """Its fingerprint was copied by hand into a controller's settings."""
    path = tmp_path / "keys" / "worker-tls.pem"
    first = kept(path)
    assert kept(path) == first and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name], "no drafts are left"


def test_of_several_that_begin_at_once_all_have_the_same(tmp_path: Path) -> None:
    path = tmp_path / "worker-tls.pem"
    with ThreadPoolExecutor(4) as threads:
        assert len({pair.fingerprint for pair in threads.map(lambda _: kept(path), range(4))}) == 1


def test_one_that_is_damaged_is_named_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "worker-tls.pem"
    path.write_text("-----BEGIN CERTIFICATE-----\n")
    with pytest.raises(NoCertificate, match="take it away"):
        kept(path)
    assert path.read_text() == "-----BEGIN CERTIFICATE-----\n"


def test_what_is_handed_over_is_the_same_on_the_other_side(pair: Pair) -> None:
    """In one line of letters, as every vendor's environment can hold it."""
    handed = pair.environment()
    assert handed[ENVIRONMENT].replace("+", "").replace("/", "").replace("=", "").isalnum()
    assert handed_over(handed) == pair and handed_over({}) is None and handed_over({ENVIRONMENT: ""}) is None


@pytest.mark.parametrize("text", ["x", "eHh4", "ä", base64.b64encode(b"-----BEGIN CERTIFICATE-----").decode()])
def test_what_is_no_pair_is_named_without_being_quoted(text: str) -> None:
    with pytest.raises(NoCertificate, match=ENVIRONMENT) as caught:
        handed_over({ENVIRONMENT: text})
    assert text == "x" or text not in str(caught.value)


def test_two_certificates_are_no_pair(pair: Pair) -> None:
    certificate = pair.pem[pair.pem.index(b"-----BEGIN CERTIFICATE") :]
    with pytest.raises(NoCertificate, match="one private key"):
        Pair.of(certificate + certificate)


def test_without_openssl_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCertificate, match="install it"):
        make()
