"""The forwarder's process as the unit starts it: its privileges before and after, restart, stop, bad input."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from scapy.utils import RawPcapNgReader

from backend.forwarder import control
from backend.forwarder.errors import ForwarderError
from backend.protocol.port import Port, Ports
from rootfs.base.version import PROJECT
from tests.unit.forwarder.rig import (
    VM_MAC,
    RawSocket,
    Row,
    frame,
    from_vm,
    inside,
    ip,
    needs_root,
    settings,
    wait_for,
)  # fmt: skip
from tests.unit.forwarder.vhost_frontend import Frontend

pytestmark = needs_root

UID = 65534
RULES = """
table netdev port {
  chain in_port { type filter hook ingress device "mgmt0" priority filter; policy drop; }
  chain out_port { type filter hook egress device "mgmt0" priority filter; policy drop; meta mark 0x706f7274 accept; }
}
"""
DRIVER = """
import asyncio, logging, sys
from pathlib import Path
from backend.forwarder import process
from backend.forwarder.errors import ForwarderError
logging.basicConfig(level=logging.INFO)
places = process.Places(Path(sys.argv[1]), Path(sys.argv[1]) / "port.json", sys.argv[2], sys.argv[2])
try:
    asyncio.run(process.serve(places))
except ForwarderError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


class Appliance:
    """A port ``mgmt0``, a tap ``access0`` whose other end is held here, and a forwarder that can be started."""

    def __init__(self, row: Row, run: Path) -> None:
        self.row = row
        self.run = run
        self.process: subprocess.Popen[str] | None = None
        self.configure()
        (run / "vm-mac").write_text(VM_MAC + "\n")
        for old, new in (("m0", "mgmt0"), ("t0", "access0")):
            ip("-n", row.appliance, "link", "set", old, "down")
            ip("-n", row.appliance, "link", "set", old, "name", new)
            ip("-n", row.appliance, "link", "set", new, "up")
        os.chown(run, UID, UID)

    def configure(self, **changes: object) -> None:
        (self.run / "port.json").write_bytes(msgspec.json.encode(settings(**changes)))

    def start(self, capabilities: str = "+net_raw,+net_admin,+bpf") -> subprocess.Popen[str]:
        group = grp.getgrgid(UID).gr_name
        command = ["ip", "netns", "exec", self.row.appliance, "setpriv", f"--reuid={UID}", f"--regid={UID}",
                   "--clear-groups", f"--inh-caps=-all,{capabilities}".rstrip(","),
                   f"--ambient-caps=-all,{capabilities}".rstrip(","),
                   sys.executable, "-c", DRIVER, str(self.run), group]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": f"{PROJECT}:{os.environ.get('PYTHONPATH', '')}"}
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    @contextlib.contextmanager
    def forwarder(self) -> Iterator[subprocess.Popen[str]]:
        child = self.start()
        try:
            self.wait_up(child)
            yield child
        finally:
            child.kill()
            child.communicate()

    def wait_up(self, child: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 15
        while True:
            with contextlib.suppress(OSError, ForwarderError):
                self.port()
                return
            assert child.poll() is None, child.communicate()[1]
            assert time.monotonic() < deadline, "the forwarder does not come up"
            time.sleep(0.02)

    def port(self) -> Port:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(self.run / "status.sock"))
            answer = b""
            while chunk := client.recv(65536):
                answer += chunk
        return msgspec.json.decode(answer, type=Ports).ports[0]

    def ask(self, request: control.Ask) -> control.Answer:
        return asyncio.run(control.ask(request, self.run))


@pytest.fixture
def appliance() -> Iterator[Appliance]:
    # Not below pytest's own directory, which is root's alone.
    with tempfile.TemporaryDirectory(prefix="sallyport-port-") as run, Row() as row:
        yield Appliance(row, Path(run))


def counted(port: Port) -> dict[str, int]:
    return {counter.name: counter.frames for counter in port.verdicts if counter.frames}


