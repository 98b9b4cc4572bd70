"""`invoke verify`: reads an image, boots it with its management port tied to the probes, then its test image.

Two boots. The first has nothing on the port but the probes, so that every frame since power-on is judged. The second
is the test image (the same host, plus root shells), which a snapshot takes back before each group of probes (`rig`).
"""

from __future__ import annotations

import hashlib
import platform
import random
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import scapy
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from backend.protocol import link_plan
from driver.command_line import PORT_MAC
from driver.errors import MachineError
from driver.machine import QemuMachine
from driver.steps import step
from proof.image import trees
from proof.image.flash import GROUP
from proof.outside.early import probing_from_power_on
from proof.outside.run import run_outside
from proof.progress import Progress as Say
from proof.report.report import Report, captures_of
from proof.result import Result, Verdict
from proof.rig import UP_TIMEOUT, Rig, listening
from proof.scan.controls import wait_until_up
from proof.stages import STAGES, Effort, run_stages
from proof.wire.frame_log import FrameLog
from proof.wire.judge import PortJudge
from proof.wire.target import Target
from proof.wire.wire import WireError
from rootfs.artifact.imagefile import ImageFile, open_image
from rootfs.base import untrusted
from rootfs.base.errors import SallyportError
from rootfs.base.package_sets import PackageSets
from rootfs.base.tools_tree import Tools
from rootfs.base.version import version
from rootfs.build import OUT, Built, Recipe
from rootfs.spec.profile import Profile

_MAX_SUMS = 1 << 20
INSIDE = tuple(name for name in STAGES if name != "outside")


