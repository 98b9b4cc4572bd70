"""`invoke bench.forwarder --vm`: TCP from the port to the front-end VM, in an emulated appliance per datapath.

QEMU emulates the appliances' processors, the VMs run under nested KVM in them: what counts is the ratio of figures that
were taken in turn, not their size. All appliances are up, idle but for the one that is measured. The outside end is
QEMU's user network on this machine; the receiver is a few lines of Python in the VM, which throw away what comes.
Kernel ``vhost-net`` is no datapath of the product: the image of datapath ``bridge`` gets its module and a supervisor
that asks for it when a flag stands (``vhost_net/``).
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from driver.appliance import Api, wait_managed
from driver.errors import MachineError
from driver.machine import QemuMachine
from driver.ports import Forward, free_port
from driver.shell import HostShell, vm_shell, wait_host_shell
from rootfs import build as images
from rootfs.artifact.imagefile import ImageFile, open_image
from rootfs.base.cache import Cache
from rootfs.base.package_sets import PackageSets
from rootfs.base.process import run as run_command
from rootfs.base.tools_tree import Tools
from rootfs.build import Recipe
from rootfs.spec import profile
from tests.bench.forwarder import urgent
from tests.bench.forwarder_traffic import compile_program

VHOST_USER, TAP, VHOST_NET = "vhost-user", "tap+bridge", "tap+bridge+vhost-net"
ROUNDS, TRANSFER_S, WARM_S = 3, 6, 2
OVERLAY = Path(__file__).with_name("vhost_net")
FLAG = "/run/bench-vhost-net"
_PORT = 5001
_DRAIN = f"""
import socket
listener, room = socket.create_server(("", {_PORT})), bytearray(1 << 18)
print("ready", flush=True)
while True:
    taken, _ = listener.accept()
    while taken.recv_into(room):
        pass
    taken.sendall(b"!")
    taken.close()
"""
"""The receiver's end of ``c/stream.c``; the VM has no directory that a program could be put into and run from."""


def run(runs: int, console: Console) -> dict[str, list[float]]:
    """Boot an appliance per datapath, all at once, and measure in turn; returns gigabits per second of each round.

    Args:
        runs: a third of the rounds.
        console: where is told what is done.

    Raises:
        SallyportError: an image was not built or did not come up.
    """
    ring = images.make(Recipe(profile.load("qemu", "ring"), test_access=True), console)
    bridge = profile.load("qemu", "bridge")
    modules = bridge.modules.model_copy(update={"host": (*bridge.modules.host, "vhost_net")})
    bridge = bridge.model_copy(update={"modules": modules})
    peer = images.make(Recipe(bridge, test_access=True, extra=(OVERLAY,), tag="bench"), console)
    tools = PackageSets(Cache(images.CACHE, Console(quiet=True))).tools
    # It tells every attempt to reach a VM that is not up yet.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    found: dict[str, list[float]] = {}
    with ExitStack() as stack, console.status("TCP to a VM") as status:
        stack.enter_context(urgent())
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="sallyport-bench-"))
        program = compile_program("stream", Path(directory))
        appliances = {}
        for name, built in ((VHOST_USER, ring), (TAP, peer), (VHOST_NET, peer)):
            status.update(f"TCP to a VM: {name} boots")
            appliance = stack.enter_context(_booted(tools, open_image(built.image)))
            if name == VHOST_NET:
                appliance.take_vhost_net()
            stack.enter_context(appliance.receiver())
            appliances[name] = appliance
        for appliance in appliances.values():
            appliance.transfer(program, WARM_S)
        for number in range(1, runs * ROUNDS + 1):
            for name, appliance in appliances.items():
                status.update(f"TCP to a VM, {name}: {number} of {runs * ROUNDS}")
                found.setdefault(name, []).append(appliance.transfer(program, TRANSFER_S))
    return found


class _Appliance:
    """A booted test image with the way into its VM."""

    def __init__(self, machine: QemuMachine, forward: Forward, host: HostShell) -> None:
        self._machine, self._forward, self._host = machine, forward, host
        self._way_in = free_port()
        address = machine.image.profile.management.interface.ip
        rule = f"hostfwd_add port tcp:127.0.0.1:{self._way_in}-{address}:{_PORT}"
        self._machine.qmp("human-monitor-command", **{"command-line": rule})

    @contextmanager
    def receiver(self) -> Iterator[None]:
        """A TCP receiver in the VM.

        Raises:
            MachineError: the VM did not come up, or its receiver did not.
        """
        wait_managed(self._machine, Api(self._forward.https))
        shell = vm_shell(self._forward.test_shell)
        try:
            _, output, errors = shell.exec_command(f"python3 -I -c '{_DRAIN}'", timeout=60)
            if output.readline() != "ready\n":
                raise MachineError(f"the VM's TCP receiver did not start: {errors.read().decode()[-300:]}")
            yield
        finally:
            shell.close()

    def transfer(self, program: Path, seconds: int) -> float:
        """Gigabits per second of one connection.

        Raises:
            CommandError: it failed.
        """
        words: list[str | Path] = ["timeout", "120", program, "pour", "127.0.0.1", str(self._way_in), str(seconds)]
        found: dict[str, Any] = json.loads(run_command(words))
        return float(found["bytes"] * 8 / found["ns"])

    def take_vhost_net(self) -> None:
        """Start the VM anew with the kernel's vhost-net.

        Raises:
            MachineError: the host cannot do that.
        """
        self._host.check(f"test -c /dev/vhost-net && touch {FLAG} && systemctl restart sallyport-vm", 60)
        deadline = time.monotonic() + 60
        # QEMU falls back without a word that anybody reads.
        while self._host.run("pid=$(pidof qemu-system-x86_64-microvm) && ls -l /proc/$pid/fd | grep -q vhost-net")[0]:
            if time.monotonic() > deadline:
                said = self._host.run("tr '\\0' ' ' </proc/$(pidof qemu-system-x86_64-microvm)/cmdline")[1]
                raise MachineError(f"the VM does not use vhost-net: {said[-300:]}")
            time.sleep(1)


@contextmanager
def _booted(tools: Tools, image: ImageFile) -> Iterator[_Appliance]:
    forward = Forward(https=free_port(), test_shell=free_port())
    with QemuMachine(tools, image, forward=forward) as machine:
        machine.run()
        wait_managed(machine, Api(forward.https))
        host = wait_host_shell(machine.shell_socket)
        try:
            yield _Appliance(machine, forward, host)
        finally:
            host.close()
