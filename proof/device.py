"""`invoke verify --interface`: the outside probes at a real device behind a network interface of this machine.

Before anything but ARP is sent, the device must be known to be the intended one: the MAC that answers for the profile's
management address must be the one that the user confirms, and no other station may send frames on the wire. What needs
a root shell on the device (the link from inside, the host's own sockets) is out of scope, and the report says so.
"""

from __future__ import annotations

import platform
import random
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import scapy
from rich.console import Console

from backend.protocol import link_plan
from proof.identity import (
    ANSWER_TIMEOUT,
    ASK_EVERY,
    Ask,
    Identity,
    confirm,
    identify,
    listen,
    normal_mac,
    tester_address,
)
from proof.outside.early import probing_from_power_on
from proof.outside.passive import passive
from proof.outside.run import run_outside
from proof.progress import Progress
from proof.report.report import Report
from proof.result import Result, Verdict
from proof.scan.controls import arp_control, ipv4_path, wait_until_up
from proof.wire.frame_log import FrameLog
from proof.wire.interface import CouldNotTest, Facts, PacketWire, preflight
from proof.wire.judge import PortJudge
from proof.wire.target import Target
from proof.wire.wire import WireError
from rootfs.base.version import version
from rootfs.spec.profile import Profile

if TYPE_CHECKING:
    from proof.stages import Effort

SCOPE = "outside only: the link and the host itself were not tested, there is no root shell on a shipped device"
ALL = range(65536)
UP_TIMEOUT = 300.0
"""Seconds from power-on to the VM's answer: firmware of real machines may test its memory first."""
QUIET = 5.0
"""Seconds without any frame, while ARP requests are sent, after which a device counts as switched off."""
OFF_TIMEOUT = 300.0
"""Seconds in which somebody has to switch the device off."""


class Power(Protocol):
    """Switches the device off and on; labgrid's power drivers have these methods."""

    def off(self) -> None:
        """Switch it off, or ask somebody to."""

    def on(self) -> None:
        """Switch it on, or ask somebody to."""


