"""`invoke bench.forwarder --vm`: TCP from the management port to the front-end VM, by each way, in emulated appliances.

QEMU emulates the appliance's processor, the VM runs under nested KVM in it: what counts is the ratio of figures that
were taken in turn, not their size. The outside end is QEMU's user network on this machine; the receiver is a few lines
of Python in the VM, which throw away what comes. Kernel ``vhost-net`` is no way of the product: the image of way
``bridge`` gets its module and a supervisor that asks for it when a flag stands (``vhost_net/``).
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paramiko
from rich.console import Console

from rootfs import image as images
from rootfs import profile
from rootfs.debian.engine import Engine
from rootfs.image import Recipe
from rootfs.run import run as run_command
from rootfs.steps import Cache
from rootfs.tools import Tools
from tests.bench.forwarder import urgent
from tests.bench.forwarder_traffic import compile_program
from tests.qemu.appliance import Api, wait_managed
from tests.qemu.imagefile import ImageFile, open_image
from tests.qemu.machine import Forward, Machine, MachineError, free_port
from tests.qemu.shell import HostShell, vm_shell, wait_host_shell

VHOST_USER, TAP, VHOST_NET = "vhost-user", "tap+bridge", "tap+bridge+vhost-net"
TRANSFERS, TRANSFER_S = 3, 6
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


def run(runs: int, console: Console) -> dict[str, float]:
    """Boot an image per way and measure, in turn; returns gigabits per second, medians.

    Args:
        runs: how often each image is booted.
        console: where is told what is done.

    Raises:
        SallyportError: an image was not built or did not come up.
    """
    ring = images.make(Recipe(profile.load("qemu", "ring"), test_access=True), console)
    bridge = profile.load("qemu", "bridge")
    modules = bridge.modules.model_copy(update={"host": (*bridge.modules.host, "vhost_net")})
    bridge = bridge.model_copy(update={"modules": modules})
    peer = images.make(Recipe(bridge, test_access=True, extra=(OVERLAY,), tag="bench"), console)
    tools = Engine(Cache(images.CACHE, Console(quiet=True))).tools
    # It tells every attempt to reach a VM that is not up yet.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    found: dict[str, list[float]] = {}
    with (
        urgent(),
        tempfile.TemporaryDirectory(prefix="sallyport-bench-") as directory,
        console.status("TCP to a VM") as status,
    ):
        program = compile_program("stream", Path(directory))
        for number in range(1, runs + 1):
            status.update(f"TCP to a VM, {VHOST_USER}: {number} of {runs}")
            with _booted(tools, open_image(ring.image)) as appliance:
                found.setdefault(VHOST_USER, []).extend(appliance.transfers(program))
            status.update(f"TCP to a VM, {TAP}: {number} of {runs}")
            with _booted(tools, open_image(peer.image)) as appliance:
                found.setdefault(TAP, []).extend(appliance.transfers(program))
                appliance.take_vhost_net()
                found.setdefault(VHOST_NET, []).extend(appliance.transfers(program))
    return {name: statistics.median(values) for name, values in found.items()}


class _Appliance:
    """A booted test image with the way into its VM."""

    def __init__(self, machine: Machine, forward: Forward, host: HostShell) -> None:
        self._machine, self._forward, self._host = machine, forward, host
        self._way_in = free_port()
        address = machine.image.profile.management.interface.ip
        rule = f"hostfwd_add port tcp:127.0.0.1:{self._way_in}-{address}:{_PORT}"
        self._machine.qmp("human-monitor-command", **{"command-line": rule})

    def transfers(self, program: Path) -> list[float]:
        """Gigabits per second of each of `TRANSFERS` connections.

        Raises:
            MachineError: the VM did not come up, or its receiver did not.
            CommandError: a connection failed.
        """
        wait_managed(self._machine, Api(self._forward.https))
        shell = vm_shell(self._forward.test_shell)
        try:
            self._listen(shell)
            words: list[str | Path] = ["timeout", "120", program, "pour", "127.0.0.1", str(self._way_in)]
            found: list[dict[str, Any]] = []
            # The first one makes all warm.
            for seconds in (2, *[TRANSFER_S] * TRANSFERS):
                found.append(json.loads(run_command([*words, str(seconds)])))
            return [one["bytes"] * 8 / one["ns"] for one in found[1:]]
        finally:
            shell.close()

    @staticmethod
    def _listen(shell: paramiko.SSHClient) -> None:
        _, output, errors = shell.exec_command(f"python3 -I -c '{_DRAIN}'", timeout=60)
        if output.readline() != "ready\n":
            raise MachineError(f"the VM's TCP receiver did not start: {errors.read().decode()[-300:]}")

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
    with Machine(tools, image, forward=forward) as machine:
        machine.run()
        host = wait_host_shell(machine.shell_socket)
        try:
            yield _Appliance(machine, forward, host)
        finally:
            host.close()