def target(image: ImageFile) -> Target:
    """What the image promises at its port."""
    interface = image.profile.management.interface
    return Target(
        vm_mac=f"{link_plan.ACCESS_MAC_PREFIX}{PORT_MAC[8:]}",
        vm_ipv4=str(interface.ip),
        prefix=str(interface.network),
        tester_ipv4=str(interface.network[-2] if interface.ip != interface.network[-2] else interface.network[-3]),
        host_macs={"mgmt0": PORT_MAC, "link0": link_plan.BACKEND_MAC, "br0": link_plan.BRIDGE_MAC},
        host_ipv4=(link_plan.BACKEND_ADDRESS,),
        vm_link_ipv4=link_plan.FRONTEND_ADDRESS,
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

    def say(self, name: str, done: int, total: int) -> None:
        """Show what is being done."""
        self._progress.update(self._task, description=name, completed=done, total=total or None)
        if name != self._name and not self._console.is_terminal:
            self._console.print(f"  … {name}", highlight=False)
        self._name = name


def outside(tools: Tools, image: ImageFile, folder: Path, effort: Effort, *, say: Say) -> tuple[list[Result], float]:
    """The probes at the management port of the image, from power-on; returns results and seconds to its first answer.

    Raises:
        WireError, MachineError: the image did not come up, or did not live to the end of the probes.
    """
    wanted = target(image)
    frame_log = FrameLog(PortJudge(wanted))
    with ExitStack() as stack:
        wire, path = stack.enter_context(listening(folder / "port.pcapng", frame_log))
        machine = stack.enter_context(QemuMachine(tools, image, wire=path, log=folder / "serial.log"))
        wire.wait_connected(10)
        wire.mark_power_on()
        with probing_from_power_on(wire, wanted, random.Random(effort.seed)) as early:
            machine.run()
            say("waiting for the VM to answer at the port", 0, 0)
            with step("boot", image.name):
                seconds = wait_until_up(wire, wanted, UP_TIMEOUT, seed=effort.seed)
        results = [early.result()]
        results += run_outside(wire, wanted, seed=effort.seed, progress=say, ports=effort.ports, quick=effort.quick)
        # Only probes that the image's end did not cut short count.
        if not machine.alive():
            raise WireError("the machine ended during the probes")
        return results, seconds


def inside(
    tools: Tools,
    image: ImageFile,
    folder: Path,
    effort: Effort,
    *,
    say: Say,
    stages: Iterable[str] = INSIDE,
) -> tuple[list[Result], dict[str, str]]:
    """The probes from root shells in the VM and on the host of a test image; returns results and facts.

    Raises:
        WireError, MachineError: the image did not come up.
    """
    with Rig(tools, image, target(image), folder, say=lambda text: say(text, 0, 0)) as rig:
        return run_stages(rig, stages, effort, say), {
            "root shells of the test image": f"{rig.seconds:.0f} s after power-on"
        }


def digests(image: ImageFile) -> dict[str, str]:
    """SHA-256 of an image and of the manifest beside it, by name; empty for one that cannot be read."""
    found = {}
    for path in (image.path, image.path.with_suffix(".manifest.json")):
        try:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            found[path.name] = ""
    return found


def unchanged(before: Mapping[str, str], after: Mapping[str, str]) -> Result:
    """Whether what was hashed before the first probe is what is there after the last one.

    A statement about a hash is one about the bytes that were probed, or about nothing.
    """
    other = [name for name in before if not before[name] or before[name] != after.get(name)]
    verdict = Verdict.NOT_TESTED if other or not before else Verdict.SEALED
    said = f"changed during the run: {', '.join(other)}: nothing is known of either state" if other else "the same"
    control = "; ".join(f"{name}: {before[name][:16]}… and {after.get(name, '')[:16]}…" for name in before)
    tried = "the image and its manifest, hashed before the first probe and after the last one"
    return Result(GROUP, "unchanged", tried, verdict, said, control, 0.0)


def verify(
    sets: PackageSets, image: ImageFile, test_image: ImageFile | None, folder: Path, console: Console, effort: Effort
) -> Report:
    """Run the whole proof; what could not be tested is in the report as such.

    Args:
        sets: has the tools tree, and QEMU, for the image's architecture.
        image: what is proven: its port while it runs, and its files.
        test_image: the same host with test access, for the probes from inside; None leaves them out, and says so.
        folder: where captures and logs go.
        console: for progress.
        effort: how much is tried.

    Raises:
        SallyportError: QEMU itself cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started, began = datetime.now(UTC), time.monotonic()
    facts = {"engine of this run": "QEMU, TCG with nested KVM", "effort": "quick" if effort.quick else "full"}
    results: list[Result] = []
    before = digests(image)
    facts["as declared by"] = "; ".join(f"{name}, sha256 {digest}" for name, digest in [*before.items()][1:])

    def part(name: str, tried: str, work: Callable[[], list[Result]]) -> None:
        try:
            results.extend(work())
        except Exception as error:  # what a hostile image can bring about is no reason for not having a report
            said = str(error) if isinstance(error, WireError | MachineError) else f"{type(error).__name__}: {error}"
            results.append(Result(name, "boot", tried, Verdict.NOT_TESTED, said, "none seen", 0.0))

    with Bar(console) as bar:

        def at_port() -> list[Result]:
            bar.say(f"booting {image.name}", 0, 0)
            found, seconds = outside(sets.emulator, image, folder, effort, say=bar.say)
            facts["first answer at the port"] = f"{seconds:.0f} s after power-on"
            return found

        def from_inside() -> list[Result]:
            if test_image is None:
                raise MachineError("there is no test image")
            facts["probed from inside"] = f"{test_image.name}, sha256 {test_image.sha256()}"
            found, more = inside(sets.emulator, test_image, folder, effort, say=bar.say)
            facts.update(more)
            return found

        part("tree", "the files of the image", lambda: trees.prove(sets, image, say=bar.say))
        part("outside", "the management port of the running image", at_port)
        part("inside", "the link from a root shell in the VM", from_inside)
    results.append(unchanged(before, digests(image)))
    return Report(
        results=results,
        image=image.path.name,
        sha256=before[image.path.name],
        seed=effort.seed,
        started=started.isoformat(timespec="seconds"),
        duration=time.monotonic() - began,
        command=shlex.join(["invoke", "verify", *sys.argv[2:]]),
        versions={"sallyport": version(), "scapy": scapy.VERSION, "python": platform.python_version()},
        facts=facts,
        captures=captures_of(folder, started.isoformat(timespec="seconds")),
    )


def test_variant(image: ImageFile, build: Callable[[Profile], Built]) -> ImageFile | None:
    """The image to probe from inside: the one given if it has test access, else the same profile's test image.

    It stands for the given image only if both were built from this checkout; otherwise there is none.
    """
    if image.test_access:
        return image
    tag = "" if image.engine == "debian" else image.engine
    if image.path.name == f"{Recipe(image.profile, tag=tag).name}.img" and image.path.parent.resolve() == OUT:
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
    for line in untrusted.read(sums, _MAX_SUMS).decode(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if name == image.path.name and digest != image.sha256():
            raise SallyportError(
                f"{image.path} is not the file that {sums} was made for", "build or copy the image again"
            )