def passes(outside: RawSocket, vm: RawSocket, timeout: float = 1.0) -> bool:
    outside.send(frame())
    return vm.receive(1, timeout) == [frame()]


def status_of(child: subprocess.Popen[str]) -> list[dict[str, str]]:
    """/proc/<pid>/status of every thread; the child of `ip netns exec` is itself, by execve(2)."""
    found = []
    for task in Path(f"/proc/{child.pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found.append({key: value.strip() for key, _, value in (line.partition(":") for line in lines)})
    return found


def test_frames_pass_and_the_status_tells_it(appliance: Appliance) -> None:
    with appliance.forwarder(), appliance.row.socket("outside") as outside, appliance.row.socket("vm") as vm:
        assert passes(outside, vm)
        vm.send(from_vm(), from_vm(source="02:00:00:00:00:99"))
        assert outside.receive(2, 0.3) == [from_vm()]
        port = appliance.port()
        assert counted(port) == {"rx_passed": 1, "tx_passed": 1, "tx_spoofed": 1}
        assert (port.name, port.way, port.vm, port.faults) == ("mgmt0", "ring", "tap", [])
        assert wait_for(lambda: appliance.port().carrier)  # the kernel takes up to a second to say so
        assert port.rx_frames >= 1
        assert port.tx_frames >= 1


def test_it_has_nothing_left_but_what_it_needs(appliance: Appliance) -> None:
    with appliance.forwarder() as child:
        threads = status_of(child)
        assert len(threads) >= 2
        for thread in threads:
            for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                assert int(thread[kind], 16) == 0, (thread["Name"], kind)
            assert thread["NoNewPrivs"] == "1"
            assert thread["Seccomp"] == "2"  # a filter
            assert set(thread["Uid"].split()) == {str(UID)}
        # The control: before, it had capabilities.
        before = subprocess.run(
            ["setpriv", f"--reuid={UID}", "--clear-groups", "--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw",
             "grep", "CapEff", "/proc/self/status"], capture_output=True, text=True, check=True)  # fmt: skip
        assert int(before.stdout.split()[1], 16) != 0


BEFORE = """
from backend.forwarder import _core
import os, socket, struct, threading
tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
def do(): {call}
"""
AFTER = "_core.drop_capabilities()\n_core.confine()\n"
FILTERED = (
    ("os.listdir('/')", True),
    ("socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)", True),
    ("tcp.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)", True),
    ("tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(8))", True),
    ("os.spawnv(os.P_WAIT, '/bin/true', ['true'])", False),
    ("os.fork() or os._exit(0)", False),
    ("threading.Thread(target=int).start()", False),
    ("socket.socket(socket.AF_INET, socket.SOCK_STREAM)", False),
    ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", False),
    ("tcp.bind(('127.0.0.1', 0))", False),
    ("local.bind(chr(0) + 'sallyport-test')", False),
    ("tcp.listen()", False),
    ("tcp.connect_ex(('127.0.0.1', 9))", False),
    ("tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)", False),
    ("tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)", False),
    # SO_LINGER's number at another level.
    ("tcp.setsockopt(socket.IPPROTO_IP, socket.SO_LINGER, 1)", False),
    ("os.chmod('.', os.stat('.').st_mode)", False),
)


@pytest.mark.parametrize(("call", "stays"), FILTERED, ids=[call for call, _ in FILTERED])
def test_a_call_that_is_not_on_the_list_ends_the_process(call: str, stays: bool) -> None:
    """The control: before the filter stands the same call in the same process is survived."""
    for filtered in (False, True):
        code = BEFORE.format(call=call) + (AFTER if filtered else "") + "do()\nos._exit(0)"
        done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
        assert done.returncode == (-signal.SIGSYS if filtered and not stays else 0), done.stderr


SPY = """
from backend.forwarder import datapaths
def spying(make):
    def made(*arguments):
        datapath = make(*arguments)
        run = datapath.run
        def first():
            status = Path("/proc/thread-self/status").read_text()
            (Path(sys.argv[1]) / "at-begin").write_text(status)
            run()
        datapath.run = first
        return datapath
    return made
datapaths.open_datapath = spying(datapaths.open_datapath)
"""


@pytest.mark.parametrize("datapath", [{}, {"port": "kernel"}], ids=["ring", "kernel"])
def test_the_filter_stands_before_the_data_path_looks_at_anything(
    appliance: Appliance, monkeypatch: pytest.MonkeyPatch, datapath: dict[str, str]
) -> None:
    appliance.configure(**datapath)
    monkeypatch.setattr(sys.modules[__name__], "DRIVER", "import sys\nfrom pathlib import Path\n" + SPY + DRIVER)
    with appliance.forwarder(), appliance.row.socket("outside") as outside, appliance.row.socket("vm") as vm:
        assert passes(outside, vm)  # the control: frames do move in that thread
        begun = (appliance.run / "at-begin").read_text()
    facts = dict(line.split(":\t", 1) for line in begun.splitlines())
    assert facts["Pid"] != facts["Tgid"]  # a thread beside the first
    assert facts["Seccomp"] == "2"
    assert int(facts["CapEff"], 16) == 0


def test_a_killed_one_leaves_the_port_closed_and_the_next_one_opens_it_within_a_second(appliance: Appliance) -> None:
    subprocess.run(
        ["ip", "netns", "exec", appliance.row.appliance, "nft", "-f", "-"], input=RULES, text=True, check=True
    )
    row = appliance.row
    row.addresses()
    ip("-n", row.appliance, "addr", "add", "10.9.0.9/24", "dev", "mgmt0")  # a stack that would love to answer
    ip("-n", row.appliance, "link", "set", "mgmt0", "arp", "on")
    request = frame(destination="ff:ff:ff:ff:ff:ff", ethertype=0x0806, payload=bytes.fromhex(
        "0001080006040001" + "020000000001" + "0a090001" + "000000000000" + "0a090009"))  # fmt: skip
    with row.socket("outside") as outside, row.socket("vm") as vm:
        with appliance.forwarder() as child:
            assert passes(outside, vm)
            child.send_signal(signal.SIGKILL)
            child.wait()
            outside.send(request)
            assert not passes(outside, vm, 0.3)
            assert outside.receive(1, 0.3) == []  # neither forwarded nor answered by the stack
        began = time.monotonic()
        with appliance.forwarder():
            seconds = time.monotonic() - began
            outside.send(request)
            assert vm.receive(1) == [request]
            assert passes(outside, vm)
            assert seconds < 1.0
        assert not [f for f in outside.receive(10, 0.2) if f[12:14] == b"\x08\x06"]
        # The control: it is the rules that keep the stack silent.
        subprocess.run(["ip", "netns", "exec", row.appliance, "nft", "flush", "ruleset"], check=True)
        outside.send(request)
        assert [f for f in outside.receive(10, 0.5) if f[12:14] == b"\x08\x06"]


def test_told_to_stop_it_ends_in_order(appliance: Appliance) -> None:
    child = appliance.start()
    appliance.wait_up(child)
    child.terminate()
    assert child.communicate(timeout=5)[1] == ""
    assert child.returncode == 0


def test_under_the_filter_a_guest_comes_goes_and_comes_again(appliance: Appliance) -> None:
    appliance.configure(vm="vhost-user")
    with appliance.forwarder() as child, appliance.row.socket("outside") as outside:
        for _ in range(2):
            guest = Frontend(str(appliance.run / "vhost-user.sock")).start()
            guest.give_buffers(4)
            outside.send(frame())
            assert [data for _, data in guest.receive()] == [frame()]
            guest.transmit(from_vm())
            assert outside.receive(1) == [from_vm()]
            guest.close()
            assert wait_for(lambda: not appliance.port().vm_up)
        hostile = Frontend(str(appliance.run / "vhost-user.sock"))
        hostile.connection.raw(b"\xff" * 64)
        assert hostile.connection.closed()
        assert wait_for(lambda: appliance.port().faults)
        assert child.poll() is None
        assert appliance.port().vm == "vhost-user"


def test_the_capture_switch(appliance: Appliance) -> None:
    with appliance.forwarder(), appliance.row.socket("outside") as outside, appliance.row.socket("vm") as vm:
        assert appliance.ask(control.CaptureStop()).problem == "no capture is running"
        started = appliance.ask(control.CaptureStart(65536))
        assert started.problem == ""
        assert passes(outside, vm)
        assert appliance.ask(control.CaptureStart()).problem
        stopped = appliance.ask(control.CaptureStop())
        assert stopped.capture["frames"] == 1
        with RawPcapNgReader(stopped.file) as reader:
            assert [data for data, _ in reader] == [frame()]
        assert passes(outside, vm)


@pytest.mark.parametrize("line", [b"", b"{}\n", b"garbage\n", b'{"type":"capture.start","limit":1}\n', b"x" * 100_000])
def test_bad_words_on_the_control_socket_get_an_answer_or_nothing_and_frames_go_on(
    appliance: Appliance, line: bytes
) -> None:
    with appliance.forwarder(), appliance.row.socket("outside") as outside, appliance.row.socket("vm") as vm:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(appliance.run / "control.sock"))
            with contextlib.suppress(OSError):
                client.sendall(line)
                client.shutdown(socket.SHUT_WR)
                answer = client.recv(65536)
                assert not answer or json.loads(answer)["problem"]
        assert passes(outside, vm)


