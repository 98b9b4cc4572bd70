"""A statement that was not touched passes; whatever is changed in it, its image or its files is found."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from rich.console import Console
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

from proof.report.in_toto import PAYLOAD_TYPE
from proof.report.publish import write_report
from proof.report.report import Report, digest_file
from proof.report.signing_key import PASSPHRASE, require_key
from proof.report.statement import Checked, check, show, sign
from proof.result import EXIT_HOLE, EXIT_NOT_TESTED, EXIT_SEALED, Result, Verdict
from rootfs.base.errors import SallyportError

KINDS: dict[str, Callable[[], Any]] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 3072),
}
OTHERS: dict[str, Callable[[], Any]] = {
    "rsa-2048": lambda: rsa.generate_private_key(65537, 2048),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "x25519": x25519.X25519PrivateKey.generate,
}
PLAIN = NoEncryption()


@cache
def a_key(kind: str) -> Any:
    return (KINDS | OTHERS)[kind]()


def save(key: Any, path: Path, encryption: KeySerializationEncryption = PLAIN) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    path.chmod(0o600)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)
    return path


@dataclass
class Run:
    """What a run leaves behind, signed."""

    folder: Path
    image: Path
    key: Path
    report: Report
    files: list[Path]

    @property
    def statement(self) -> Path:
        return self.folder / "statement.json"

    @property
    def public(self) -> Path:
        return self.key.with_suffix(".pub")

    def sign(self) -> None:
        sign(self.report, self.files, self.key, self.statement)

    def check(self) -> Checked:
        return check(self.statement, self.image, self.public)

    def payload(self) -> dict[str, Any]:
        envelope = json.loads(self.statement.read_text())
        body: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
        return body

    def forge(self, payload: bytes, payload_type: str = PAYLOAD_TYPE) -> None:
        """Sign what `sign` would not, with the right key."""
        envelope = Envelope(payload, payload_type, {})
        envelope.sign(CryptoSigner(a_key("ed25519")))
        self.statement.write_text(json.dumps(envelope.to_dict()))


def make(folder: Path, kind: str, *verdicts: Verdict) -> Run:
    out = folder / "out"
    out.mkdir()
    image, capture = folder / "a.img", out / "port.pcapng"
    image.write_bytes(random.Random(1).randbytes(300))
    capture.write_bytes(b"frames")
    names = [f"probe-{place}" for place in range(len(verdicts))]
    report = Report(
        [Result("host", n, "t", v, "e", "c", 0.5) for n, v in zip(names, verdicts, strict=True)],
        "out/a.img",
        hashlib.sha256(image.read_bytes()).hexdigest(),
        7,
        "2026-01-01T00:00:00+00:00",
        3.0,
        "invoke verify",
        {"scapy": "2"},
        captures=(digest_file(capture),),
    )
    files = [*write_report(report, out).values(), capture]
    run = Run(out, image, save(a_key(kind), folder / "key.pem"), report, files)
    run.sign()
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make(tmp_path, "ed25519", Verdict.CONTROL, Verdict.SEALED)


def refused(run: Run, match: str = ".") -> SallyportError:
    with pytest.raises(SallyportError, match=match) as caught:
        run.check()
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_the_untouched_one_passes(kind: str, tmp_path: Path) -> None:
    checked = make(tmp_path, kind, Verdict.CONTROL, Verdict.SEALED).check()
    assert (checked.image, checked.verdict, checked.exit_code, checked.seed) == ("a.img", "sealed", EXIT_SEALED, 7)
    assert checked.passed == ("host/probe-0", "host/probe-1")
    assert (checked.failed, checked.missing, checked.reason) == ((), (), "")
    assert checked.present == ("junit.xml", "port.pcapng", "report.html", "report.json")


@pytest.mark.parametrize(
    ("verdict", "code", "not_tested"),
    [(Verdict.HOLE, EXIT_HOLE, ()), (Verdict.NOT_TESTED, EXIT_NOT_TESTED, ("host/probe-1",))],
)
def test_a_run_that_did_not_pass_is_failed(verdict: Verdict, code: int, not_tested: Any, tmp_path: Path) -> None:
    run = make(tmp_path, "ed25519", Verdict.SEALED, verdict)
    checked, predicate = run.check(), run.payload()["predicate"]
    assert (predicate["result"], predicate["warnedTests"]) == ("FAILED", [])
    assert checked.exit_code == code
    assert (checked.passed, checked.failed) == (("host/probe-0",), ("host/probe-1",))
    assert checked.not_tested == not_tested
    assert "host/probe-1" in checked.reason


def test_a_run_of_controls_alone_is_failed(tmp_path: Path) -> None:
    with pytest.raises(SallyportError, match="contradicts itself"):
        make(tmp_path, "ed25519", Verdict.CONTROL).check()


def test_what_is_shown(run: Run) -> None:
    out = io.StringIO()
    (run.folder / "port.pcapng").unlink()
    checked = replace(run.check(), command="invoke [red]verify\x1b[2J")
    show(checked, Console(file=out, width=200))
    assert checked.sha256 in out.getvalue()
    assert "seed 7, invoke [red]verify?[2J" in out.getvalue()
    assert re.search(r"missing +port\.pcapng\nSEALED$", out.getvalue().strip())


def test_others_can_read_it(run: Run) -> None:
    """The formats by the letter, and the signature by another implementation than the one that made it."""
    envelope = json.loads(run.statement.read_text())
    payload = base64.b64decode(envelope["payload"], validate=True)
    kind = b"application/vnd.in-toto+json"
    pae = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    key = a_key("ed25519").public_key()
    assert isinstance(key, ed25519.Ed25519PublicKey)
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), pae)
    body = json.loads(payload)
    digest = hashlib.sha256(run.image.read_bytes()).hexdigest()
    assert body["_type"] == "https://in-toto.io/Statement/v1"
    assert body["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert body["subject"] == [{"name": "a.img", "digest": {"sha256": digest}}]
    assert body["predicate"]["result"] == "PASSED"
    bound = {item["name"]: item["digest"]["sha256"] for item in body["predicate"]["configuration"]}
    assert bound == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in run.files}
    own = body["predicate"]["sallyport"]
    assert (own["seed"], own["versions"], own["started"]) == (7, {"scapy": "2"}, "2026-01-01T00:00:00+00:00")


def test_every_flipped_byte_of_the_envelope_is_found(run: Run) -> None:
    rng, whole = random.Random(2), run.statement.read_bytes()
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 1 << rng.randrange(8)
        run.statement.write_bytes(broken)
        refused(run)
    run.statement.write_bytes(whole)
    run.check()


@pytest.mark.parametrize("field", ["payload", "sig"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_byte_under_the_base64_is_found(field: str, kind: str, tmp_path: Path) -> None:
    run = make(tmp_path, kind, Verdict.SEALED)
    envelope, rng = json.loads(run.statement.read_text()), random.Random(3)
    holder = envelope if field == "payload" else envelope["signatures"][0]
    whole = base64.b64decode(holder[field])
    for place in range(0, len(whole), 1 if len(whole) < 512 else 7):
        broken = bytearray(whole)
        broken[place] ^= 1 << rng.randrange(8)
        holder[field] = base64.b64encode(broken).decode()
        run.statement.write_text(json.dumps(envelope))
        refused(run, "signature does not belong to this key")


@pytest.mark.parametrize("name", ["a.img", "out/report.json", "out/report.html", "out/junit.xml", "out/port.pcapng"])
def test_a_flipped_byte_of_a_file_is_found(name: str, run: Run) -> None:
    path = run.folder.parent / name
    whole = path.read_bytes()
    for place in {0, len(whole) // 2, len(whole) - 1}:
        broken = bytearray(whole)
        broken[place] ^= 1
        path.write_bytes(broken)
        assert path.name in str(refused(run))
    path.write_bytes(whole + b"\n")
    refused(run)
    path.write_bytes(whole)
    run.check()


def test_a_truncated_statement_is_found(run: Run) -> None:
    whole = run.statement.read_bytes()
    for length in range(0, len(whole), 5):
        run.statement.write_bytes(whole[:length])
        refused(run)


def test_a_missing_file_is_said(run: Run) -> None:
    (run.folder / "port.pcapng").unlink()
    checked = run.check()
    assert checked.missing == ("port.pcapng",)
    assert "port.pcapng" not in checked.present


def test_another_key_and_another_image(run: Run, tmp_path: Path) -> None:
    other = save(ed25519.Ed25519PrivateKey.generate(), tmp_path / "other.pem")
    with pytest.raises(SallyportError, match="not signed by this key"):
        check(run.statement, run.image, other.with_suffix(".pub"))
    run.image.write_bytes(b"another image")
    refused(run, "is about a.img")


def test_a_signature_under_another_keys_name(run: Run, tmp_path: Path) -> None:
    """Who can write the envelope can write any key's name into it."""
    good = json.loads(run.statement.read_text())
    run.key = save(ed25519.Ed25519PrivateKey.generate(), tmp_path / "other.pem")
    run.sign()
    forged = json.loads(run.statement.read_text())
    forged["signatures"][0]["keyid"] = good["signatures"][0]["keyid"]
    run.statement.write_text(json.dumps(forged))
    run.key = tmp_path / "key.pem"
    refused(run, "signature does not belong to this key")


