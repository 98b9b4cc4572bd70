"""The trees' checks: silent on what the overlays make, loud on each thing planted, and never led astray by a tree."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from backend.protocol import link_plan
from proof.image.tree import entries, findings, paths, run, run_tree
from proof.image.tree.check import Check
from proof.image.tree.checks import HOST_CHECKS, VM_CHECKS
from proof.image.tree.entries import Tree, TreeError
from proof.image.tree.findings import OwnFile
from proof.image.tree.outcome import run_check
from proof.image.tree.plants import HASH, PEM, PKCS8, capable, edit, ln, put
from proof.image.tree.services import VENDOR_LINES
from proof.image.tree.syntax import chains
from proof.image.tree.syntax import unit_lines as lines_of
from proof.result import Result, Verdict
from rootfs.base.version import PROJECT
from rootfs.spec.profile import DATAPATHS, load
from rootfs.tree import overlay

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners and setuid bits need root")
Plant = Callable[[Path], None]
LINE = (
    f"console=ttyS0,115200 sallyport.roothash={'ab' * 32} sallyport.verity=14783,{'cd' * 32} ipv6.disable=1 panic=10 "
    "quiet loglevel=3 rcupdate.rcu_expedited=1 audit=0 mitigations=auto nosmt=force systemd.import_credentials=no "
    "systemd.show_status=yes systemd.gpt_auto=no systemd.firstboot=no rd.systemd.gpt_auto=no"
)


def trees(folder: Path, way: str = "ring", *, test: bool = False) -> tuple[Path, Path]:
    """What the overlays make for a way, with stand-ins for what the packages bring."""
    values = {"profile": load("qemu", way), "version": "0", "engine": "debian", "link": link_plan, "test_access": test}
    host, vm = folder / "host", folder / "vm"
    for tree, names in ((host, ["host", "host_test"]), (vm, ["frontend_vm", "frontend_vm_test"])):
        overlay.skeleton(tree)
        overlay.lay([PROJECT / "overlays" / name for name in (names if test else names[:1])], tree, values)
        put("usr/bin/busybox", mode=0o755)(tree)
        put("etc/hostname", "x\n")(tree)
    ln("etc/os-release", "../usr/lib/os-release")(host)
    for unit in paths.THEIRS:
        put(f"usr/lib/systemd/system/{unit}", "[Unit]\n")(host)
    journal = "\n".join(["[Service]", *sorted(VENDOR_LINES["systemd-journald.service"])])
    put("usr/lib/systemd/system/systemd-journald.service", journal)(host)
    return host, vm


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return trees(tmp_path)


def by_name(results: Sequence[Result]) -> dict[str, Result]:
    assert len({result.name for result in results}) == len(results)
    return {result.name: result for result in results}


def one(pair: tuple[Path, Path], name: str) -> Result:
    """One check alone, with its controls."""
    checks = {check.name: (pair[0], check) for check in HOST_CHECKS}
    checks |= {f"vm-{check.name}": (pair[1], check) for check in VM_CHECKS}
    tree, check = checks[name]
    scratch = pair[0].parent / "scratch"
    scratch.mkdir()
    return run_check("", check, Tree(tree), scratch)


@as_root
@pytest.mark.parametrize(("way", "test"), [*((way, False) for way in DATAPATHS), ("ring", True)])
def test_what_the_overlays_make_is_sealed(tmp_path: Path, way: str, test: bool) -> None:
    results = run_tree(*trees(tmp_path, way, test=test), test_access=test)
    assert [(r.name, r.evidence) for r in results if r.verdict is not Verdict.SEALED] == []
    assert len(results) == len(HOST_CHECKS) + len(VM_CHECKS)
    assert list(tmp_path.iterdir()) != []
    assert not list(tmp_path.glob("scratch-*"))


@as_root
def test_a_test_image_is_not_taken_for_a_product(tmp_path: Path) -> None:
    results = by_name(run_tree(*trees(tmp_path, test=True)))
    holes = {name for name, result in results.items() if result.verdict is Verdict.HOLE}
    assert {"units", "programs", "terminals", "vm-inittab", "vm-programs"} <= holes


_UNITS = "etc/systemd/system/"
_GETTY = put(f"{_UNITS}getty@.service", "[Service]\nExecStart=/sbin/agetty\nStandardInput=tty\n")
_ACCEPTS = edit(
    "etc/sallyport/host.nft", "output priority filter; policy drop", "output priority filter; policy accept"
)
_PLANTED: tuple[tuple[str, Plant], ...] = (
    ("special-files", lambda root: os.mkfifo(root / "dev/x")),
    ("secrets", put("usr/share/web.key", PEM.format(""))),
    ("vm-secrets", put("usr/share/web.key", PKCS8)),
    ("secrets", put("etc/shadow", HASH)),
    ("accounts", put("etc/shadow", HASH)),
    ("accounts", edit("etc/passwd", ":/root:/usr/bin/false", ":/root:/bin/sh")),
    ("vm-accounts", edit("etc/passwd", "frontend:x:", "frontend::")),
    ("units", _GETTY),
    ("terminals", _GETTY),
    ("names", _GETTY),
    ("units", put("usr/lib/systemd/system-generators/x", mode=0o755)),
    ("programs", put("usr/local/sbin/x", mode=0o755)),
    ("programs", ln("usr/bin/telnetd", "busybox")),
    ("settings", put("etc/udev/rules.d/x.rules")),
    ("vm-settings", put("etc/profile")),
    ("kernel-settings", edit("etc/sysctl.d/sallyport.conf", "ip_forward = 0", "ip_forward = 1")),
    ("vm-kernel-settings", edit("etc/init.d/setup", "ip_forward=0", "ip_forward=1")),
    ("vm-inittab", edit("etc/inittab", "::ctrl", "ttyS0::respawn:/bin/sh\n::ctrl")),
    ("rules", _ACCEPTS),
    ("rules", edit("etc/sallyport/port.nft", "counter name to_host", "accept")),
    ("sandbox", edit(f"{_UNITS}sallyport-vm.service", "CapabilityBoundingSet=", "CapabilityBoundingSet=CAP_BPF")),
    ("sandbox", edit(f"{_UNITS}sallyport-port.service", "ProtectSystem=strict", "ProtectSystem=no")),
    ("packages", put("usr/lib/python3/dist-packages/tests/x.py")),
    ("vm-packages", put("usr/lib/python3/dist-packages/backend/daemon/validator.pyc")),
)
_PLANTED_BY_ROOT: tuple[tuple[str, Plant], ...] = (
    ("setuid", put("usr/bin/busybox", mode=0o4755)),
    ("vm-setuid", put("usr/bin/busybox", mode=0o2755)),
    ("capabilities", capable),
    ("writable", lambda root: (root / f"{_UNITS}sallyport-backend.service").chmod(0o666)),
    ("vm-writable", lambda root: (root / "tmp").chmod(0o777)),
    ("owners", lambda root: os.chown(root / "etc/passwd", 900, 900)),
)


def test_what_is_planted_is_named(tmp_path: Path) -> None:
    for number, (name, plant) in enumerate((*_PLANTED, *(_PLANTED_BY_ROOT if os.geteuid() == 0 else ()))):
        pair = trees(tmp_path / str(number))
        plant(pair[1] if name.startswith("vm-") else pair[0])
        assert one(pair, name).verdict is Verdict.HOLE, name


def test_a_check_that_sees_nothing_is_not_believed(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    blind = Check("blind", "nothing", lambda tree: iter(()), {"x": put("x")})
    half = Check(
        "half", "a little", lambda t: (e.path for e in t.entries if e.path == "x"), {"x": put("x"), "y": put("y")}
    )
    none = Check("none", "nothing", lambda tree: iter(()), {})
    monkeypatch.setattr(run, "HOST_CHECKS", (blind, half, none))
    results = by_name(run_tree(*pair))
    assert {results[name].verdict for name in ("blind", "half", "none")} == {Verdict.NOT_TESTED}
    assert "'y' was planted and not found" in results["half"].evidence


def test_without_root_nothing_is_said_of_owners(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(run, "VM_CHECKS", ())
    results = by_name(run_tree(*pair))
    assert {results[n].verdict for n in ("setuid", "owners", "writable", "capabilities")} == {Verdict.NOT_TESTED}
    assert results["rules"].verdict is Verdict.SEALED


def test_an_empty_or_missing_tree_is_not_sealed(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    results = run_tree(tmp_path / "host", tmp_path / "gone")
    assert {result.verdict for result in results} <= {Verdict.NOT_TESTED, Verdict.HOLE}


def test_nothing_outside_of_the_tree_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(PEM.format(""))
    root = tmp_path / "tree"
    (root / "etc").mkdir(parents=True)
    ln("etc/link", "../../secret")(root)
    ln("usr", "..")(root)
    os.mkfifo(root / "etc/pipe")
    tree = Tree(root)
    assert list(findings.secrets(tree)) == []
    for path in ("etc/link", "usr/secret", "etc/pipe", "../secret", "/etc/passwd", "etc", "etc/a\0b"):
        with pytest.raises(TreeError):
            tree.read(path)
    (root / "long").write_bytes(bytes(100))
    with pytest.raises(TreeError, match="longer"):
        tree.read("long", 99)


def test_a_tree_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MAX_ENTRIES", 10)
    for number in range(12):
        (tmp_path / f"{number}/x").mkdir(parents=True)
    with pytest.raises(TreeError, match="more than 10"):
        _ = Tree(tmp_path).entries


def test_published_keys_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, other = PEM.format("EC "), PEM.format("EC ").replace("0\n", "1\n")
    published = {"usr/lib/lib.so": frozenset({findings.digest(known.encode())})}
    monkeypatch.setattr(findings, "PUBLISHED", published)
    put("usr/lib/lib.so", known)(tmp_path)
    assert list(findings.secrets(Tree(tmp_path))) == []
    put("usr/lib/lib.so", known + "\n" + other)(tmp_path)
    assert len(list(findings.secrets(Tree(tmp_path)))) == 1
    put("usr/lib/lib.so", "")(tmp_path)
    put("usr/lib/other.so", known)(tmp_path)
    assert len(list(findings.secrets(Tree(tmp_path)))) == 1


def test_units_are_read_as_systemd_reads_them() -> None:
    text = "[Unit]\nA=1\n# C=1\n[Service]\n;X=1\nExecStart=/a \\\n  b\nUser = root\nUser=\n[Install]\nB=1\n"
    assert unit_lines(text) == ["ExecStart=/a    b", "User=root", "User="]


def unit_lines(text: str) -> list[str]:
    return lines_of(text, "Service")


@pytest.mark.parametrize(
    "text", ["table inet x {", "}", "table inet x {\nchain a {\n}\nchain a {\n}\n}", "chain a {\n}"]
)
def test_broken_rules_are_no_rules(text: str) -> None:
    with pytest.raises(TreeError):
        chains(text)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No checks but what the arguments ask for."""
    monkeypatch.setattr(run, "HOST_CHECKS", ())
    monkeypatch.setattr(run, "VM_CHECKS", ())


