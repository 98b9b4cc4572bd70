"""Test beds: network namespaces and veth pairs that vanish with this process, however it ends.

    sender `out` ── `mgmt0` [ the datapath that is measured ] `access0` ── `far`

Each of the three parts has a network namespace of its own, held by a child that ends when our end of its pipe does. A
frame that arrives at `out` or `far` is counted by the kernel and dropped at once, by the same rule for every datapath.
"""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from rootfs.base.errors import SallyportError
from rootfs.base.process import environment, run

PORT, TAP = "mgmt0", "access0"
OUT, FAR = "out", "far"
OUT_MAC, FAR_MAC = "02:5a:12:00:00:01", "02:5a:11:00:00:02"
"""The station on the management network, and the VM."""
OUT_IP, FAR_IP = "192.0.2.1", "192.0.2.2"
"""RFC 5737."""
_SINK = """
table netdev sink {{
    chain drop_all {{ type filter hook ingress device "{0}" priority filter; policy drop; }}
}}
"""


class Space:
    """A network namespace without a name, which is gone when `close` is called or this process is."""

    def __init__(self) -> None:
        self._keeper = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        assert self._keeper.stdout is not None
        if not self._keeper.stdout.readline():
            self.close()
            raise SallyportError("cannot make a network namespace", "run it as root")
        # No frame but those of the benchmark: no duplicate address detection, no router solicitation.
        for name in ("all", "default"):
            self.run("sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")

    @property
    def pid(self) -> int:
        """Of a process in it."""
        return self._keeper.pid

    @property
    def file(self) -> Path:
        """The namespace, for setns(2)."""
        return Path(f"/proc/{self.pid}/ns/net")

    def inside(self, *words: str | Path) -> list[str]:
        """The command line that runs a command in it."""
        return ["nsenter", f"--net={self.file}", "--", *(str(word) for word in words)]

    def run(self, *words: str | Path) -> str:
        """Run a command in it.

        Raises:
            CommandError: it failed.
        """
        return run(self.inside(*words))

    def rules(self, text: str) -> None:
        """Load nftables rules.

        Raises:
            SallyportError: nft refused them.
        """
        done = subprocess.run(
            self.inside("nft", "-f", "-"), input=text, text=True, capture_output=True, env=environment(), check=False
        )
        if done.returncode != 0:
            raise SallyportError(f"nft: {done.stderr.strip()[:400]}", "the benchmark needs nftables of the kernel")

    def received(self, interface: str) -> int:
        """Frames that an interface has received (proc_net(5)).

        Raises:
            SallyportError: there is no such interface.
        """
        for line in Path(f"/proc/{self.pid}/net/dev").read_text().splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == interface:
                return int(numbers.split()[1])
        raise SallyportError(f"{interface} is gone", "somebody else took it away; try again")

    def close(self) -> None:
        """Leave it; it is gone with its interfaces when nobody is in it."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        self._keeper.stdout.close()
        self._keeper.wait()


class Bed:
    """Sender, the datapath, receiver; with ``direct`` sender and receiver are one veth pair and nothing is between.

    Args:
        direct: no datapath between: the sender's own limit.
        sink: drop what arrives at both ends; else they have addresses, for TCP.
    """

    def __init__(self, *, direct: bool = False, sink: bool = True) -> None:
        self._stack = ExitStack()
        try:
            self.sender, self.appliance, self.receiver = (self._space() for _ in range(3))
            if direct:
                self._pair(self.sender, OUT, self.receiver, FAR)
            else:
                self._pair(self.sender, OUT, self.appliance, PORT)
                self._pair(self.appliance, TAP, self.receiver, FAR)
            for space, name, mac in ((self.sender, OUT, OUT_MAC), (self.receiver, FAR, FAR_MAC)):
                space.run("ip", "link", "set", name, "address", mac)
            for space, name, ip in ((self.sender, OUT, OUT_IP), (self.receiver, FAR, FAR_IP)):
                if sink:
                    space.rules(_SINK.format(name))
                    space.run("ip", "link", "set", name, "arp", "off", "up")
                else:
                    space.run("ip", "address", "add", f"{ip}/24", "dev", name)
                    space.run("ip", "link", "set", name, "up")
            if not direct:
                for name in (PORT, TAP):
                    self.appliance.run("ip", "link", "set", name, "arp", "off", "multicast", "off", "up")
        except BaseException:
            self._stack.close()
            raise

    def _space(self) -> Space:
        space = Space()
        self._stack.callback(space.close)
        return space

    @staticmethod
    def _pair(left: Space, here: str, right: Space, there: str) -> None:
        left.run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", str(right.pid))

    def delivered(self) -> int:
        """Frames that have arrived at both ends."""
        return self.receiver.received(FAR) + self.sender.received(OUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