def refuse(appliance: Appliance, **start: Any) -> str:
    child = appliance.start(**start)
    try:
        errors = child.communicate(timeout=15)[1]
    finally:
        child.kill()
    assert child.returncode == 1, errors
    return errors.strip().splitlines()[-1]


def test_a_second_one_is_refused_and_the_first_goes_on(appliance: Appliance) -> None:
    with appliance.forwarder(), appliance.row.socket("outside") as outside, appliance.row.socket("vm") as vm:
        said = refuse(appliance)
        assert said.startswith("AlreadyRunningError")
        assert "lock" in said
        assert passes(outside, vm)


def test_no_permission_is_said(appliance: Appliance) -> None:
    said = refuse(appliance, capabilities="")
    assert said.startswith("NotPermittedError: mgmt0: cannot open a packet socket")
    assert "CAP_NET_RAW" in said


def test_a_missing_interface_is_said(appliance: Appliance) -> None:
    ip("-n", appliance.row.appliance, "link", "del", "access0")
    said = refuse(appliance)
    assert said.startswith("InterfaceMissingError: access0: no such network interface")


@pytest.mark.parametrize(
    ("spoil", "word"),
    [(lambda run: (run / "port.json").write_text("{}"), "port"), (lambda run: (run / "vm-mac").unlink(), "vm-mac"),
     (lambda run: (run / "vm-mac").write_text("ff:ff:ff:ff:ff:ff"), "MAC")],
)  # fmt: skip
def test_wrong_settings_are_said(appliance: Appliance, spoil: Any, word: str) -> None:
    spoil(appliance.run)
    said = refuse(appliance)
    assert said.startswith("ConfigError")
    assert word in said


def test_nobody_answers_is_said(tmp_path: Path) -> None:
    with pytest.raises(ForwarderError, match="no forwarder answers"):
        asyncio.run(control.ask(control.StatusAsk(), tmp_path))


def test_inside_is_where_sockets_are_made(appliance: Appliance) -> None:
    """Of the rig: a raw socket is in the namespace it says, or all the above would prove nothing."""
    with inside(appliance.row.vm), pytest.raises(OSError, match="No such device"):
        RawSocket("a0")
