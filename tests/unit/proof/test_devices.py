"""The comparison of what a VM sees with what it may see, on made-up listings; and that the collector runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from proof.inside.devices import KINDS, SCRIPT, run_devices
from proof.remote_answer import framed
from proof.result import EXIT_SEALED, Result, Verdict, exit_code

Listing = dict[str, list[str]]


def clean() -> Listing:
    """What must be there, and some of what may: item for item written as the collector does."""
    return {
        "unread": [],
        "pci": [],
        "virtio": ["block", "entropy", "net", "net"],
        "interfaces": ["access", "link", "lo"],
        "block": ["vda read-only"],
        "fw_cfg": [
            *("bootorder", "etc/acpi/tables", "opt/sallyport/backend.crt", "opt/sallyport/link.crt"),
            *("opt/sallyport/link.key", "opt/sallyport/settings.json", "opt/sallyport/ssh.key"),
            *("opt/sallyport/web.crt", "opt/sallyport/web.key"),
        ],
        "acpi": ["LNXSYSTM:00", "LNXSYBUS:00", *(f"LNRO0005:0{at}" for at in range(4)), "QEMU0002:00", "PNP0501:00"],
        "amba": [],
        "pnp": ["00:00 PNP0501"],
        "platform": [*(f"LNRO0005:0{at}" for at in range(4)), "QEMU0002:00", "serial8250"],
        "buses": ["acpi", "cpu", "platform", "virtio"],
        "serial": ["ttyS0 uart:16550A"],
        "ioports": ["dma1", "serial"],
        "io": ["0x70", "0x3f8", "0x510"],
        "shares": [],
        "classes": [],
        "nodes": ["mem"],
        "dmi": ["sys_vendor=QEMU"],
        "cpu": ["aes", "hypervisor", "sse2"],
        "modules": ["virtio_net", "virtio_blk", "virtio_mmio", "squashfs", "qemu_fw_cfg", "failover"],
        "cmdline": next([rule.pattern for rule in kind.rules] for kind in KINDS["x86_64"] if kind.name == "cmdline"),
    }


def vm(listing: Listing, damage: Callable[[str], str] = lambda text: text) -> Callable[[str, float], tuple[int, str]]:
    line = framed(listing)
    return lambda command, timeout: (0, f"a warning\n{damage(line)}\n")


def results(listing: Listing) -> dict[str, Result]:
    return {result.name: result for result in run_devices(vm(listing))}


def test_what_is_declared_is_sealed() -> None:
    found = results(clean())
    assert exit_code(found.values()) == EXIT_SEALED, [r for r in found.values() if r.verdict is not Verdict.SEALED]
    assert set(found) == {kind.name for kind in KINDS["x86_64"]}
    assert set(clean()) == {"unread", *found}
    assert "2 NICs and 1 disk" in found["pci"].control


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        ("pci", "0000:00:01.0 0x1af4 0x018000"),
        ("virtio", "net"),  # a third one
        ("virtio", "9p"),
        ("virtio", "balloon"),
        ("virtio", "vsock"),
        ("virtio", "type 99"),
        ("interfaces", "eth0"),
        ("block", "vdb read-only"),
        ("block", "vda writable"),
        ("fw_cfg", "opt/sallyport/backend.key"),
        ("fw_cfg", "opt/other"),
        ("acpi", "PNP0A08:00"),
        ("acpi", "LNRO0005:04"),
        ("amba", "9000000.pl011"),
        ("platform", "i8042"),
        ("buses", "pci"),
        ("serial", "ttyS1 uart:16550A"),
        ("ioports", "PCI conf1"),
        ("io", "0xe8"),
        ("shares", "mounted 9p on /mnt"),
        ("shares", "tag host"),
        ("classes", "input/input0"),
        ("nodes", "kvm"),
        ("nodes", "vport0p1"),
        ("dmi", "product_uuid=5b0e"),
        ("cpu", "svm"),
        ("cpu", "vmx"),
        ("cpu", "sev_es"),
        ("modules", "vsock"),
        ("cmdline", "sallyport.secret=1"),
    ],
)
def test_each_thing_more_is_a_hole(kind: str, item: str) -> None:
    listing = clean()
    listing[kind].append(item)
    found = results(listing)
    assert {result.name for result in found.values() if result.verdict is Verdict.HOLE} == {kind}
    assert item in found[kind].evidence
    assert found[kind].frames[0].startswith(item)


def virt() -> Listing:
    """As on aarch64: what differs from `clean`, as a VM there listed it."""
    return clean() | {
        "pci": ["0000:00:00.0 0x1b36 0x060000", "1b360008"],
        "fw_cfg": [name for name in clean()["fw_cfg"] if "acpi" not in name],
        "acpi": [],
        "pnp": [],
        "amba": ["9000000.pl011", "9010000.pl031", "9030000.pl061"],
        "platform": ["0.flash", "4010000000.pcie", "9020000.fw-cfg", *(f"a000{at}00.virtio_mmio" for at in "02468ace")],
        "buses": ["amba", "cpu", "pci", "platform", "virtio"],
        "serial": ["ttyAMA0 uart:PL011"],
        "ioports": ["pcie@10000000"],
        "io": [],
        "classes": ["gpio/gpiochip512", "ptp/ptp0"],
        "dmi": [],
        "cpu": ["aes", "fp"],
        "cmdline": next([rule.pattern for rule in kind.rules] for kind in KINDS["aarch64"] if kind.name == "cmdline"),
    }


def test_a_vm_on_aarch64_has_its_own_declaration() -> None:
    found = {result.name: result for result in run_devices(vm(virt()), "aarch64")}
    assert exit_code(found.values()) == EXIT_SEALED, [r for r in found.values() if r.verdict is not Verdict.SEALED]
    assert set(found) | {"io", "unread"} == set(virt())
    for kind, item in (("pci", "0000:00:01.0 0x1af4 0x018000"), ("amba", "9040000.pl011"), ("acpi", "LNRO0005:00")):
        more = virt()
        more[kind].append(item)
        holes = [r.name for r in run_devices(vm(more), "aarch64") if r.verdict is Verdict.HOLE]
        assert holes == [kind]


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        ("interfaces", "link"),
        ("block", "vda read-only"),
        ("fw_cfg", "opt/sallyport/link.key"),
        ("acpi", "LNRO0005:00"),
        ("io", "0x3f8"),
        ("cpu", "hypervisor"),
        ("cmdline", "quiet"),
    ],
)
def test_what_must_be_seen_and_is_not_is_not_tested(kind: str, item: str) -> None:
    listing = clean()
    listing[kind].remove(item)
    found = results(listing)
    assert {result.name for result in found.values() if result.verdict is not Verdict.SEALED} == {kind}
    assert found[kind].verdict is Verdict.NOT_TESTED
    assert item.split(":")[0] in found[kind].evidence


def test_nothing_is_sealed_without_the_nics_or_with_something_unread() -> None:
    listing = clean()
    listing["virtio"].remove("net")
    assert {result.verdict for result in results(listing).values()} == {Verdict.NOT_TESTED}
    listing = clean()
    listing["unread"] = ["/proc/ioports: Permission denied"]
    assert {result.verdict for result in results(listing).values()} == {Verdict.NOT_TESTED}
    listing = clean()
    del listing["nodes"]
    assert results(listing)["nodes"].verdict is Verdict.NOT_TESTED


@pytest.mark.parametrize(
    "run",
    [
        vm(clean(), lambda line: line.replace("A", "B")),
        vm(clean(), lambda line: line[:50]),
        vm({"pci": ["x"] * 2000}),
        lambda command, timeout: (127, "python3: not found"),
    ],
)
def test_a_listing_that_cannot_be_trusted_is_not_tested(run: Callable[[str, float], tuple[int, str]]) -> None:
    assert {result.verdict for result in run_devices(run)} == {Verdict.NOT_TESTED}


def test_the_collector_runs() -> None:
    # Without "io": this machine's ports are none of a test's business.
    command = SCRIPT.command()
    assert len(command) < 30000
    done = subprocess.run(
        ["sh", "-c", command.replace("python3", sys.executable, 1)], capture_output=True, text=True, check=False
    )
    listing = SCRIPT.decode(done.stdout)
    assert "lo" in listing["interfaces"], done.stderr
    assert listing["cpu"]
    assert set(listing) == set(clean())
