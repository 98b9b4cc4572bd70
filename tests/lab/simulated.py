"""An appliance behind a network interface, without hardware: to try a lab's set-up, and for the tests of the probes.

    python -m tests.lab.simulated d0 --port-mac 52:54:00:00:00:01 --switch /tmp/switch [--plant]

answers on ``d0`` as a sealed appliance of profile ``x86-64-uefi`` does, a few seconds after the file ``/tmp/switch``
came to be; without that file the interface is down, as that of a device without power. ``--plant`` has the host answer.
"""

from __future__ import annotations

import argparse
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from backend.protocol import link_plan
from proof.wire.frame import parse
from proof.wire.interface import ETH_P_ALL, PACKET_AUXDATA, SOL_PACKET, with_tag
from proof.wire.target import Target, mac_bytes
from tests.unit.proof.simpeer import Stack, vm_stack

PORT_MAC = "52:54:00:00:00:01"
ADDRESS = "192.168.42.1"
"""Of both profiles in the tree."""


def vm_mac(port_mac: str) -> str:
    """The VM's address at a port."""
    return f"{link_plan.ACCESS_MAC_PREFIX}{port_mac[8:]}"


def appliance(port_mac: str = PORT_MAC) -> list[Stack]:
    """The stacks of a sealed appliance: its VM's alone."""
    return [vm_stack(Target(vm_mac=vm_mac(port_mac), vm_ipv4=ADDRESS, host_macs={}))]


def planted(port_mac: str = PORT_MAC) -> list[Stack]:
    """The stacks of an appliance whose host holds the link's address at the port, too."""
    return [*appliance(port_mac), Stack(mac_bytes(port_mac), {socket.inet_aton(link_plan.BACKEND_ADDRESS)})]


@dataclass
class Plug:
    """Stacks on an interface, served by a thread until `stop`."""

    interface: str
    stacks: list[Stack]

    def __post_init__(self) -> None:
        self._stopped = threading.Event()
        self._up_at = 0.0
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self._socket.bind((self.interface, ETH_P_ALL))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def say(self, frame: bytes) -> None:
        """Send one frame."""
        self._socket.send(frame)

    def boot(self, seconds: float) -> None:
        """Take nothing for so many seconds from now on."""
        self._up_at = time.monotonic() + seconds

    def _serve(self) -> None:
        while not self._stopped.is_set():
            if not select.select([self._socket], [], [], 0.05)[0]:
                continue
            try:
                raw, ancillary, _, address = self._socket.recvmsg(1 << 16, 64)
                if address[2] == socket.PACKET_OUTGOING or time.monotonic() < self._up_at:
                    continue
                frame = parse(with_tag(raw, ancillary), 0)
                for reply in [answer for stack in self.stacks if (answer := stack.answer(frame)) is not None]:
                    self.say(reply)
            except OSError:
                time.sleep(0.01)  # the interface is down, or its queue is full: as a cable that is out

    def stop(self) -> None:
        """End; safe to call twice."""
        self._stopped.set()
        self._thread.join(2)
        self._socket.close()


@contextmanager
def plugged(interface: str, stacks: list[Stack]) -> Iterator[Plug]:
    """Serve ``stacks`` on an interface for the time of the context."""
    plug = Plug(interface, stacks)
    try:
        yield plug
    finally:
        plug.stop()


def _link(interface: str, state: str) -> None:
    subprocess.run(["ip", "link", "set", interface, state], check=True, timeout=10)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("interface")
    parser.add_argument("--port-mac", default=PORT_MAC)
    parser.add_argument("--switch", type=Path, required=True, help="the power is on while this file exists")
    parser.add_argument("--boot", type=float, default=5.0, help="seconds from power-on to the first answer")
    parser.add_argument("--plant", action="store_true", help="plant a hole")
    options = parser.parse_args()
    stacks = (planted if options.plant else appliance)(options.port_mac)
    is_on = False
    _link(options.interface, "down")
    with plugged(options.interface, stacks) as plug:
        while True:
            if options.switch.exists() != is_on:
                is_on = not is_on
                _link(options.interface, "up" if is_on else "down")
                if is_on:
                    plug.boot(options.boot)
            time.sleep(0.05)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
