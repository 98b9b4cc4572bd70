"""What the VM can see and use, against a declared list: everything else is a hole, and is named.

`devices_script` lists it from inside. The lists below are the declaration; to change what a VM may have, change them,
`backend.guests.vm` and `backend.guests.machine_type` together. A kind of which nothing has to be there has the NICs and
the disk of the same listing for its control.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from backend.guests import machine_type
from proof.remote_script import RemoteScript, RemoteScriptError, RunInVm, assemble
from proof.result import Result, Verdict
from rootfs.base.errors import SallyportError

GROUP = "devices"
TIMEOUT = 120.0
"""Seconds; reading all I/O ports is 65,536 exits of the VM."""
ANY = 10_000
"""``most`` of a `Rule` that allows any number."""


@dataclass(frozen=True)
class Rule:
    """How many things whose name matches ``pattern`` (fnmatch) may be and must be there; the first match counts."""

    pattern: str
    why: str
    most: int = 1
    least: int = 0


@dataclass(frozen=True)
class Kind:
    """One kind of thing and its rules; a thing that no rule matches is a hole."""

    name: str
    tried: str
    rules: tuple[Rule, ...] = ()


def _must(why: str, *names: str) -> tuple[Rule, ...]:
    return tuple(Rule(name, why, most=1, least=1) for name in names)


def _may(why: str, *patterns: str) -> tuple[Rule, ...]:
    return tuple(Rule(pattern, why, most=ANY) for pattern in patterns)


def _never(why: str, *patterns: str) -> tuple[Rule, ...]:
    return tuple(Rule(pattern, why, most=0) for pattern in patterns)


def _classes(*more: Rule) -> Kind:
    return Kind(
        "classes",
        "devices of a class that stands for hardware: display, sound, input, TPM, USB, SCSI, watchdog ...",
        (
            *_may("the kernel's text console over no frame buffer at all", "graphics/fbcon"),
            *_may("the kernel's allocator of buffers (drivers/dma-buf/dma-heap.c)", "dma_heap/system"),
            *more,
        ),
    )


def _nodes(*more: Rule) -> Kind:
    return Kind(
        "nodes",
        "device nodes that could lead out: kvm, vsock, vfio, virtio ports, disks ...",
        (*_may("the VM's own memory and clock", "mem", "port", "rtc", "rtc0"), *more),
    )


_MICROVM: tuple[Kind, ...] = (
    Kind("pci", "PCI functions: the machine type microvm is built without the bus"),
    Kind(
        "virtio",
        "virtio devices by type",
        (
            Rule("net", "the NICs access and link", most=2, least=2),
            Rule("block", "the read-only root", least=1),
            Rule("entropy", "random numbers of the host for early boot", least=1),
        ),
    ),
    Kind(
        "interfaces",
        "network interfaces",
        _must("the port, the link, itself", "access", "link", "lo"),
    ),
    Kind(
        "block",
        "block devices, and whether they can be written",
        _must("the root file system, verified by the host and never written", "vda read-only"),
    ),
    Kind(
        "fw_cfg",
        "files that the host hands over by fw_cfg",
        (
            *_must(
                "the VM's keys of this boot and its settings: overlays/host/usr/lib/sallyport/link-keys.j2",
                *(f"opt/sallyport/{name}" for name in ("backend.crt", "link.crt", "link.key", "settings.json")),
                *(f"opt/sallyport/{name}" for name in ("ssh.key", "web.crt", "web.key")),
            ),
            *_never("whatever else somebody passed by -fw_cfg", "opt/*"),
            *_may("QEMU's own tables for firmware and kernel", "etc/acpi/*", "etc/table-loader", "etc/e820"),
            *_may(
                "QEMU's own, from -boot and -kernel", "bootorder", "bios-geometry", "etc/boot-fail-wait", "genroms/*"
            ),
            *_may("QEMU's own, names the machine type", "etc/smbios/smbios-anchor", "etc/smbios/smbios-tables"),
            *_may("QEMU's own, bits that firmware sets", "etc/msr_feature_control", "etc/system-states"),
            *_may("QEMU's own, offsets", "etc/reserved-memory-end", "etc/tpm/log"),
            *_may(
                "QEMU's own, of microvm: its device tree, and the kernel that -kernel names", "etc/fdt", "etc/boot/*"
            ),
        ),
    ),
    Kind(
        "acpi",
        "ACPI devices",
        (
            *_may("the tables' own root, bus and processors", "LNXSYSTM:*", "LNXSYBUS:*", "LNXCPU:*", "ACPI0007:*"),
            *_may("nodes without a name of their own", "device:*"),
            Rule("LNRO0005:*", "virtio-mmio: disk, two NICs, entropy", most=4, least=4),
            Rule("QEMU0002:*", "fw_cfg", least=1),
            Rule("ACPI0013:*", "generic event device of microvm: power button, no hotplug"),
            Rule("PNP0C0C:*", "power button"),
            Rule("PNP0501:*", "serial console, read by the host's journal", least=1),
            Rule("PNP0B00:*", "clock"),
        ),
    ),
    Kind("amba", "devices of ARM's bus"),
    Kind("pnp", "PnP devices", (Rule("* PNP0501*", "serial console", least=1), Rule("* PNP0b00*", "clock"))),
    Kind(
        "platform",
        "platform devices",
        (
            Rule("LNRO0005:*", "virtio-mmio: disk, two NICs, entropy", most=4, least=4),
            Rule("QEMU0002:*", "fw_cfg", least=1),
            *_may("generic event device, power button, clock, console", "ACPI0013:*", "PNP0C0C:*", "PNP0B00:*", "rtc*"),
            *_may(
                "drivers of the kernel without hardware behind them", "serial8250*", "pcspkr", "reg-dummy", "microcode"
            ),
            *_may("the same", "alarmtimer*", "kgdboc", "efi*", "Fixed MDIO bus*", "regulatory*", "vesa*", "ACPI0007:*"),
        ),
    ),
    Kind(
        "buses",
        "buses with devices on them",
        (
            *_must("where the devices above are", "acpi", "platform", "virtio"),
            *_may("the kernel's own clocks, processors and memory", "clock*", "cpu", "memory*", "node", "machinecheck"),
            *_may("the kernel's own", "event_source", "workqueue", "container", "edac", "dax"),
            *_may("serial console and clock", "pnp", "serial*", "nvmem"),
        ),
    ),
    Kind("serial", "serial ports", (Rule("ttyS0 *", "console, read by the host's journal", least=1),)),
    Kind(
        "ioports",
        "owners of I/O ports that the kernel knows",
        (
            *_never("a PCI bus", "PCI *", "pci *"),
            *_must("console", "serial"),
            *_may("reserved by the kernel whether they are there or not", "dma*", "pic*", "timer*", "keyboard", "fpu"),
            Rule(
                "cga", "reserved by the kernel's text console where it found no screen (drivers/video/console/vgacon.c)"
            ),
            *_may("clock, fw_cfg and power management", "rtc*", "fw_cfg*", "QEMU0002:*", "ACPI *", "PNP*", "pnp *"),
        ),
    ),
    Kind(
        "io",
        "all 65,536 I/O ports read: blocks of eight in which something answers",
        (
            *_must("console", "0x3f8"),
            *_may("fw_cfg (QEMU docs/specs/fw_cfg.rst)", "0x510", "0x518"),
            *_may("clock", "0x70"),
        ),
    ),
    Kind("shares", "shared folders (9p, virtiofs, network file systems): mounted, or offered by a tag"),
    _classes(),
    _nodes(),
    Kind(
        "dmi",
        "what the firmware tells of the machine: nothing of the host's",
        (
            *_never("an identity", "*_serial=*", "*_uuid=*", "*_tag=*"),
            *_may("QEMU's own names", "sys_vendor=QEMU", "chassis_vendor=QEMU", "bios_*=*", "product_name=*"),
            *_may("SeaBIOS', where QEMU passes no names", "sys_vendor=Bochs", "chassis_vendor=Bochs"),
            *_may("QEMU's own names", "product_version=*", "chassis_version=*", "chassis_type=*"),
        ),
    ),
    Kind(
        "cpu",
        "processor features",
        (
            *_must("what runs here is a virtual machine", "hypervisor"),
            *_never(
                "virtualization within the VM: the largest part of KVM's code that a guest can reach", "vmx", "svm"
            ),
            *_never("enclaves and confidential guests", "sgx*", "tdx*", "sev*", "smx"),
            *_never(
                "the host's performance counters", "arch_perfmon", "perfctr_*", "intel_pt", "pdcm", "dtes64", "ibs"
            ),
            *_may("arithmetic, and what user space may have on the host as well", "*"),
        ),
    ),
    Kind(
        "modules",
        "kernel modules, drivers of virtio devices, file systems of disks",
        (
            *_must("rootfs/tree/frontend_image.py", "virtio_net", "virtio_blk", "squashfs"),
            *_may("modules of rootfs/tree/frontend_image.py, or built in", "virtio_mmio", "virtio_rng", "qemu_fw_cfg"),
            *_may("what virtio_net needs", "net_failover", "failover"),
            # A device for one of them would be seen among the devices.
            *_may(
                "built into Debian's kernel", "ext[234]", "fuseblk", "virtiofs", "virtio_console", "virtio_rproc_serial"
            ),
        ),
    ),
    Kind(
        "cmdline",
        "words of the kernel's command line: those of backend/guests/machine_type.py, so no secret",
        _must("backend/guests/machine_type.py", *sorted(set(machine_type.MICROVM.command_line.split()))),
    ),
)

_VIRT: tuple[Kind, ...] = (
    Kind(
        "pci",
        "PCI functions: the machine type virt always has the bus",
        _may("the host bridge, where the kernel has a driver", "0000:00:00.0 0x1b36 0x060000", "1b360008"),
    ),
    Kind("acpi", "ACPI devices: the device tree alone says what there is"),
    Kind("pnp", "PnP devices"),
    Kind(
        "amba",
        "devices of ARM's bus",
        (
            *_must("serial console, read by the host's journal", "9000000.pl011"),
            *_may("clock", "9010000.pl031"),
            *_may("general-purpose pins: the power button", "9030000.pl061"),
        ),
    ),
    Kind(
        "platform",
        "platform devices",
        (
            Rule("a00*.virtio_mmio", "places for virtio devices, used or not (QEMU hw/arm/virt.c)", most=32, least=4),
            Rule("9020000.fw-cfg", "fw_cfg", least=1),
            Rule("4010000000.pcie", "the PCI bus, see there"),
            Rule("0.flash", "firmware's memory: empty, no file of the host is behind it"),
            Rule("platform-bus@c000000", "where QEMU would put more of them"),
            *_may("power button, clock, processors", "gpio-keys", "timer", "psci*", "pmu"),
            *_may("drivers of the kernel without hardware behind them", "serial8250*", "alarmtimer*", "reg-dummy"),
            *_may("the same", "smccc_trng", "kgdboc", "efi*", "Fixed MDIO bus*", "regulatory*"),
        ),
    ),
    Kind(
        "buses",
        "buses with devices on them",
        (
            *_must("where the devices above are", "amba", "platform", "virtio"),
            *_may("the same", "pci", "gpio"),
            *_may("the kernel's own clocks, processors and memory", "clock*", "cpu", "memory*", "node"),
            *_may("the kernel's own", "event_source", "workqueue", "container", "edac", "dax"),
            *_may("serial console and clock", "serial*", "nvmem"),
        ),
    ),
    Kind("serial", "serial ports", (Rule("ttyAMA0 *", "console, read by the host's journal", least=1),)),
    Kind(
        "ioports", "owners of I/O ports that the kernel knows", _may("the PCI bus' window, see there", "pcie@10000000")
    ),
    _classes(
        *_may("pins of the power button", "gpio/*"),
        *_may("the host's time of day, by KVM (drivers/ptp/ptp_kvm_arm.c)", "ptp/ptp0"),
    ),
    _nodes(*_may("the host's time of day, see there", "ptp0")),
    Kind("dmi", "what the firmware tells of the machine: nothing, there is none"),
    Kind("cpu", "processor features", _may("arithmetic, and what user space may have on the host as well", "*")),
    Kind(
        "cmdline",
        "words of the kernel's command line: those of backend/guests/machine_type.py, so no secret",
        _must("backend/guests/machine_type.py", *sorted(set(machine_type.VIRT.command_line.split()))),
    ),
)
_ALIKE = ("virtio", "interfaces", "block", "fw_cfg", "shares", "modules")
KINDS: Mapping[str, tuple[Kind, ...]] = {
    "x86_64": _MICROVM,
    "aarch64": tuple(kind for kind in _MICROVM if kind.name in _ALIKE) + _VIRT,
}
"""The kinds by the architecture of the host (`rootfs.spec.architecture`)."""

_Listing = dict[str, Annotated[list[Annotated[str, Meta(max_length=4096)]], Meta(max_length=1000)]]
SCRIPT: RemoteScript[dict[str, list[str]]] = RemoteScript(
    assemble(Path(__file__).with_name("devices_script.py"), main="answer(listing())"), _Listing
)


def collect(run_vm: RunInVm, arch: str = "x86_64") -> dict[str, list[str]]:
    """List what the VM sees; raises `RemoteScriptError`, `SallyportError` or `OSError` if that cannot be had.

    To calibrate: its items are what the patterns of `KINDS` are matched with.
    """
    return SCRIPT.run_in_vm(run_vm, TIMEOUT, *(["io"] if arch == "x86_64" else []))


def compare(kind: Kind, items: Iterable[str]) -> tuple[list[str], list[str], int]:
    """Return the undeclared items, the missing patterns, and how many required items were seen."""
    seen: dict[Rule, int] = dict.fromkeys(kind.rules, 0)
    extra = []
    for item in items:
        rule = next((rule for rule in kind.rules if fnmatchcase(item, rule.pattern)), None)
        if rule is not None:
            seen[rule] += 1
        if rule is None:
            extra.append(item)
        elif seen[rule] > rule.most:
            extra.append(f"{item} ({rule.why})" if rule.most == 0 else f"{item} (more than {rule.most})")
    missing = [rule.pattern for rule in kind.rules if seen[rule] < rule.least]
    return extra, missing, sum(seen[rule] for rule in kind.rules if rule.least)


def _judge(kind: Kind, listing: Mapping[str, list[str]], general: str) -> Result:
    """Judge one kind. ``general`` says how the listing as a whole can be trusted, empty if it cannot."""
    items = listing.get(kind.name)
    extra, missing, musts = compare(kind, items or ())
    unread = listing.get("unread", [])
    control = f"{musts} required items seen" if musts else general or "NICs and disk were not seen"
    evidence = f"{len(items or ())} seen"
    if extra:
        verdict, evidence = Verdict.HOLE, f"{evidence}; not declared: {', '.join(extra[:8])}"
    elif items is None or missing or unread or not general:
        reasons = (
            *(["not listed"] if items is None else []),
            *([f"not seen: {', '.join(missing[:8])}"] if missing else []),
            *([f"not readable: {', '.join(unread[:4])}"] if unread else []),
            *([] if general else ["the NICs and the disk were not seen"]),
        )
        verdict, evidence = Verdict.NOT_TESTED, f"{evidence}; {'; '.join(reasons)}"
    else:
        verdict = Verdict.SEALED
    return Result(GROUP, kind.name, kind.tried, verdict, evidence, control, 0.0, tuple(extra[:20]))


def run_devices(run_vm: RunInVm, arch: str = "x86_64") -> list[Result]:
    """Compare what root in the VM of a host of that architecture sees with the declaration; one result per kind."""
    began, trouble = time.monotonic(), ""
    listing: dict[str, list[str]] = {}
    try:
        listing = collect(run_vm, arch)
    except (RemoteScriptError, SallyportError, OSError) as error:
        trouble = str(error)
    took = time.monotonic() - began
    nets, disks = listing.get("virtio", []).count("net"), listing.get("virtio", []).count("block")
    general = f"{nets} NICs and {disks} disk in the same listing" if nets == 2 and disks >= 1 else ""
    results = [
        Result(GROUP, kind.name, kind.tried, Verdict.NOT_TESTED, trouble, "none seen", 0.0)
        if trouble
        else _judge(kind, listing, general)
        for kind in KINDS[arch]
    ]
    # One listing serves all: its time is told once.
    return [replace(result, duration=took if at == 0 else 0.0) for at, result in enumerate(results)]
