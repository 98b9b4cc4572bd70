"""Throw-away keys and certificates, as the host makes them at boot."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from frontend_vm.protocol.link_plan import BACKEND_NAME, FRONTEND_NAME

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def write_key(path: Path, key: Key) -> None:
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def make_identity(directory: Path, stem: str, name: str) -> None:
    """Write ``stem.key`` and the self-signed ``stem.crt``, P-256."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(directory / f"{stem}.key", key)
    (directory / f"{stem}.crt").write_text(sign(key, name))


def sign_again(directory: Path, stem: str, name: str) -> str:
    """Another certificate for the same key, PEM."""
    key = serialization.load_pem_private_key((directory / f"{stem}.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return sign(key, name)


def sign(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """A self-signed certificate, PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def make_configuration(directory: Path) -> None:
    """Everything that the front-end reads, and the backend's key beside it."""
    make_identity(directory, "backend", BACKEND_NAME)
    make_identity(directory, "link", FRONTEND_NAME)
    make_identity(directory, "web", "sallyport")
    write_key(directory / "ssh.key", ed25519.Ed25519PrivateKey.generate())
