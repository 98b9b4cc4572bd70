"""The SSH key of the root shells in test images: made once per checkout, kept in ``out/``, in no release image."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from rootfs.base.version import PROJECT

DIRECTORY = PROJECT / "out/test-access"
KEY = DIRECTORY / "id_ed25519"
OVERLAY = DIRECTORY / "overlay"
"""The overlay for the front-end VM of a test image."""


def prepare() -> Path:
    """Make the key, unless it exists, and the overlay that accepts it; returns the overlay."""
    if not KEY.exists():
        DIRECTORY.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = Ed25519PrivateKey.generate()
        new = KEY.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        new.rename(KEY)
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        authorized = OVERLAY / "etc/test-access/authorized_keys"
        authorized.parent.mkdir(parents=True, exist_ok=True)
        authorized.write_bytes(public + b" sallyport-test\n")
    return OVERLAY
