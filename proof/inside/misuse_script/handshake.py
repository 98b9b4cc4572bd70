"""Part of the script that attacks the instruction protocol: TLS handshakes and records that must be refused.

Needs the ``cryptography`` package, which the front-end VM carries, to make certificates.
"""

import os
import random
import socket
import ssl
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from proof.inside.misuse_script.connection import (
    CLOCK,
    FOLDER,
    HEARTBEAT,
    LIMITED,
    MARGIN,
    PLAN,
    Connection,
    Tally,
    context,
    open_connection,
    request,
    tcp_connection,
)
from proof.inside.misuse_script.endings import client_hello, tcp_end


def foreign_certificates(folder: str) -> dict[str, tuple[str, str | None]]:
    """Make certificates that are not the pinned one; name to folder and stem."""
    known: dict[str, tuple[str, str | None]] = {"no certificate": (FOLDER, None)}
    if os.path.exists(f"{FOLDER}/web.crt"):
        known["the web page's certificate"] = (FOLDER, "web")
    import datetime

    # The image's OpenSSL has no legacy provider; without this setting the library refuses to load.
    os.environ["CRYPTOGRAPHY_OPENSSL_NO_LEGACY"] = "1"
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    with open(f"{FOLDER}/link.key", "rb") as file, open(f"{FOLDER}/link.crt", "rb") as certificate:
        own: Any = serialization.load_pem_private_key(file.read(), None)
        pinned = x509.load_pem_x509_certificate(certificate.read())
    new, start = Ed25519PrivateKey.generate(), datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    for stem, what, key, signer in (
        ("stranger", "a certificate signed by itself, with the front-end's name", new, new),
        ("twin", "another certificate for the front-end's own key", own, own),
        ("child", "a certificate signed by the front-end's key", new, own),
    ):
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, stem)]) if stem == "child" else pinned.subject
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(pinned.subject)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=36500))
        made = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(signer, None)
        pem = serialization.Encoding.PEM
        chain = made.public_bytes(pem) + (pinned.public_bytes(pem) if stem == "child" else b"")
        with open(f"{folder}/{stem}.crt", "wb") as file:
            file.write(chain)
        with open(f"{folder}/{stem}.key", "wb") as file:
            file.write(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        known[what] = (folder, stem)
    return known


def tls(tally: Tally, rng: random.Random) -> None:
    """Attack class: connections without TLS 1.3 and the pinned certificate; none may have an effect."""
    heartbeat, first = request(HEARTBEAT, tally.mark), client_hello()
    bare = {
        "a heartbeat without TLS": heartbeat,
        "HTTP": b"GET / HTTP/1.0\r\n\r\n",
        "an SSH greeting": b"SSH-2.0-x\r\n",
        "random bytes": rng.randbytes(512),
        "a TLS record longer than the longest": b"\x16\x03\x01\xff\xff" + rng.randbytes(512),
        "a client hello of SSL 2": b"\x80\x2e\x01\x00\x02" + rng.randbytes(41),
        "a heartbeat as TLS application data": b"\x17\x03\x03" + struct.pack("!H", len(heartbeat)) + heartbeat,
        "a client hello and a heartbeat behind it": first + heartbeat,
        "a damaged client hello": first[:50] + rng.randbytes(len(first) - 50),
    }
    for what, data in bare.items():
        open_connection().sock.close()  # the backend takes connections just now
        sock = tcp_connection()
        with suppress(OSError):
            sock.sendall(data)
        tally.add(what, tcp_end(sock)(PLAN["handshake_s"] + MARGIN), ("closed",))
        sock.close()
    with tempfile.TemporaryDirectory() as folder:
        tried = {what: context(stem, place) for what, (place, stem) in foreign_certificates(folder).items()}
        old = context()
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        tried["TLS 1.2"] = old
        for what, chosen in tried.items():
            open_connection().sock.close()
            made = Connection(chosen)
            try:
                made.handshake()
                made.send(heartbeat)
                outcome = made.outcome(PLAN["handshake_s"] + MARGIN)
            except (OSError, EOFError):
                outcome = "closed"
            tally.add(what, outcome, ("closed",))
            made.sock.close()
    open_connection().sock.close()


def records(tally: Tally, rng: random.Random) -> None:
    """Attack class: invalid records after the handshake, among them a second handshake."""
    heartbeat, first = request(HEARTBEAT, tally.mark), client_hello()

    def changed(at: int, current: Connection) -> bytes:
        record = bytearray(current.sealed(heartbeat))
        record[at] ^= 1 << rng.randrange(8)
        return bytes(record)

    makers: dict[str, Callable[[Connection], bytes]] = {
        "a second client hello in the open": lambda _: first,
        "a second client hello within": lambda t: t.sealed(first + b"\n"),
        "a heartbeat in the open": lambda _: heartbeat,
        "a heartbeat in an open record": lambda _: b"\x17\x03\x03" + struct.pack("!H", len(heartbeat)) + heartbeat,
        "a record longer than the longest": lambda _: b"\x17\x03\x03\x50\x00" + bytes(0x5000),
        "an alert in the open": lambda _: b"\x15\x03\x03\x00\x02\x02\x28",
        "many changes of cipher": lambda _: b"\x14\x03\x03\x00\x01\x01" * 100,
        **{f"a record with byte {at} changed": partial(changed, at) for at in (0, 5, 9, 30, -1)},
    }
    for what, make in makers.items():
        current = open_connection()
        with suppress(OSError):
            current.sock.sendall(make(current))
            # A record whose length was changed would be waited for.
            current.sock.shutdown(socket.SHUT_WR)
        tally.add(what, current.outcome(PLAN["line_s"] + MARGIN), ("closed", "malformed", "incomplete"))
        current.sock.close()
    current = open_connection()
    record = current.sealed(request(HEARTBEAT, CLOCK.next()))
    for what, allowed in (("a record", ("effect done", *LIMITED)), ("the same record again", ("closed",))):
        with suppress(OSError):
            current.sock.sendall(record)
        tally.add(what, current.outcome(PLAN["line_s"] + MARGIN), allowed)
    current.sock.close()
