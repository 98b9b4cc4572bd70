"""`invoke verify`: boots an image with its management port tied to the probes, and a root shell inside where it may.

Two boots. The first has nothing on the port but the probes, so that every frame since power-on is judged. The second
boots the test image (the same host, plus root shells) on a hub with a user network, because the probes inside the VM
are driven over SSH; what crosses the port then is not evidence, except for frames that carry the probes' own marks.
"""

from __future__ import annotations

import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import scapy
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from backend import instructions as link
from rootfs.errors import SallyportError
from rootfs.image import OUT, Built, Recipe
from rootfs.profile import Profile
from rootfs.tools import Tools
from rootfs.version import version
from tests.probes.controls import wait_until_up
from tests.probes.host import expected, run_host
from tests.probes.inside import run_inside
from tests.probes.judge import PortJudge
from tests.probes.ledger import Ledger
from tests.probes.outside import run_outside
from tests.probes.report import Report
from tests.probes.result import Result, Verdict
from tests.probes.spoof import run_spoof
from tests.probes.sshwire import SshWire
from tests.probes.target import LinkTarget, Target
from tests.probes.wire import StreamWire, WireError
from tests.qemu.imagefile import ImageFile, open_image
from tests.qemu.machine import PORT_MAC, Forward, Machine, MachineError, free_port
from tests.qemu.shell import vm_shell, wait_host_shell

UP_TIMEOUT = 240.0
ALL = range(65536)


def target(image: ImageFile) -> Target:
    """What the image promises at its port."""
    interface = image.profile.management.interface
    return Target(
        vm_mac=f"{link.ACCESS_MAC_PREFIX}{PORT_MAC[8:]}",
        vm_ipv4=str(interface.ip),
        prefix=str(interface.network),
        tester_ipv4=str(interface.network[-2] if interface.ip != interface.network[-2] else interface.network[-3]),
        host_macs={"mgmt0": PORT_MAC, "link0": link.BACKEND_MAC, "br0": link.BRIDGE_MAC},
        host_ipv4=(link.BACKEND_ADDRESS,),
        vm_link_ipv4=link.FRONTEND_ADDRESS,
        tcp_open=frozenset({22, 443} | ({2022} if image.test_access else set())),
    )


class Bar:
    """Progress of the probes, on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("")
        self._name = ""

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, name: str, done: int = 0, total: int = 0) -> None:
        """Show what is being done."""
        self._progress.update(self._task, description=name, completed=done, total=total or None)
        if name != self._name and not self._console.is_terminal:
            self._console.print(f"  … {name}", highlight=False)
        self._name = name


def outside(
    tools: Tools, image: ImageFile, folder: Path, *, seed: int, bar: Bar, ports: range = ALL
) -> tuple[list[Result], float]:
    """The probes at the management port of the running image; returns results and seconds to its first answer."""
    wanted = target(image)
    ledger = Ledger(PortJudge(wanted))
    with ExitStack() as stack:
        wire = stack.enter_context(_wire(folder / "port.pcapng", ledger))
        machine = stack.enter_context(Machine(tools, image, wire=wire[1], log=folder / "serial.log"))
        wire[0].wait_connected(10)
        wire[0].mark_power_on()
        machine.run()
        bar.say("waiting for the VM to answer at the port")
        seconds = wait_until_up(wire[0], wanted, UP_TIMEOUT, seed=seed)
        results = run_outside(wire[0], wanted, seed=seed, progress=bar.say, ports=ports)
        # Only probes that the image's end did not cut short count.
        if not machine.alive():
            raise WireError("the machine ended during the probes")
        return results, seconds


def inside(
    tools: Tools, image: ImageFile, folder: Path, results: list[Result], *, seed: int, bar: Bar, ports: range = ALL
) -> None:
    """The probes from root shells in the VM and on the host of a test image; adds to ``results`` as they end."""
    wanted, port = target(image), free_port()
    with ExitStack() as stack:
        wire = stack.enter_context(_wire(folder / "inside-port.pcapng", None))
        machine = stack.enter_context(
            Machine(tools, image, wire=wire[1], forward=Forward(test_shell=port), log=folder / "inside-serial.log")
        )
        wire[0].wait_connected(10)
        machine.run()
        bar.say("waiting for the root shells of the test image")
        client = stack.enter_context(vm_shell(port, UP_TIMEOUT))
        wait_until_up(wire[0], wanted, UP_TIMEOUT, seed=seed)
        shell = wait_host_shell(machine.shell_socket)
        stack.callback(shell.close)
        bar.say("listeners on the host")
        results += run_host(shell.run, allowed=expected(image.profile.forwarder))
        with SshWire.open(client, "link", pcap=folder / "link.pcapng") as on_link:
            macs = {"mgmt0": PORT_MAC, "br0": link.BRIDGE_MAC}
            reach = LinkTarget(host_macs=macs)
            results += run_inside(
                on_link, reach, vm_mac=on_link.mac, seed=seed, progress=bar.say, tcp_ports=ports, udp_ports=ports
            )
        bar.say("false addresses out of the VM's access NIC")
        # A connection of its own: asyncssh ends the whole one with which a channel was closed in mid-sentence.
        again = stack.enter_context(vm_shell(port))
        with SshWire.open(again, "access", mute=True) as on_access:
            results += run_spoof(on_access, wire[0], wanted, seed=seed)


@contextmanager
def _wire(pcap: Path, ledger: Ledger | None) -> Iterator[tuple[StreamWire, Path]]:
    """A listening wire in a directory of its own: a unix socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="sallyport-wire-") as directory:
        path = Path(directory) / "port.sock"
        with StreamWire.listen(path, ledger=ledger, pcap=pcap) as wire:
            yield wire, path