@pytest.mark.usefixtures("alone")
def test_the_manifest(pair: tuple[Path, Path]) -> None:
    files = {e.path: hashlib.sha256((pair[0] / e.path).read_bytes()).hexdigest() for e in Tree(pair[0]).files()}
    assert by_name(run_tree(*pair, files=files))["manifest"].verdict is Verdict.SEALED
    (pair[0] / "etc/hosts").write_text("10.0.0.1 update\n")
    assert by_name(run_tree(*pair, files=files))["manifest"].verdict is Verdict.HOLE


@pytest.mark.usefixtures("alone")
def test_what_this_checkout_makes(pair: tuple[Path, Path]) -> None:
    code = "usr/lib/python3/dist-packages/backend"
    for tree in pair:
        put(f"{code}/__init__.pyc", b"code")(tree)
    made = {e.path: OwnFile(e.target, "", False) for e in Tree(pair[0]).entries if e.target}
    for e in Tree(pair[0]).files():
        made[e.path] = OwnFile("", hashlib.sha256((pair[0] / e.path).read_bytes()).hexdigest(), bool(e.mode & 0o100))

    def verdict() -> Verdict:
        return by_name(run_tree(*pair, own_files=(made, {})))["own-files"].verdict

    assert verdict() is Verdict.SEALED
    for plant in (
        put(f"{code}/__init__.pyc", b"other"),
        put(f"{code}/more.pyc", b"code"),
        ln(f"{code}/more.pyc", "/data/x"),
        ln("etc/hosts", "/data/hosts"),
        lambda root: (root / "etc/hosts").chmod(0o755),
    ):
        before = {path: (pair[0] / path).read_bytes() for path in ("etc/hosts", f"{code}/__init__.pyc")}
        plant(pair[0])
        assert verdict() is Verdict.HOLE
        (pair[0] / code / "more.pyc").unlink(missing_ok=True)
        for path, content in before.items():
            put(path, content)(pair[0])
    assert verdict() is Verdict.SEALED