def _hostile() -> dict[str, Any]:
    sig = {"keyid": "k", "sig": "AA=="}
    base = {"payload": "AA==", "payloadType": PAYLOAD_TYPE, "signatures": [sig]}
    return {
        "empty": "",
        "null": "null",
        "list": "[]",
        "not json": "\x00\xff{",
        "nested": '{"payload":' + "[" * 400_000,
        "nested unknown": '{"x":' + "[" * 200_000 + "]" * 200_000 + "}",
        "giant": json.dumps({**base, "payload": "A" * (1 << 20)}),
        "no signature": json.dumps({**base, "signatures": []}),
        "many signatures": json.dumps({**base, "signatures": [{**sig, "keyid": str(n)} for n in range(1000)]}),
        "same signature twice": json.dumps({**base, "signatures": [sig, sig]}),
        "payload not base64": json.dumps({**base, "payload": "AA=A!"}),
        "payload a number": json.dumps({**base, "payload": 5}),
        "payload with spare bits": json.dumps({**base, "payload": "AB=="}),
        "payload of two alphabets": json.dumps({**base, "payload": "+/-_"}),
        "signature not base64": json.dumps({**base, "signatures": [{**sig, "sig": "é"}]}),
        "lone surrogate": '{"payload": "\\ud800", "payloadType": "x", "signatures": [{"keyid": "k", "sig": "AA=="}]}',
        "unknown key": json.dumps(base),
        "unknown field": json.dumps({**base, "more": 1}),
    }


