"""The front-end VM's QEMU: its command line, the trial that chooses its accelerator, the host ends of its NICs."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import fcntl
import json
import os
import re
import struct
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from backend.common import tap
from backend.guests import accelerator, machine_type, tsc, vm
from backend.guests.accelerator import Accelerator
from backend.guests.machine_type import MachineType
from backend.protocol.link_plan import FRONTEND_MAC

KVM, TCG = Accelerator("kvm", "a test says so"), Accelerator("tcg", "a test says so")
TAP, VHOST = vm.TapDescriptors(access=7, link=8), vm.TapDescriptors(access=None, link=8)
VM_MAC = "02:5a:11:00:00:09"


def command(
    chosen: Accelerator, taps: vm.TapDescriptors = VHOST, kind: MachineType = machine_type.MICROVM
) -> list[str]:
    return vm.command(
        kind, chosen, taps, memory_mib=192, cpus=2, access_mac=VM_MAC, handed=["link.key", "settings.json"]
    )


def in_place(way: str, qemu: Path) -> MachineType:
    """Microvm with another program in QEMU's place."""
    return dataclasses.replace(
        machine_type.MICROVM, **{way: dataclasses.replace(getattr(machine_type.MICROVM, way), program=str(qemu))}
    )


def values(words: list[str], option: str) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == option]


@pytest.mark.parametrize("chosen", [KVM, TCG], ids=["kvm", "tcg"])
@pytest.mark.parametrize(
    ("taps", "access"),
    [(TAP, "tap,id=access,fd=7"), (VHOST, "vhost-user,id=access,chardev=forwarder")],
    ids=["tap", "vhost-user"],
)
def test_the_vm_has_two_nics_a_read_only_disk_and_nothing_else(
    chosen: Accelerator, taps: vm.TapDescriptors, access: str
) -> None:
    words = command(chosen, taps)
    assert values(words, "-netdev") == [access, "tap,id=link,fd=8"]
    assert values(words, "-device") == [
        "virtio-blk-device,drive=root",
        f"virtio-net-device,netdev=access,mac={VM_MAC},ctrl_vlan=off",
        f"virtio-net-device,netdev=link,mac={FRONTEND_MAC}",
        "virtio-rng-device",
    ]
    (drive,) = values(words, "-drive")
    assert "readonly=on" in drive.split(",")
    assert "snapshot=on" not in drive
    assert drive.endswith(f"file={vm.FILES}/root.squashfs")
    assert values(words, "-fw_cfg") == [
        f"name=opt/sallyport/{name},file={vm.GUEST}/{name}" for name in ("link.key", "settings.json")
    ]
    assert (values(words, "-m"), values(words, "-smp")) == (["192"], ["2"])


@pytest.mark.parametrize("chosen", [KVM, TCG], ids=["kvm", "tcg"])
@pytest.mark.parametrize("taps", [TAP, VHOST], ids=["tap", "vhost-user"])
def test_its_nics_are_of_virtio_1_whatever_their_ends(chosen: Accelerator, taps: vm.TapDescriptors) -> None:
    """The forwarder refuses older ones (fault ``legacy``), and microvm's default is older."""
    assert values(command(chosen, taps), "-global") == ["virtio-mmio.force-legacy=false"]


@pytest.mark.parametrize("chosen", [KVM, TCG], ids=["kvm", "tcg"])
def test_memory_is_shared_with_the_forwarder_alone_and_only_if_it_maps_it(chosen: Accelerator) -> None:
    words = command(chosen)
    # All of the VM's memory, in a memfd that cannot shrink under the forwarder (fault ``memory_seal``).
    assert values(words, "-object") == ["memory-backend-memfd,id=memory,size=192M,share=on,seal=on"]
    assert "memory-backend=memory" in values(words, "-M")[0].split(",")
    words = command(chosen, TAP)
    assert values(words, "-object") == []
    assert not re.search(r"memory-backend|share=on", " ".join(words))


