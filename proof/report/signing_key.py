"""The keys of a signed statement: PEM files, of the kinds and strength that are accepted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from rootfs.base import untrusted
from rootfs.base.errors import SallyportError

PASSPHRASE = "SALLYPORT_KEY_PASSPHRASE"  # noqa: S105 - a variable's name
"""Environment variable: the passphrase of the private key. An argument would be seen by everybody on the machine."""
MIN_RSA_BITS = 3072
"""NIST SP 800-57 part 1 revision 5, table 2: 128 bits of strength."""
MAX_KEY = 64 << 10
_KINDS = "an ed25519, ECDSA P-256 or RSA key of at least 3072 bits"
_MAKE_KEY = (
    "make a key pair: `openssl genpkey -algorithm ed25519 -out KEY && openssl pkey -in KEY -pubout -out KEY.pub`"
)
PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey
PublicKey = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey


def require_key(key: Path) -> None:
    """Check that ``key`` can sign a statement, before the proof starts, which takes minutes.

    Raises:
        SallyportError: see `load_private_key`.
    """
    load_private_key(key)


def load_private_key(path: Path) -> PrivateKey:
    """Return the private key in a PEM file; its passphrase, if it has one, is in `PASSPHRASE`.

    Raises:
        SallyportError: the file is no such key, the key is too weak, or others can read it and it has no passphrase.
    """
    pem = untrusted.read(path, MAX_KEY)
    passphrase = None
    if b"ENCRYPTED" in pem:  # PKCS#8 says it in the label (RFC 7468 section 11), older files in a header (RFC 1421)
        passphrase = os.environb.get(PASSPHRASE.encode(), b"")
        if not passphrase:
            raise SallyportError(
                f"the private key {path} has a passphrase", f"put it into the environment: {PASSPHRASE}"
            )
    try:
        key = load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        what = f"check {PASSPHRASE}, the passphrase" if passphrase else _MAKE_KEY
        raise SallyportError(f"{path} cannot be used as a PEM private key", what) from error
    if not isinstance(key, PrivateKey):
        raise SallyportError(f"the key in {path} is of another kind than {_KINDS}", _MAKE_KEY)
    _require_strength(path, key.public_key())
    if passphrase is None and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        raise SallyportError(
            f"the private key {path} has no passphrase and can be read by others (mode {mode:o})", f"chmod 600 {path}"
        )
    return key


def load_public_key(path: Path) -> PublicKey:
    """Return the public key in a PEM file.

    Raises:
        SallyportError: the file is no such key, is a private one, or the key is too weak.
    """
    pem = untrusted.read(path, MAX_KEY)
    if b"PRIVATE KEY" in pem:
        raise SallyportError(
            f"{path} is a private key; a statement is checked with the public one",
            f"`openssl pkey -in {path} -pubout -out {path.name}.pub`",
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SallyportError(f"{path} cannot be used as a PEM public key", _MAKE_KEY) from error
    if not isinstance(key, PublicKey):
        raise SallyportError(f"the key in {path} is of another kind than {_KINDS}", _MAKE_KEY)
    _require_strength(path, key)
    return key


def _require_strength(path: Path, key: PublicKey) -> None:
    weak = isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS
    if weak or (isinstance(key, EllipticCurvePublicKey) and not isinstance(key.curve, SECP256R1)):
        raise SallyportError(f"the key in {path} is weaker than, or of another kind than {_KINDS}", _MAKE_KEY)