@pytest.mark.parametrize("what", _hostile())
def test_hostile_envelopes(what: str, run: Run) -> None:
    run.statement.write_text(_hostile()[what], errors="surrogateescape")
    refused(run)


def test_one_more_signature_does_no_harm_and_one_twice_does(run: Run) -> None:
    envelope = json.loads(run.statement.read_text())
    own = envelope["signatures"][0]
    envelope["signatures"] = [{"keyid": "somebody", "sig": "AA=="}, own]
    run.statement.write_text(json.dumps(envelope))
    run.check()
    envelope["signatures"] = [own, own]
    run.statement.write_text(json.dumps(envelope))
    refused(run, "Multiple signatures")


def test_what_the_right_key_signed_but_is_no_such_statement(run: Run) -> None:
    body = run.payload()
    good = json.dumps(body).encode()
    run.forge(good)
    run.check()
    run.forge(good, "text/plain")
    refused(run, "its payload is 'text/plain'")
    changes: list[tuple[str, Any, str]] = [
        ("_type", "https://in-toto.io/Statement/v0.1", "of type"),
        ("predicateType", "https://slsa.dev/provenance/v1", "of type"),
        ("subject", [], "length >= 1"),
        ("subject", body["subject"] * 2, "length <= 1"),
        ("subject", [{"name": "a.img", "digest": {"sha512": "00"}}], "sha256"),
        ("predicate", {**body["predicate"], "failedTests": ["host/x"]}, "contradicts itself"),
        ("predicate", {**body["predicate"], "warnedTests": ["host/x"]}, "contradicts itself"),
        ("predicate", {**body["predicate"], "result": "FAILED"}, "contradicts itself"),
        ("predicate", {"result": "PASSED", "configuration": []}, "missing required field"),
    ]
    for field, value, why in changes:
        run.forge(json.dumps({**body, field: value}).encode())
        refused(run, why)
    run.forge(b'{"_type":' + b"[" * 200_000)
    refused(run, "is not a statement")