@pytest.mark.parametrize("chosen", [KVM, TCG], ids=["kvm", "tcg"])
@pytest.mark.parametrize("taps", [TAP, VHOST], ids=["tap", "vhost-user"])
def test_qemu_is_in_its_sandbox_and_offers_nobody_a_way_in(chosen: Accelerator, taps: vm.TapDescriptors) -> None:
    words = command(chosen, taps)
    assert values(words, "-sandbox") == ["on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(words)
    assert values(words, "-display") == ["none"]
    # The console only speaks: its input is /dev/null, and `signal=off` takes the terminal's signals from it.
    # And the forwarder is called, not listened for: no server=on.
    forwarder = [] if taps is TAP else [f"socket,id=forwarder,path={vm.VHOST_USER},reconnect-ms=100"]
    assert sorted(values(words, "-chardev")) == [*forwarder, "stdio,id=console,signal=off"]
    assert values(words, "-serial") == ["chardev:console"]
    ways_in = re.compile(
        r"-(monitor|mon|qmp|qmp-pretty|vnc|spice|gdb|s|incoming|net|nic|usb|virtfs|fsdev|runas|daemonize)"
    )
    assert [word for word in words if ways_in.fullmatch(word)] == []
    assert not re.search(r"hostfwd|guestfwd|smb=|script=|unix:|tcp:|telnet:|server|listen", " ".join(words))


@pytest.mark.parametrize("chosen", [KVM, TCG], ids=["kvm", "tcg"])
def test_a_guest_that_panics_ends_qemu(chosen: Accelerator) -> None:
    (append,) = values(command(chosen), "-append")
    assert {"panic=-1", "reboot=t"} <= set(append.split())


def test_kvm_and_tcg_have_their_own_binary_and_processor() -> None:
    kvm, tcg = command(KVM), command(TCG)
    assert (kvm[0], values(kvm, "-accel"), values(kvm, "-cpu")) == (
        machine_type.MICROVM.kvm.program,
        ["kvm"],
        ["host,svm=off,vmx=off,pmu=off"],
    )
    (accel,) = values(tcg, "-accel")
    assert (tcg[0], accel.split(",")[0], values(tcg, "-cpu")) == (
        machine_type.MICROVM.tcg.program,
        "tcg",
        ["max,svm=off"],
    )


@pytest.mark.parametrize(
    ("answer", "cpu"), [(1, "host,pmu=off"), (0, "host"), (OSError("no such device"), "host,pmu=off")]
)
def test_an_arm_guest_is_refused_a_pmu_where_kvm_has_one(
    answer: int | OSError, cpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it has none QEMU does not know the option, and the VM would be emulated: too slow to come up."""

    def ioctl(_: object, request: int, capability: int) -> int:
        assert (request, capability) == (0xAE03, 126)
        if isinstance(answer, OSError):
            raise answer
        return answer

    (tmp_path / "kvm").touch()
    monkeypatch.setattr(machine_type, "_KVM", tmp_path / "kvm")
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="aarch64"))
    assert machine_type.for_this_host().kvm.cpu == cpu
    assert machine_type.VIRT.kvm.cpu == "host,pmu=off"


@pytest.mark.parametrize(
    ("kind", "chosen", "told"),
    [
        (machine_type.MICROVM, TCG, ["tsc_early_khz=2596138"]),
        # KVM's clock tells it, and so does a register of an Arm processor.
        (machine_type.MICROVM, KVM, []),
        (machine_type.VIRT, TCG, []),
        (machine_type.VIRT, KVM, []),
    ],
    ids=["x86 tcg", "x86 kvm", "arm tcg", "arm kvm"],
)
def test_an_emulated_x86_machine_is_told_how_fast_its_clock_runs(
    boot: Path, monkeypatch: pytest.MonkeyPatch, kind: MachineType, chosen: Accelerator, told: list[str]
) -> None:
    """Or its kernel waits for ever for a tick to measure the one thing by that could give it one."""
    monkeypatch.setattr(machine_type, "for_this_host", lambda: kind)
    monkeypatch.setattr(tsc, "measure", lambda: 2_596_138)
    (append,) = values(vm.command_for_this_host(chosen, VHOST), "-append")
    assert [word for word in append.split() if word.startswith("tsc_early_khz")] == told


def write_resources(**changes: object) -> None:
    vm.RESOURCES.write_text(json.dumps({"memory_mib": 111, "cpus": 3, "access": "vhost-user"} | changes))


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a boot leaves for the supervisor."""
    for name in ("RESOURCES", "VM_MAC", "GUEST"):
        monkeypatch.setattr(vm, name, tmp_path / name)
    write_resources()
    vm.VM_MAC.write_text(f"{VM_MAC}\n")
    vm.GUEST.mkdir()
    for name in ("web.key", "link.key"):
        (vm.GUEST / name).write_text("")
    return tmp_path


def test_the_command_line_follows_the_image_and_the_boot(boot: Path) -> None:
    expected = vm.command(
        machine_type.MICROVM, KVM, VHOST, memory_mib=111, cpus=3, access_mac=VM_MAC, handed=["link.key", "web.key"]
    )
    assert vm.command_for_this_host(KVM, VHOST) == expected


def test_what_a_boot_did_not_leave_is_an_error(boot: Path) -> None:
    vm.VM_MAC.unlink()
    with pytest.raises(OSError, match="VM_MAC"):
        vm.command_for_this_host(KVM, VHOST)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"memory_mib": "111"}, "memory_mib"), ({"access": "bridge"}, "access"), ({"disk": 1}, "disk")],
)
def test_resources_that_are_none_are_an_error_that_names_the_field(
    boot: Path, changes: dict[str, object], field: str
) -> None:
    write_resources(**changes)
    with pytest.raises(msgspec.DecodeError, match=field):
        vm.command_for_this_host(KVM, VHOST)