def verify(
    tools: Tools, image: ImageFile, test_image: ImageFile | None, folder: Path, console: Console, *, seed: int
) -> Report:
    """Run the whole proof; what could not be tested is in the report as such.

    Args:
        tools: has QEMU.
        image: what is proven at its port.
        test_image: the same host with test access, for the probes from inside; None leaves them out, and says so.
        folder: where captures and logs go.
        console: for progress.
        seed: of every random choice.

    Raises:
        SallyportError: QEMU itself cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started, began = datetime.now(UTC), time.monotonic()
    facts = {"engine of this run": "QEMU, TCG with nested KVM"}
    results: list[Result] = []
    with Bar(console) as bar:
        bar.say(f"booting {image.name}")
        try:
            found, seconds = outside(tools, image, folder, seed=seed, bar=bar)
            results += found
            facts["first answer at the port"] = f"{seconds:.0f} s after power-on"
        except (WireError, MachineError) as error:
            results.append(_not_tested("outside", "the management port of the running image", str(error)))
        if test_image is None:
            results.append(_not_tested("inside", "the link from a root shell in the VM", "there is no test image"))
        else:
            facts["probed from inside"] = test_image.name
            bar.say(f"booting {test_image.name}")
            try:
                inside(tools, test_image, folder, results, seed=seed, bar=bar)
            except (WireError, MachineError) as error:
                results.append(_not_tested("inside", "the link from a root shell in the VM", str(error)))
    return Report(
        results=results,
        image=image.name,
        sha256=image.sha256(),
        seed=seed,
        started=started.isoformat(timespec="seconds"),
        duration=time.monotonic() - began,
        command=shlex.join(["invoke", "verify", *sys.argv[2:]]),
        versions={"sallyport": version(), "scapy": scapy.VERSION, "python": platform.python_version()},
        facts=facts,
    )


def _not_tested(group: str, tried: str, why: str) -> Result:
    return Result(group, "boot", tried, Verdict.NOT_TESTED, why, "none seen", 0.0)


def test_variant(image: ImageFile, build: Callable[[Profile], Built]) -> ImageFile | None:
    """The image to probe from inside: the one given if it has test access, else the same profile's test image.

    It stands for the given image only if both were built from this checkout; otherwise there is none.
    """
    if image.test_access:
        return image
    if image.path.name == f"{Recipe(image.profile).name}.img" and image.path.parent.resolve() == OUT:
        return open_image(build(image.profile).image)
    return None


def check_sums(image: ImageFile) -> None:
    """Refuse an image that is not the one its SHA256SUMS was made for.

    Raises:
        SallyportError: the digest differs.
    """
    sums = image.path.parent / "SHA256SUMS"
    if not sums.exists():
        return
    for line in sums.read_text().splitlines():
        digest, _, name = line.partition("  ")
        if name == image.path.name and digest != image.sha256():
            raise SallyportError(
                f"{image.path} is not the file that {sums} was made for", "build or copy the image again"
            )
