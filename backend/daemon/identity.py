"""The front-end's identity: the keys of web page and SSH, and the web page's certificate.

    python3 -I -m backend.daemon.identity

Run as root at boot, twice a day, when the clock was set and when the host name has changed. The keys are made once and
kept, because clients remember them: SSH clients the host key, and some web clients pin the public key. A new
certificate is made with the same key

* when less than a third of its lifetime is left. That is 397 days: Apple's systems refuse more than 825, and for
  publicly trusted ones more than 398 (support.apple.com/103214), so do other browsers;
* when its validity has not begun: it was made when the clock was ahead;
* when the appliance's names or addresses have changed.

A clock that is behind the image's date is wrong (no battery), and the image's date is used instead. The validity begins
30 days ago or at the image's date, whichever is later, so that it has begun for everybody whose clock is right. If the
clock was years behind, a new certificate is made as soon as somebody sets it.

=============  ==================================================================================
`web.key`      P-256, PKCS #8 in PEM. Missing or damaged: a new one
`ssh.key`      Ed25519, PKCS #8 in PEM. Missing or damaged: a new one
`web.json`     `Issued`, the certificate. Missing, damaged, of another version: a new certificate
=============  ==================================================================================

If the disk cannot be written, the front-end still starts; what was made is then lost at the next boot.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import ipaddress
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from backend.common import store
from backend.daemon.public_identity import PublicIdentity
from backend.protocol.fields import Hostname

log = logging.getLogger("identity")

DAY = 86400
LIFE = 397 * DAY
BACKDATE = 30 * DAY
LIMIT = 16384
"""Bytes of any file read here."""
RENAMES = 3
"""Changes of the host name during one run for which the certificate is made again."""
OPENSSL_SECONDS = 60.0

_P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
_ED25519 = bytes.fromhex("302a300506032b6570032100")
"""Prefixes of a SubjectPublicKeyInfo in DER, 91 and 44 bytes in all (RFC 5480 section 2, RFC 8410 section 4)."""
_SETTINGS = """
[req]
distinguished_name = name
[name]
[ca]
default_ca = self
[self]
database = {folder}/index
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
policy = name_policy
x509_extensions = web
[name_policy]
commonName = supplied
[web]
subjectAltName = {alternatives}
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
"""
"""openssl-req(1), openssl-ca(1), x509v3_config(5)."""


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Paths; tests use others."""

    kept: Path = Path("/data/identity")
    guest: Path = Path("/run/sallyport/guest")
    """Files that the VM gets at its start."""
    public: Path = Path("/run/sallyport/link/identity.json")
    """`PublicIdentity`, for the backend."""
    image: Path = Path("/etc/sallyport/image.json")


class Image(Struct, frozen=True):
    """Fields of ``image.json``; others are ignored. The file's time stamp is the image's date."""

    address: Annotated[str, Meta(max_length=64)]
    """Address of the front-end, with its prefix length."""


