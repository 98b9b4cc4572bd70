"""`invoke bench.boot`: seconds from power-on to the UI, and from the VM's death to the UI.

QEMU emulates the appliance's processor, the VM runs under nested KVM in it. The UI counts as up when it answers over
HTTPS *and* has its backend. Clocks are this machine's; the search for an answer is part of the figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from driver.appliance import Api, first_password, wait_managed
from driver.errors import MachineError
from driver.machine import QemuMachine
from driver.ports import Forward, free_port
from driver.shell import HostShell, wait_host_shell
from rootfs import build as images
from rootfs.artifact.imagefile import ImageFile, open_image
from rootfs.base.cache import Cache
from rootfs.base.package_sets import PackageSets
from rootfs.base.tools_tree import Tools
from rootfs.build import Built
from tests.bench import figures
from tests.bench.figures import Figure

BOOT_S, BACK_S = 45.0, 15.0
SETTLED_S = 12.0
"""Age of the VM before it is killed: one that dies younger than 10 s is started again after a pause (supervisor)."""
_KILL = "kill -9 $(pidof qemu-system-x86_64-microvm)"
_TIMEOUT = 180.0


def run(runs: int, output: Path, console: Console, test_built: Built, release_built: Built) -> None:
    """Measure everything and write the figures.

    Raises:
        SallyportError: an image did not come up, so there is nothing to tell.
    """
    bench = figures.begin(runs, output, console)
    tools = PackageSets(Cache(images.CACHE, Console(quiet=True))).tools
    log = output.with_suffix(".serial.log")
    boots = []
    with console.status("power-on to UI") as status:
        for number in range(1, runs + 1):
            status.update(f"power-on to UI: {number} of {runs}")
            boots.append(power_on(tools, open_image(release_built.image), log))
    with console.status("VM killed to UI back") as status:
        backs = _kills(runs, tools, test_built, log, lambda number: status.update(f"VM killed: {number} of {runs}"))
    bench.finish(
        [
            Figure("power-on to UI", "s", BOOT_S, tuple(boots)),
            Figure("VM killed to UI back", "s", BACK_S, backs),
        ]
    )


def power_on(tools: Tools, image: ImageFile, log: Path) -> float:
    """One power-on of an image as it comes from the factory: keys, password and data partition are made, too.

    Returns:
        seconds until its UI is up.
    """
    port = free_port()
    with QemuMachine(tools, image, forward=Forward(https=port), log=log) as machine:
        machine.run()
        return wait_managed(machine, Api(port))


def _kills(runs: int, tools: Tools, built: Built, log: Path, say: Callable[[int], None]) -> tuple[float, ...]:
    """One boot of the test image, whose VM is killed from the host's root shell again and again."""
    port = free_port()
    with QemuMachine(tools, open_image(built.image), forward=Forward(https=port), log=log) as machine:
        machine.run()
        wait_managed(machine, Api(port))
        password = first_password(machine)
        host = wait_host_shell(machine.shell_socket)
        try:
            backs = []
            for number in range(1, runs + 1):
                say(number)
                backs.append(kill(machine, host, port, password))
            return tuple(backs)
        finally:
            host.close()


def kill(machine: QemuMachine, host: HostShell, port: int, password: str) -> float:
    """Kill the settled VM once; returns seconds until the UI is back.

    Raises:
        MachineError: it is not back in time, or what answered was not a VM started anew.
    """
    before = settled(port, password)
    killed = time.monotonic()
    host.check(_KILL)
    wait_managed(machine, Api(port), _TIMEOUT)
    seconds = time.monotonic() - killed
    after = settled(port, password, 0.0)
    if after["starts"] != before["starts"] + 1:
        raise MachineError(
            f"the VM was killed once but started {after['starts'] - before['starts']} times: nothing was measured",
            "the serial console's log is beside the figures",
        )
    return seconds


def settled(port: int, password: str, age: float = SETTLED_S, timeout: float = _TIMEOUT) -> dict[str, Any]:
    """The VM's state, as soon as the host calls it running and it is ``age`` seconds old.

    Raises:
        MachineError: it does not get there in time.
    """
    deadline = time.monotonic() + timeout
    api, state = Api(port), "the UI does not answer"
    while time.monotonic() < deadline:
        try:
            if not api.cookie:
                api.login(password)
            machine: dict[str, Any] = api.get("/status")["machine"]
            if machine["state"] == "running" and machine["uptime_s"] >= age:
                return machine
            state = f"{machine['state']} for {machine['uptime_s']:.0f} s"
        except (OSError, MachineError, ValueError) as error:
            # It may be between two lives; its sessions end with it.
            api, state = Api(port), str(error)
        time.sleep(0.5)
    raise MachineError(f"the VM did not settle within {timeout:.0f} s: {state}")
