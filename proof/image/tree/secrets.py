"""Declared: the patterns of secrets, and the digests of keys that are published."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from proof.declared.words import words


@dataclass(frozen=True)
class Secret:
    """The pattern of one kind of secret.

    Each match of ``expression`` has one of ``needles`` at most ``before`` bytes after its start. Searching for the
    needles first makes the search ten times as fast.
    """

    needles: tuple[bytes, ...]
    before: int
    expression: re.Pattern[bytes]

    def find(self, data: bytes) -> Iterator[re.Match[bytes]]:
        """Yield the matches; of overlapping ones some may be left out."""
        for needle in self.needles:
            at = data.find(needle)
            while at >= 0:
                end = at
                match = self.expression.search(data, max(0, at - self.before), at + 24_000)
                if match is not None and match.start() <= at:
                    yield match
                    end = match.end() - 1
                at = data.find(needle, max(end, at) + 1)


_CRYPT = (
    rb"\$(?:1\$X{1,8}\$X{22}|5\$(?:rounds=\d{1,9}\$)?X{1,16}\$X{43}|6\$(?:rounds=\d{1,9}\$)?X{1,16}\$X{86}"
    rb"|g?y\$X{1,8}\$X{1,86}\$X{43}|2[aby]\$\d\d\$X{53}|argon2(?:id|i|d)\$v=\d+\$m=\d+)"
).replace(b"X", rb"[./A-Za-z0-9]")
SECRETS: Mapping[str, Secret] = {
    "private key (PEM)": Secret(
        (b"PRIVATE KEY",),
        48,
        re.compile(
            rb"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----\s{0,4}(?:[A-Za-z-]{1,40}: [^\n]{0,200}\n){0,4}"
            rb"\s{0,4}[A-Za-z0-9+/=]{16}[A-Za-z0-9+/=\s]{0,20000}"
        ),
    ),
    "private key (RFC 8410)": Secret(
        (b"\x06\x03\x2b\x65",),
        8,
        re.compile(rb"\x30[\x2e\x47]\x02\x01\x00\x30\x05\x06\x03\x2b\x65[\x6e-\x71]\x04[\x22\x3b]\x04.{16}", re.DOTALL),
    ),
    "private key (RFC 5915)": Secret(
        (b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01",),
        8,
        re.compile(
            rb"\x02\x01\x00\x30[\x10-\x20]\x06\x07\x2a\x86\x48\xce\x3d\x02\x01.{7,12}\x04.{1,3}\x30.{1,3}\x02\x01\x01\x04.{16}",
            re.DOTALL,
        ),
    ),
    "private key (RFC 8017)": Secret(
        (b"\x02\x03\x01\x00\x01\x02\x82", b"\x02\x03\x01\x00\x01\x02\x81"),
        540,
        re.compile(
            rb"\x30\x82..\x02\x01\x00\x02\x82[\x01\x02][\x00\x01\x80\x81].{256,513}\x02\x03\x01\x00\x01\x02[\x81\x82]",
            re.DOTALL,
        ),
    ),
    "password hash (crypt(5))": Secret(
        (b"$1$", b"$5$", b"$6$", b"$y$", b"$gy$", b"$2a$", b"$2b$", b"$2y$", b"$argon2"), 0, re.compile(_CRYPT)
    ),
    "token": Secret(
        (b"AKIA", b"ghp_", b"xoxb-", b"glpat-", b"eyJ"),
        0,
        re.compile(
            # An access key has digits; a list of words in capitals has none.
            rb"(?<![A-Z])AKIA(?=[A-Z]{0,15}[0-9])[0-9A-Z]{16}|ghp_[A-Za-z0-9]{36}|xoxb-[0-9A-Za-z-]{20,80}|glpat-[0-9A-Za-z_-]{20}"
            rb"|eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{20,2000}"
        ),
    ),
    "authorized key": Secret(
        (b" AAAA",), 24, re.compile(rb"(?:ssh-(?:rsa|ed25519)|ecdsa-sha2-nistp\d{3}) AAAA[A-Za-z0-9+/]{40,2000}")
    ),
}
PUBLISHED: Mapping[str, frozenset[str]] = {
    "usr/lib/*/libgnutls.so.*": words(
        "ca6e3a8a6c23cb55 f8f37b68b2471039 6d36fd846dc5a9e2 65370a1062a231c1 f8beca4e6c327f34 348f40b8ca903c0a "
        "e5c643c952857f23 377b72ebaae43d90 23d51a270cb07113 c0500d8eb43b35b3 d593e683feea29f7 fdc8b254c9854bac"
    ),
    "usr/bin/openssl": words("18cf6b3e01d87f03 7be1e738b70160d9 54feb9d6f750b36d"),
    "usr/share/sallyport/frontend/vmlinuz": words("abaaa2f4e76d8f07 cabc0cb4248d7e2e"),
}
"""Digests of published keys (`proof.image.tree.findings.digest`), by the file that has them.

GnuTLS has the vectors of its self-test (FIPS 140-3), ``openssl speed`` the RSA keys that it measures with, Linux the
vectors of crypto/testmgr.h, which are visible where the kernel is not compressed: aarch64.
"""
TEST_SECRETS = frozenset({"etc/test-access/authorized_keys", "usr/share/sallyport/frontend/root.squashfs"})
"""Files of a test image with the key for the VM's test shell; the second one contains the first, uncompressed."""