class Issued(Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate, and the names, addresses and key that it was made for. Times are seconds since 1970, UTC."""

    names: list[str]
    addresses: list[str]
    not_before: int
    not_after: int
    key: str
    """SHA-256 of the public key, hexadecimal."""
    certificate: Annotated[str, Meta(max_length=4096)]
    """PEM."""


def validity(now: float, image: float) -> tuple[int, int]:
    """Begin and end of the validity of a new certificate. All times are seconds since 1970; ``image`` is the image's
    date."""
    begin = int(max(image, now - BACKDATE))
    return begin, begin + LIFE


def is_due(issued: Issued, now: float) -> bool:
    """Whether the certificate has expired or will soon, or is not valid yet."""
    return not issued.not_before <= now <= issued.not_after - LIFE / 3


def ssh_fingerprint(key: bytes) -> str:
    """Of an Ed25519 public key, 32 bytes, as ``ssh-keygen -l`` writes it (RFC 4253 section 6.6, RFC 8709 section 4)."""
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (b"ssh-ed25519", key))
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


class Identity:
    """Makes what is missing or due, and hands it to the VM and to the backend.

    Args:
        paths: where.
        hostname: the host's name.
        now: the clock, seconds since 1970.
    """

    def __init__(self, paths: Paths, hostname: str, now: float) -> None:
        self._paths = paths
        image = msgspec.json.decode(store.read(paths.image, LIMIT), type=Image)
        self._image = paths.image.stat().st_mtime
        self._now = max(now, self._image)
        try:
            names = [hostname := msgspec.convert(hostname, Hostname), f"{hostname}.local"]
        except msgspec.ValidationError:
            names = []
        self._names = [*names, *(name for name in ("sallyport", "sallyport.local") if name not in names)]
        self._addresses = [str(ipaddress.ip_interface(image.address).ip)]

    def provide(self) -> PublicIdentity:
        """Do all that is to do.

        Raises:
            OSError: what is handed over cannot be written.
            subprocess.SubprocessError: openssl failed.
        """
        web = self._key("web.key", _P256, "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        ssh = self._key("ssh.key", _ED25519, "-algorithm", "ed25519")
        issued = self._certificate(hashlib.sha256(web).hexdigest())
        self._hand(self._paths.guest / "web.crt", issued.certificate.encode())
        public = PublicIdentity(certificate=issued.certificate, ssh=ssh_fingerprint(ssh.removeprefix(_ED25519)))
        self._hand(self._paths.public, msgspec.json.encode(public) + b"\n")
        return public

    def _key(self, name: str, kind: bytes, *how: str) -> bytes:
        """Hand a key over to the VM; returns its public key, DER."""
        kept, handed = self._paths.kept / name, self._paths.guest / name
        try:
            private = store.read(kept, LIMIT)
            public = self._public(private)
            if not public.startswith(kind):
                raise ValueError("the key has another type than expected")
        except FileNotFoundError:
            private = self._another(handed, kind) or self._openssl("genpkey", *how)
            public = self._public(private)
            self._keep(kept, private)
        except (OSError, ValueError) as error:
            # Only if the file itself is damaged: after a change of the key, every client warns of an attack.
            if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EFBIG, errno.ELOOP):
                raise
            log.error("%s cannot be used; making a new key: %s", kept, ascii(str(error)))
            private = self._openssl("genpkey", *how)
            public = self._public(private)
            self._keep(kept, private)
        self._hand(handed, private)
        return public

    def _another(self, handed: Path, kind: bytes) -> bytes:
        """The key that was handed over before, if the disk could not store it; empty if there is none."""
        try:
            private = store.read(handed, LIMIT)
            return private if self._public(private).startswith(kind) else b""
        except (FileNotFoundError, ValueError):
            return b""

    def _public(self, private: bytes) -> bytes:
        """The public key of a private key, DER.

        Raises:
            ValueError: it is not a key. If openssl cannot run or is killed, another exception is raised.
        """
        try:
            return self._openssl("pkey", "-pubout", "-outform", "DER", given=private)
        except subprocess.CalledProcessError as error:
            if error.returncode > 0:
                raise ValueError(error.stderr.decode("ascii", "replace").strip()[-200:] or "it is not a key") from error
            raise

    def _certificate(self, key: str) -> Issued:
        path = self._paths.kept / "web.json"
        try:
            issued = msgspec.json.decode(store.read(path, LIMIT), type=Issued)
        except FileNotFoundError:
            why = "there is none yet"
        except (OSError, ValueError, msgspec.DecodeError, RecursionError) as error:
            why = ascii(str(error))
        else:
            asked = (issued.names, issued.addresses, issued.key) == (self._names, self._addresses, key)
            if asked and not is_due(issued, self._now):
                return issued
            why = "it expires soon or is not valid yet" if asked else "names, addresses or key have changed"
        log.info("making a new certificate, as of %s: %s", path, why)
        begin, end = validity(self._now, self._image)
        alternatives = [*(f"DNS:{name}" for name in self._names), *(f"IP:{address}" for address in self._addresses)]
        # By `openssl ca`, because `openssl req` of version 3.0 (Debian 12) has no options for dates.
        with tempfile.TemporaryDirectory() as folder:
            settings, request = Path(folder, "settings"), Path(folder, "request")
            settings.write_text(_SETTINGS.format(folder=folder, alternatives=",".join(alternatives)))
            Path(folder, "index").touch()
            private = str(self._paths.guest / "web.key")
            common = ("-config", str(settings), "-batch", "-subj", f"/CN={self._names[0]}")
            self._openssl("req", "-new", "-key", private, "-out", str(request), *common)
            dates = ("-startdate", _asn1(begin), "-enddate", _asn1(end))
            certificate = self._openssl(
                "ca", "-selfsign", "-keyfile", private, "-in", str(request), "-notext", *dates, *common
            )
        issued = Issued(self._names, self._addresses, begin, end, key, certificate.decode("ascii"))
        self._keep(path, msgspec.json.encode(issued) + b"\n")
        return issued

    @staticmethod
    def _openssl(*words: str, given: bytes = b"") -> bytes:
        command = ["openssl", *words]
        return subprocess.run(command, input=given, capture_output=True, check=True, timeout=OPENSSL_SECONDS).stdout

    @staticmethod
    def _keep(path: Path, content: bytes) -> None:
        try:
            store.replace(path, content)
        except OSError as error:
            log.error("cannot store %s; a new one will be made at the next boot: %s", path, error.strerror)

    @staticmethod
    def _hand(path: Path, content: bytes) -> None:
        """Write a file that the folder's group may read."""
        store.replace(path, content, mode=0o440, durable=False, group=path.parent.stat().st_gid)


def _asn1(when: int) -> str:
    """GeneralizedTime (RFC 5280 section 4.1.2.5.2)."""
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(when))


def main() -> int:
    """Entry point. Returns the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    os.umask(0o077)
    try:
        for _ in range(RENAMES):
            name = socket.gethostname()
            Identity(Paths(), name, time.time()).provide()
            if (
                socket.gethostname() == name
            ):  # else it was changed meanwhile, for which systemd does not start the unit again
                break
    except subprocess.CalledProcessError as error:
        log.error("%s: %s", error, ascii(error.stderr.decode("utf-8", "replace")[-500:]))
        return 1
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        log.error("the front-end gets no keys and certificate: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