def kernel_image(line: str) -> bytes:
    """The least that is a PE image with a section .cmdline."""
    head = b"MZ" + bytes(0x3A) + struct.pack("<I", 0x40)
    coff = struct.pack("<4sHH12xHH", b"PE\0\0", 0x8664, 2, 16, 0)
    data = line.encode() + b"\0"
    sections = struct.pack("<8sI4xII16x", b".text", 4, 4, 8)
    sections += struct.pack("<8sI4xII16x", b".cmdline", len(data), 512, 512)
    return (head + coff + bytes(16) + sections).ljust(512, b"\0") + data.ljust(512, b"\0")


@pytest.mark.usefixtures("alone")
def test_the_command_line(pair: tuple[Path, Path], tmp_path: Path) -> None:
    kernel = tmp_path / "kernel.efi"

    def verdict(line: str, root_hash: str = "ab" * 32) -> Verdict:
        kernel.write_bytes(kernel_image(line))
        return by_name(run_tree(*pair, kernel=kernel, root_hash=root_hash))["command-line"].verdict

    assert verdict(LINE) is Verdict.SEALED
    assert verdict(LINE, "00" * 32) is Verdict.HOLE
    for line in (f"{LINE} init=/bin/sh", f"{LINE} quiet", LINE.replace("ipv6.disable=1", "ipv6.disable=0"), ""):
        assert verdict(line) is Verdict.HOLE, line


