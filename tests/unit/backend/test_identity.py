"""Keys and certificate that the front-end is known by: what they say, how long they are kept, what damage does."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import re
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import asyncssh
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from backend.daemon import public_identity
from backend.daemon.identity import BACKDATE, DAY, LIFE, Identity, Paths
from backend.daemon.public_identity import PresentedIdentity, PublicIdentity
from driver.appliance import FINGERPRINTS

IMAGE = 1_767_225_600
"""2026-01-01."""


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A host in a folder, as tmpfiles.d leaves it at first boot."""
    for name in ("kept", "guest"):
        (tmp_path / name).mkdir(mode=0o700)
    paths = Paths(
        kept=tmp_path / "kept",
        guest=tmp_path / "guest",
        public=tmp_path / "identity.json",
        image=tmp_path / "image.json",
    )
    use_image(paths)
    return paths


def use_image(paths: Paths, address: str = "192.168.42.1/24") -> None:
    paths.image.write_text(json.dumps({"product": "Sallyport", "address": address}))
    os.utime(paths.image, (IMAGE, IMAGE))


def provide(paths: Paths, now: float = IMAGE + 200 * DAY, hostname: str = "edge-7") -> PublicIdentity:
    public = Identity(paths, hostname, now).provide()
    assert public_identity.read(paths.public) == public
    assert (paths.guest / "web.crt").read_text() == public.certificate
    # What OpenSSL refuses to load together does not belong together.
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(paths.guest / "web.crt", paths.guest / "web.key")
    return public


def parsed(public: PublicIdentity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(public.certificate.encode())


def seconds(when: datetime.datetime) -> float:
    return when.timestamp()


def test_the_certificate_is_one_that_every_browser_accepts(paths: Paths, tmp_path: Path) -> None:
    """Limits: support.apple.com/103769 (extendedKeyUsage, SAN, SHA-2, 825 days), CA/Browser Forum BR 6.3.2 (398)."""
    public = provide(paths)
    certificate = parsed(public)
    named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert named.get_values_for_type(x509.DNSName) == ["edge-7", "edge-7.local", "sallyport", "sallyport.local"]
    assert named.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("192.168.42.1")]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca) == (True, False)
    key_usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert key_usage.digital_signature
    assert not key_usage.key_cert_sign
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == datetime.timedelta(days=397)
    file = tmp_path / "web.pem"
    file.write_text(public.certificate)
    for name in ("edge-7.local", "sallyport"):
        verify = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-attime", str(IMAGE + 200 * DAY)]
        subprocess.run([*verify, "-verify_hostname", name, "-CAfile", file, file], check=True, capture_output=True)
    refused = subprocess.run(
        [*verify, "-verify_hostname", "x", "-CAfile", file, file], check=False, capture_output=True
    )
    assert refused.returncode == 2, "the control"