@pytest.mark.parametrize("name", ["../a.img", "/etc/passwd", "..", "", "x/y", "a\0b"])
def test_only_files_beside_the_statement_are_read(name: str, run: Run) -> None:
    body = run.payload()
    body["predicate"]["configuration"][0]["name"] = name
    run.forge(json.dumps(body).encode())
    refused(run)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_does_not_sign(run: Run, mode: int) -> None:
    run.key.chmod(mode)
    with pytest.raises(SallyportError, match=rf"can be read by others \(mode {mode:o}\)") as refusal:
        require_key(run.key)
    assert refusal.value.hint == f"chmod 600 {run.key}"
    with pytest.raises(SallyportError, match="can be read by others"):
        run.sign()
    save(a_key("ed25519"), run.key, BestAvailableEncryption(b"open"))
    run.key.chmod(mode)  # of no use to them
    with pytest.raises(SallyportError, match="has a passphrase"):
        require_key(run.key)


def test_a_key_is_looked_at_before_the_proof(run: Run, tmp_path: Path) -> None:
    require_key(run.key)
    with pytest.raises(SallyportError, match="No such file"):
        require_key(tmp_path / "none.pem")


def test_a_passphrase_comes_from_the_environment(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE, raising=False)
    run.key = save(a_key("ed25519"), tmp_path / "locked.pem", BestAvailableEncryption("sesam öffne".encode()))
    before = run.statement.read_bytes()
    for wrong in (None, "", "sesame"):
        if wrong is not None:
            monkeypatch.setenv(PASSPHRASE, wrong)
        with pytest.raises(SallyportError, match=r"passphrase|cannot be used"):
            run.sign()
    assert run.statement.read_bytes() == before
    monkeypatch.setenv(PASSPHRASE, "sesam öffne")
    run.statement.unlink()
    run.sign()
    assert run.check().exit_code == EXIT_SEALED
    run.key = tmp_path / "key.pem"  # without one, whatever the environment says
    run.sign()


@pytest.mark.parametrize("kind", OTHERS)
def test_keys_of_other_kinds_are_refused(kind: str, run: Run, tmp_path: Path) -> None:
    run.key = save(a_key(kind), tmp_path / "other.pem")
    with pytest.raises(SallyportError, match="of another kind than"):
        run.sign()
    refused(run, "of another kind than")


def test_files_that_are_no_key(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SallyportError, match="cannot be used as a PEM private key"):
        sign(run.report, run.files, run.public, run.statement)
    with pytest.raises(SallyportError, match="is a private key"):
        check(run.statement, run.image, run.key)
    with pytest.raises(SallyportError, match="cannot be used as a PEM public key"):
        check(run.statement, run.image, run.statement)
    big = tmp_path / "big"
    big.write_bytes(bytes(1 << 20))
    with pytest.raises(SallyportError, match="has more than"):
        check(run.statement, run.image, big)
    with pytest.raises(SallyportError, match="cannot be read"):
        check(run.statement, run.image, tmp_path / "nothing")


@pytest.mark.parametrize("which", ["statement", "image", "public", "capture"])
def test_a_pipe_does_not_keep_us_waiting(which: str, run: Run) -> None:
    path = {"statement": run.statement, "image": run.image, "public": run.public}.get(which, run.folder / "port.pcapng")
    path.unlink()
    os.mkfifo(path)
    refused(run, "is not a file")


def test_sign_wants_the_report_of_this_run(run: Run) -> None:
    with pytest.raises(SallyportError, match=r"needs the run's report\.json"):
        sign(run.report, run.files[1:], run.key, run.statement)
    with pytest.raises(SallyportError, match="is not the report of this run"):
        sign(replace(run.report, seed=8), run.files, run.key, run.statement)
    twin = run.folder / "twin"
    twin.mkdir()
    shutil.copy(run.files[0], twin)
    with pytest.raises(SallyportError, match="the same name"):
        sign(run.report, [*run.files, twin / run.files[0].name], run.key, run.statement)
    with pytest.raises(SallyportError, match="the same name"):
        sign(run.report, run.files, run.key, run.files[0])
    run.check()


def test_a_failing_write_leaves_the_old_statement(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before, names = run.statement.read_bytes(), sorted(run.folder.iterdir())
    with monkeypatch.context() as broken:
        broken.setattr("proof.report.whole_file.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "disk full")))
        with pytest.raises(SallyportError, match="cannot be written: disk full"):
            run.sign()
    assert (run.statement.read_bytes(), sorted(run.folder.iterdir())) == (before, names)
    with pytest.raises(SallyportError, match="cannot be written"):
        sign(run.report, run.files, run.key, run.folder / "nowhere" / "statement.json")