@pytest.mark.parametrize("with_tap", [True, False], ids=["tap", "vhost-user"])
def test_qemu_gets_its_taps_and_no_other_descriptor(
    boot: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], with_tap: bool
) -> None:
    """Started for real, with a script in QEMU's place that lists what it holds."""
    qemu = boot / "qemu"
    qemu.write_text("#!/bin/sh\nls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> /fd \\1 /p'\n")
    qemu.chmod(0o755)
    monkeypatch.setattr(machine_type, "for_this_host", lambda: in_place("tcg", qemu))
    access, link, other, printed = (
        os.open(boot / name, os.O_CREAT | os.O_RDWR) for name in ("access", "link", "other", "printed")
    )
    os.set_inheritable(other, True)

    async def start() -> int:
        return await (await vm.start(TCG, vm.TapDescriptors(access if with_tap else None, link), printed, 2)).wait()

    try:
        assert asyncio.run(start()) == 0
    finally:
        for descriptor in (access, link, other, printed):
            os.close(descriptor)
    # What it prints goes where the console goes, and nowhere else.
    assert capfd.readouterr() == ("", "")
    held = dict(line.split()[1:3] for line in (boot / "printed").read_text().splitlines() if line.startswith("fd "))
    assert held.pop("0") == "/dev/null"
    assert held[str(link)] == str(boot / "link")
    assert held.get(str(access)) == (str(boot / "access") if with_tap else None)
    assert str(boot / "other") not in held.values()


def test_the_trial_guest_says_k_after_a_thousand_exits() -> None:
    """An interpreter for the eleven instructions of the ROM, from the reset vector on (Intel SDM volume 2)."""
    rom = machine_type.MICROVM.trial_rom
    assert len(rom) == 0x10000
    ip, ecx, dx, al, zero = 0xFFF0, 0, 0, 0, False
    said = bytearray()
    for _ in range(20_000):
        code = rom[ip : ip + 6]
        if code[0] == 0xE9:  # jmp rel16
            ip = (ip + 3 + int.from_bytes(code[1:3], "little", signed=True)) & 0xFFFF
            assert ip == 0xF000
        elif code[:2] == b"\x66\xb9":  # mov ecx, imm32
            ecx, ip = int.from_bytes(code[2:6], "little"), ip + 6
            assert ecx == 2_000_000
        elif code[:2] == b"\x66\x49":  # dec ecx; a Python would take seconds for all of them
            ecx, ip = (ecx if ecx < 100 else 100) - 1, ip + 2
            zero = ecx == 0
        elif code[0] == 0x49:  # dec cx
            ecx, ip = (ecx & ~0xFFFF) | (ecx - 1 & 0xFFFF), ip + 1
            zero = ecx & 0xFFFF == 0
        elif code[0] in (0x75, 0xEB):  # jnz, jmp rel8
            jump = int.from_bytes(code[1:2], "little", signed=True) if code[0] == 0xEB or not zero else 0
            ip += 2 + jump
        elif code[0] == 0xBA:  # mov dx, imm16
            dx, ip = int.from_bytes(code[1:3], "little"), ip + 3
        elif code[0] == 0xB9:  # mov cx, imm16
            ecx, ip = (ecx & ~0xFFFF) | int.from_bytes(code[1:3], "little"), ip + 3
        elif code[0] == 0xB0:  # mov al, imm8
            al, ip = code[1], ip + 2
        elif code[0] == 0xEE:  # out dx, al
            assert dx == 0x3F8
            said.append(al)
            ip += 1
        elif code[0] == 0xF4:  # hlt
            break
        else:
            raise AssertionError(f"unknown code {code.hex()} at {ip:#x}")
    else:
        raise AssertionError("it never halts")
    assert bytes(said) == b"." * 1000 + b"K"
    # Should something wake it, it halts again.
    assert rom[ip + 1 : ip + 3] == b"\xeb\xfd"