def test_fingerprints_are_those_that_browsers_and_ssh_show(paths: Paths) -> None:
    public = provide(paths)
    shown = subprocess.run(
        ["openssl", "x509", "-in", paths.guest / "web.crt", "-noout", "-fingerprint", "-sha256"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.stdout.strip().endswith(f"={public.web}")
    # The VM's SSH library, which writes them as OpenSSH does.
    assert asyncssh.read_private_key(paths.guest / "ssh.key").get_fingerprint() == public.ssh


def test_what_is_handed_over_is_for_one_group_to_read(paths: Paths) -> None:
    provide(paths)
    assert sorted(path.name for path in paths.guest.iterdir()) == ["ssh.key", "web.crt", "web.key"]
    assert {path.stat().st_mode & 0o777 for path in (*paths.guest.iterdir(), paths.public)} == {0o440}
    assert {path.stat().st_mode & 0o777 for path in paths.kept.iterdir()} == {0o600}


NOW = IMAGE + 200 * DAY


@pytest.mark.parametrize(
    ("later", "is_new"),
    [
        (NOW, False),
        (NOW + 200 * DAY, False),
        (NOW - BACKDATE + LIFE * 2 // 3 - DAY, False),
        (NOW - BACKDATE + LIFE * 2 // 3 + DAY, True),
        (NOW + 10 * 365 * DAY, True),  # the clock was years behind
        (NOW - 100 * DAY, True),  # the clock was ahead
        (0, True),  # the clock has stopped: the image's date is taken, and that is before it began
    ],
)
def test_it_is_kept_until_a_third_of_its_life_is_left_and_then_made_anew(
    paths: Paths, later: float, is_new: bool
) -> None:
    first = provide(paths, NOW)
    second = provide(paths, later)
    assert (second.certificate != first.certificate) is is_new
    assert second.ssh == first.ssh
    assert parsed(second).public_key() == parsed(first).public_key(), "who pins the key needs no new one"
    now = max(later, IMAGE)
    assert seconds(parsed(second).not_valid_before_utc) <= now
    assert seconds(parsed(second).not_valid_after_utc) - now >= LIFE / 3 - 2 * DAY


@pytest.mark.parametrize("clock", [0, 1, IMAGE - 1, IMAGE, IMAGE + BACKDATE])
def test_one_made_by_a_clock_that_is_behind_is_valid_from_the_image_on(paths: Paths, clock: float) -> None:
    first = provide(paths, clock)
    assert seconds(parsed(first).not_valid_before_utc) == IMAGE
    assert provide(paths, clock) == first, "a clock that stays behind is no reason for a new one at every boot"


def test_other_names_and_addresses_need_another_certificate(paths: Paths) -> None:
    seen = [provide(paths).certificate, provide(paths, hostname="edge-8").certificate]
    use_image(paths, "10.0.0.1/8")
    seen.append(provide(paths, hostname="edge-8").certificate)
    assert len(set(seen)) == 3
    assert provide(paths, hostname="edge-8").certificate == seen[-1], "the control"
    nameless = parsed(provide(paths, hostname="Not a name, IP:6.6.6.6"))
    named = nameless.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert named.get_values_for_type(x509.DNSName) == ["sallyport", "sallyport.local"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def swap(path: Path) -> None:
    """A key of the wrong kind, whole."""
    other = {"web.key": "ssh.key", "ssh.key": "web.key"}[path.name]
    path.write_bytes((path.parent / other).read_bytes())


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [cut, swap, fifo, lambda path: path.write_bytes(b"x" * 99999)])
@pytest.mark.parametrize("name", ["web.key", "ssh.key"])
def test_a_damaged_key_is_replaced_and_the_other_kept(paths: Paths, name: str, damage: Callable[[Path], None]) -> None:
    first = provide(paths)
    damage(paths.kept / name)
    second = provide(paths)
    assert (first.web != second.web, first.ssh != second.ssh) == (name == "web.key", name == "ssh.key")
    assert provide(paths) == second


def test_a_key_that_the_disk_could_not_keep_is_the_one_that_the_vm_has(paths: Paths) -> None:
    first = provide(paths)
    for name in ("web.key", "ssh.key"):
        (paths.kept / name).unlink()
    assert provide(paths).ssh == first.ssh
    assert (paths.kept / "ssh.key").read_bytes() == (paths.guest / "ssh.key").read_bytes()


@pytest.mark.parametrize(
    "failure", [subprocess.TimeoutExpired("openssl", 1), subprocess.CalledProcessError(-9, "openssl"), OSError(12, "x")]
)
def test_openssl_that_could_not_run_costs_no_key(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    first = provide(paths)

    def fail(*_: object, **__: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", fail)
        with pytest.raises(type(failure)):
            provide(paths)
    assert provide(paths) == first


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 9000, b'{"names": [], "later": 1}', b"\xff", b"x" * 99999])
def test_a_damaged_certificate_is_made_anew(paths: Paths, content: bytes) -> None:
    first = provide(paths)
    (paths.kept / "web.json").write_bytes(content)
    second = provide(paths)
    assert second.web != first.web
    assert provide(paths) == second


def test_a_disk_that_cannot_be_written_to_costs_no_front_end(paths: Paths) -> None:
    paths.kept.rmdir()
    assert provide(paths).web


def test_the_console_shows_an_identity_once_and_a_new_one_again(paths: Paths) -> None:
    console: list[str] = []
    presented = PresentedIdentity(paths.public, console.extend)
    presented.announce(["first"])
    assert console == ["first"], "there is none yet"
    for hostname in ("edge-7", "edge-8"):
        public = provide(paths, hostname=hostname)
        console.clear()
        presented.announce([])
        presented.announce([])
        ((begin, end, key),) = re.findall(FINGERPRINTS, "\r\n".join(console))  # as `invoke run` does
        assert begin + end == parsed(public).fingerprint(hashes.SHA256()).hex(":").upper()
        assert key == public.ssh
        assert max(map(len, console)) < 80