class ManualPower:
    """Asks the user to switch the device. Returns at once; the wire shows when it has happened."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def off(self) -> None:
        """Ask the user to switch it off."""
        self._console.print(f"[bold]Switch the appliance OFF now[/] (within {OFF_TIMEOUT:.0f} s).")

    def on(self) -> None:
        """Ask the user to switch it on."""
        self._console.print(f"[bold]Switch the appliance ON now[/] (it has {UP_TIMEOUT:.0f} s to come up).")


def target(profile: Profile, identity: Identity) -> Target:
    """Return the addresses and ports that the device of this profile declares."""
    interface = profile.management.interface
    macs = {"link0": link_plan.BACKEND_MAC, "br0": link_plan.BRIDGE_MAC}
    return Target(
        vm_mac=identity.vm_mac,
        vm_ipv4=str(interface.ip),
        prefix=str(interface.network),
        tester_ipv4=tester_address(interface),
        host_macs={"mgmt0": identity.port_mac, **macs} if identity.port_mac else macs,
        host_ipv4=(link_plan.BACKEND_ADDRESS,),
        vm_link_ipv4=link_plan.FRONTEND_ADDRESS,
    )


def switch_off(wire: PacketWire, wanted: Target, power: Power) -> str:
    """Have the device switched off and wait until it is silent; return what was seen, for the report.

    When it is silent the wire gets a new frame log, so that every frame in it is one since power-on, which must follow.

    Raises:
        CouldNotTest: it still sends frames after `OFF_TIMEOUT`.
        WireError: the interface fails.
    """
    probe = arp_control(ipv4_path(wanted))
    power.off()
    began = quiet_since = time.monotonic()
    ask_at, unplugged = 0.0, False
    with wire.tap() as tap:
        while (now := time.monotonic()) - quiet_since < QUIET:
            if now - began > OFF_TIMEOUT:
                raise CouldNotTest(
                    f"the device still sends frames {OFF_TIMEOUT:.0f} s after it should have been switched off",
                    "cut its power; a standby that answers is not off",
                )
            if now >= ask_at and wire.writable():
                with suppress(WireError):  # the carrier may go at this moment; a dead wire shows below
                    wire.send(probe.frame)
                ask_at = now + ASK_EVERY
            unplugged = unplugged or not wire.carrier()
            if tap.take(0.1):
                quiet_since = time.monotonic()
    wire.frame_log = FrameLog(PortJudge(wanted))
    wire.mark_power_on()
    return f"switched off, {'carrier lost' if unplugged else 'carrier kept'}, silent for {QUIET:.0f} s, then on"


def since_began(wire: PacketWire, frame_log: FrameLog, took: float) -> Result:
    """Return the result of every frame since the probes began, which is later than power-on."""
    tried = "every frame that left the port since the probes began is the VM's and speaks for it alone"
    control, evidence = f"{frame_log.accepted} frames of the VM seen", f"{frame_log.frames} frames judged"
    offences, gaps = frame_log.offences(), wire.gaps()
    if offences:
        verdict, evidence = Verdict.HOLE, f"{evidence}; {offences.reasons()}"
    elif gaps or not frame_log.accepted:
        verdict, evidence = Verdict.NOT_TESTED, f"{evidence}; {gaps or 'the VM was not heard'}"
    else:
        verdict, evidence = Verdict.SEALED, f"{evidence}, none by anyone else"
    return Result("passive", "frames-since-probes-began", tried, verdict, evidence, control, took, offences.summaries())


def since_power_on(wire: PacketWire, wanted: Target) -> Result:
    """Return the result of every frame since power-on; "not-tested" if that was not observed or a frame was lost."""
    result = passive(wire, wanted)
    if wire.powered_on_at is None:
        why = "power-on was not observed; `--power-cycle` waits for it"
        return replace(result, verdict=Verdict.NOT_TESTED, evidence=why, frames=())
    if result.verdict is Verdict.SEALED and (gaps := wire.gaps()):
        return replace(result, verdict=Verdict.NOT_TESTED, evidence=f"{result.evidence}, but {gaps}")
    return result


def _not_tested(group: str, name: str, tried: str, why: str) -> Result:
    return Result(group, name, tried, Verdict.NOT_TESTED, why, "none seen", 0.0)


@dataclass
class Device:
    """A confirmed device, and the wire to it. ``facts`` are for the report."""

    profile: Profile
    identity: Identity
    wire: PacketWire
    frame_log: FrameLog
    """The log of every frame since the probes began."""
    facts: dict[str, str]

    @property
    def target(self) -> Target:
        """What the device declares."""
        return target(self.profile, self.identity)


@contextmanager
def reach(
    profile: Profile,
    interface: str,
    folder: Path,
    console: Console,
    *,
    mac: str,
    port_mac: str,
    ask: Ask | None,
    boot: float = 0.0,
) -> Iterator[Device]:
    """Check the interface, identify the device behind it, and have it confirmed; see `prove` for the arguments.

    ``boot`` is how many seconds a device that was just switched on may need.

    Raises:
        CouldNotTest: the interface or the device is not the right one, or does not answer.
        SallyportError: an address is malformed or cannot be the device's.
    """
    mac, port_mac = normal_mac(mac, "--mac"), normal_mac(port_mac, "--port-mac")
    facts = preflight(interface, boot)
    for warning in facts.warnings:
        console.print(f"[yellow]warning:[/] {warning}", highlight=False)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with PacketWire(facts.name, pcap=folder / "port.pcapng") as wire, ExitStack() as stack:
            tap = stack.enter_context(wire.tap())
            heard_from, heard = listen(wire, tap, profile.management.interface, max(boot, ANSWER_TIMEOUT))
            identity = identify(heard_from, profile.management.interface, mac=mac, port_mac=port_mac)
            if not mac:
                confirm(identity, ask)
            frame_log = FrameLog(PortJudge(target(profile, identity)))
            wire.frame_log = frame_log
            # Frames from before the VM's MAC was known. A frame that arrives right now may count twice; none is missed.
            for frame in (*heard, *tap.take()):
                frame_log.add(frame)
            stack.close()  # nobody empties this tap any more
            yield Device(profile, identity, wire, frame_log, _facts(profile, facts, identity))
    except WireError as error:
        raise CouldNotTest(f"{facts.name}: {error}", "check the cable and the interface, then run it again") from error


def _wait(device: Device, say: Progress, *, seed: int) -> float:
    say("waiting for the VM to answer at the port", 0, 0)
    return wait_until_up(device.wire, device.target, UP_TIMEOUT, seed=seed)


def _switch_on(device: Device, power: Power, say: Progress, *, seed: int) -> Result:
    """Have the device switched on while probes are sent, until its VM answers; return the result of these probes."""
    with probing_from_power_on(device.wire, device.target, random.Random(seed)) as early:
        power.on()
        device.facts["first answer at the port"] = f"{_wait(device, say, seed=seed):.0f} s after power-on was asked for"
    result = early.result()
    # Unlike QEMU's, a real card drops what arrives before it has a driver.
    return replace(result, control=f"{result.control}, as far as the card was in use")


def attack(
    device: Device, say: Progress, *, seed: int, quick: bool = False, power: Power | None = None, ports: range = ALL
) -> Report:
    """Run all probes from outside and return the report. See `prove` for the arguments.

    ``ports`` are those of the sweeps; with ``quick`` long lists are sampled.

    Raises:
        CouldNotTest: the device does not fall silent when it is switched off.
    """
    started, began = datetime.now(UTC), time.monotonic()
    wire, wanted, said = device.wire, device.target, device.facts
    results: list[Result] = []
    before = 0.0
    try:
        if power is not None:
            say("waiting for the device to be switched off and on", 0, 0)
            said["power-on"] = switch_off(wire, wanted, power)
            before = time.monotonic() - began
            results.append(_switch_on(device, power, say, seed=seed))
        else:
            _wait(device, say, seed=seed)
        found = run_outside(wire, wanted, seed=seed, progress=say, ports=ports, quick=quick)
        results += [result for result in found if result.group != "passive"]
    except WireError as error:
        results.append(_not_tested("controls", "device", "the management port of the device", str(error)))
    if "mgmt0" not in wanted.host_macs:
        why = "it is not known; name it with --port-mac"
        results.append(_not_tested("host", "burned-in-address", "frames to the port's own MAC address", why))
    results.append(since_began(wire, device.frame_log, before or time.monotonic() - began))
    results.append(since_power_on(wire, wanted))
    return Report(
        results=results,
        image=f"{device.profile.name} at {device.identity.vm_mac}",
        sha256="",
        seed=seed,
        started=started.isoformat(timespec="seconds"),
        duration=time.monotonic() - began,
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        versions={"sallyport": version(), "scapy": scapy.VERSION, "python": platform.python_version()},
        facts=said,
    )


def prove(
    profile: Profile,
    interface: str,
    effort: Effort,
    *,
    folder: Path,
    console: Console,
    mac: str = "",
    port_mac: str = "",
    power: Power | None = None,
    ask: Ask | None = None,
) -> Report:
    """Run the probes from outside at the device behind ``interface`` and return the report.

    Args:
        profile: the device's.
        interface: of this machine; its cable leads to the device's management port and nowhere else.
        effort: how much is tried.
        folder: where the capture goes.
        console: for progress.
        mac: the VM's address at the port, as the user confirms it; without it the user is asked.
        port_mac: burned-in address of the device's management port; probes of the host itself go there.
        power: switches the device, so that power-on is observed; without it that part is "not-tested".
        ask: puts the question for the address; None means that there is nobody to ask.

    Raises:
        CouldNotTest: the interface or the device is not the right one, or does not answer.
        SallyportError: an address is malformed or cannot be the device's.
    """
    from proof.verify import Bar  # a lab calls `reach` and `attack`, and needs none of QEMU's modules

    with (
        reach(profile, interface, folder, console, mac=mac, port_mac=port_mac, ask=ask) as device,
        Bar(console) as bar,
    ):
        return attack(device, bar.say, seed=effort.seed, quick=effort.quick, power=power, ports=effort.ports)


def _facts(profile: Profile, facts: Facts, identity: Identity) -> dict[str, str]:
    said = {
        "scope": SCOPE,
        "device": f"profile {profile.name}, VM {identity.vm_mac}, port {identity.port_mac or 'not known'}",
        "probed through": f"{facts.name} ({facts.mac}, MTU {facts.mtu})",
        "image": "not known: a running device does not tell the hash of its image",
        "power-on": "not observed",
    }
    return said | {f"warning {n}": text for n, text in enumerate(facts.warnings, 1)}