def test_the_trial_guest_of_aarch64_says_k_after_a_thousand_exits() -> None:
    """As above, for the ten instructions of that ROM (Arm Architecture Reference Manual, C4.1)."""
    rom = machine_type.VIRT.trial_rom
    assert len(rom) == 0x10000
    pc, zero, registers = 0, False, [0] * 4
    said, set_up = bytearray(), False
    for _ in range(20_000):
        word = int.from_bytes(rom[pc : pc + 4], "little")
        target, source, middle = word & 31, word >> 5 & 31, word >> 5 & 0xFFFF
        pc += 4
        if word >> 23 in (0b110100101, 0b010100101):  # movz, of 64 and 32 bits
            registers[target] = middle << 16 * (word >> 21 & 3)
        elif word >> 23 == 0b111100101:  # movk
            registers[target] |= middle << 16 * (word >> 21 & 3)
            assert registers[target] == 2_000_000
        elif word >> 22 in (0b1111000100, 0b0111000100):  # subs, immediate
            assert (word >> 10 & 0xFFF, target) == (1, source)
            # A Python would take seconds for all of them.
            registers[target] = (100 if registers[target] > 1000 else registers[target]) - 1
            zero = registers[target] == 0
        elif word >> 24 == 0x54:  # b.ne
            assert word & 31 == 1
            pc += 0 if zero else ((word >> 5 & 0x7FFFF) - 0x80000) * 4 - 4
        elif word >> 22 == 0b1011100100:  # str, of 32 bits, to the UART
            assert registers[source] == 0x0900_0000
            if word >> 10 & 0xFFF:
                set_up = (word >> 10 & 0xFFF, registers[target]) == (0x30 // 4, 0x301)
            else:
                assert set_up
                said.append(registers[target])
        elif word == 0xD503207F:  # wfi
            break
        else:
            raise AssertionError(f"unknown code {word:08x} at {pc - 4:#x}")
    else:
        raise AssertionError("it never waits")
    assert bytes(said) == b"." * 1000 + b"K"
    # Should something wake it, it waits again.
    assert int.from_bytes(rom[pc : pc + 4], "little") == 0x17FFFFFF


@pytest.mark.parametrize("chosen", [KVM, TCG], ids=["kvm", "tcg"])
def test_on_aarch64_it_is_the_same_machine_but_for_its_type(chosen: Accelerator) -> None:
    here, there = command(chosen), command(chosen, kind=machine_type.VIRT)
    changed = [(a, b) for a, b in zip(here, there, strict=True) if a != b]
    assert [b.split(",")[0].split()[0] for _, b in changed[:2]] == ["/usr/bin/qemu-system-aarch64", "virt"]
    assert {here[here.index(a) - 1] for a, _ in changed[1:]} == {"-M", "-cpu", "-append"}
    assert "usb=off,mem-merge=off,dump-guest-core=off,memory-backend=memory" in values(there, "-M")[0]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A /dev/kvm that opens."""
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) == "/dev/kvm")


def choose(tmp_path: Path, script: str) -> Accelerator:
    qemu, run = tmp_path / "qemu", tmp_path / "run"
    qemu.write_text(f'#!/bin/sh\necho "$*" >{tmp_path}/words\n{script}\n')
    qemu.chmod(0o755)
    run.mkdir()
    try:
        return asyncio.run(accelerator.choose(in_place("kvm", qemu), run))
    finally:
        assert list(run.iterdir()) == []


SAYS_K = "printf '.%.0s' $(seq 1000); printf K; exec sleep 60"


@pytest.mark.usefixtures("node")
def test_a_trial_guest_that_says_k_means_kvm(tmp_path: Path) -> None:
    started = time.monotonic()
    chosen = choose(tmp_path, SAYS_K)
    assert chosen.name == "kvm"
    assert re.fullmatch(r"a trial guest ran under KVM in \d+ ms", chosen.reason)
    assert time.monotonic() - started < 3, "the guest that is done was waited for"
    words = (tmp_path / "words").read_text()
    assert f"-M {machine_type.MICROVM.kvm.options} -accel kvm -cpu host" in words
    assert "-nodefaults -no-user-config" in words


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "echo 'qemu: Could not access KVM kernel module' >&2; echo more >&2; exit 1",
            "Could not access KVM kernel module",
        ),
        ("printf ....; exit 0", "QEMU printed no error"),
        ("kill -9 $$", "QEMU printed no error"),
    ],
)
def test_a_trial_guest_that_dies_means_tcg_with_the_reason(tmp_path: Path, script: str, reason: str) -> None:
    chosen = choose(tmp_path, script)
    assert chosen.name == "tcg"
    assert reason in chosen.reason
    assert "more" not in chosen.reason


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("script", ["exec sleep 60", "printf .....; exec sleep 60"], ids=["silent", "crawling"])
def test_a_trial_guest_that_hangs_means_tcg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(accelerator, "DEADLINE_S", 0.3)
    started = time.monotonic()
    chosen = choose(tmp_path, script)
    assert chosen.name == "tcg"
    assert "not done after" in chosen.reason
    assert time.monotonic() - started < 3


def test_without_a_usable_node_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def access(path: str, mode: int) -> bool:
        asked.append((path, mode))
        return False

    monkeypatch.setattr(os, "access", access)
    chosen = choose(tmp_path, SAYS_K)
    assert chosen.name == "tcg"
    assert "/dev/kvm" in chosen.reason
    assert asked == [("/dev/kvm", os.R_OK | os.W_OK)]
    assert not (tmp_path / "words").exists()


def test_a_tap_is_asked_for_by_name_without_virtio_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[tuple[int, bytes]] = []
    real = os.open
    node = tmp_path / "tun"
    node.touch()
    monkeypatch.setattr(os, "open", lambda path, flags: real(node, flags))
    monkeypatch.setattr(fcntl, "ioctl", lambda _fd, request, argument: requests.append((request, argument)))
    descriptor = tap.open_tap("access0")
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
    ((request, argument),) = requests
    # struct ifreq is 40 bytes; flags: IFF_TAP 0x2, IFF_NO_PI 0x1000, no IFF_VNET_HDR (linux/if_tun.h).
    assert (request, len(argument)) == (0x400454CA, 40)
    name, flags = struct.unpack_from("16sH", argument)
    assert (name.rstrip(b"\0"), flags) == (b"access0", 0x1002)


def test_a_device_that_was_opened_elsewhere_becomes_the_tap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is where the device was opened that counts: `os.open` here would be in the wrong network namespace."""
    requests: list[int] = []
    monkeypatch.setattr(fcntl, "ioctl", lambda descriptor, *_: requests.append(descriptor))
    given = os.open(tmp_path / "tun", os.O_CREAT | os.O_RDWR)
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened here"))
    assert tap.attach(given, "link0") == given
    assert requests == [given]
    os.close(given)


def test_a_tap_that_somebody_holds_is_named_and_nothing_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    real = os.open

    def open_node(_path: str, flags: int) -> int:
        opened.append(real(tmp_path / "tun", flags | os.O_CREAT))
        return opened[-1]

    def busy(*_arguments: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "open", open_node)
    monkeypatch.setattr(fcntl, "ioctl", busy)
    with pytest.raises(OSError, match="tap link0: Device or resource busy") as caught:
        tap.open_tap("link0")
    assert caught.value.errno == errno.EBUSY
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
