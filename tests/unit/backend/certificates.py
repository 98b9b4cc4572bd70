"""Certificates as the appliance makes them at boot, and some that it would never make."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from backend.protocol.link_plan import BACKEND_NAME, FRONTEND_NAME

START = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


def _certificate(
    name: str, key: Ed25519PrivateKey, issuer: str = "", issuer_key: Ed25519PrivateKey | None = None, days: int = 36500
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer or name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(START + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        # As "openssl req -x509" does unless told otherwise: makes it harder for the pin, see the tests.
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(issuer_key or key, None)
    )


def _write(folder: Path, stem: str, key: Ed25519PrivateKey, *chain: x509.Certificate) -> None:
    form = serialization.Encoding.PEM
    (folder / f"{stem}.key").write_bytes(
        key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / f"{stem}.crt").write_bytes(b"".join(one.public_bytes(form) for one in chain))


def make_link_keys(folder: Path) -> None:
    """Write `backend`, `frontend`, and the impostors `stranger`, `twin` and `child` (.key and .crt each).

    The front-end's own is out of date on purpose: its dates must not matter.
    """
    backend, frontend, stranger, child = (Ed25519PrivateKey.generate() for _ in range(4))
    pinned = _certificate(FRONTEND_NAME, frontend, days=1)
    _write(folder, "backend", backend, _certificate(BACKEND_NAME, backend))
    _write(folder, "frontend", frontend, pinned)
    _write(folder, "stranger", stranger, _certificate(FRONTEND_NAME, stranger))
    # The right key, but not the certificate of this boot.
    _write(folder, "twin", frontend, _certificate(FRONTEND_NAME, frontend))
    # Issued by the pinned certificate, which a chain check alone would accept.
    _write(folder, "child", child, _certificate("child", child, FRONTEND_NAME, frontend), pinned)


def web_certificate(name: str) -> str:
    """A certificate in PEM, of nobody."""
    return _certificate(name, Ed25519PrivateKey.generate()).public_bytes(serialization.Encoding.PEM).decode()