@pytest.mark.parametrize(
    "data", [b"", b"MZ", kernel_image(LINE)[:80], kernel_image(LINE).replace(b".cmdline", b".cmdlinf")]
)
@pytest.mark.usefixtures("alone")
def test_what_is_no_kernel_image_is_not_sealed(pair: tuple[Path, Path], tmp_path: Path, data: bytes) -> None:
    (tmp_path / "kernel.efi").write_bytes(data)
    result = by_name(run_tree(*pair, kernel=tmp_path / "kernel.efi"))["command-line"]
    assert result.verdict is Verdict.NOT_TESTED


@pytest.mark.parametrize(
    ("bare", "figure", "verdict"),
    [
        (9.6, 1.1, Verdict.SEALED),
        (9.6, 9.0, Verdict.HOLE),
        (1.0, 1.0, Verdict.NOT_TESTED),
        (9.6, None, Verdict.NOT_TESTED),
    ],
)
@pytest.mark.usefixtures("alone")
def test_exposure(pair: tuple[Path, Path], bare: float, figure: float | None, verdict: Verdict) -> None:
    def analyze(argv: Sequence[str]) -> str:
        assert argv[:3] == ["systemd-analyze", "security", "--offline=true"]
        said = bare if argv[-2].endswith("bare") else figure
        return f"→ Overall exposure level for {argv[-1]}: {said} OK\n"

    assert by_name(run_tree(*pair, analyze))["exposure"].verdict is verdict
