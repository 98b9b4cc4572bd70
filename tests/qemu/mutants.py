"""Holes that the proof must find and name: one small change each, in all layers of the appliance.

A mutant says in which stages it is looked for and which of their results must call it a hole. The stages are those of
`invoke verify`; nothing here helps them to find it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backend import instructions as link
from rootfs.errors import SallyportError
from tests.qemu.machine import PORT_MAC
from tests.qemu.plants import AtBoot, Code, Edit, InTree, InVm, OnHost, Plant, background

SABOTAGE = Path(__file__).parent / "sabotage"


@dataclass(frozen=True)
class Mutant:
    """A hole, how it is planted, and who must find it.

    Args:
        name: for the command line and the report.
        layer: port, link, host, VM, backend, tree or boot.
        hole: what is wrong, as a sentence.
        plant: how.
        stage: the stage of the proof that looks for it.
        found: results (``group/name``, shell patterns) of which one at least must be a hole.
        ports: that the sweeps ask: a quick run would find an odd one by luck only, a full one always.
    """

    name: str
    layer: str
    hole: str
    plant: Plant
    stage: str
    found: tuple[str, ...]
    ports: range = range(65536)


_ON_PORT = "ip netns exec mgmt "
_OPEN_PORT = (
    *(_ON_PORT + f"nft add chain netdev port {chain} '{{ policy accept; }}'" for chain in ("in_mgmt0", "out_mgmt0")),
    "ip -n mgmt link set mgmt0 arp on",
)
"""The rules around the port let everything pass; alone it does no harm, as nobody is at home there."""
_LENIENT = _ON_PORT + (
    "sysctl -q -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.mgmt0.rp_filter=0 net.ipv4.conf.all.arp_ignore=0 "
    "net.ipv4.conf.mgmt0.arp_ignore=0 net.ipv4.conf.all.arp_filter=0"
)
_OPEN_LINK = (
    "nft insert rule netdev link from_vm accept",
    "nft insert rule inet host input_host accept",
    "nft insert rule inet host output_host accept",
)
_TCP = """
import socket
s = socket.socket(socket.{family}); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(({address!r}, {port})); s.listen()"""
_UDP = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(({address!r}, {port}))"""
_ANSWERS = f"""
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.setsockopt(1, 36, 0x706F7274)
s.bind(("mgmt0", {{kind}}))
own = bytes.fromhex("{PORT_MAC.replace(":", "")}")
"""
"""A packet socket that the rules let pass: with the forwarder's mark (SO_MARK; port.nft.j2 of the host's overlay)."""
_ECHO = """
while True:
    f = s.recv(9000)
    if f[6:12] != own and {when}: s.send(f[6:12] + own + f[12:])"""
_CHATTER = """
import time
while True:
    s.send(bytes.fromhex("0180c200000e") + own + bytes.fromhex("88cc0207045254005a1101040205310602007800000000"))
    time.sleep(0.3)"""
_ADVERT = """
import socket, time
from struct import pack
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("access"))"""
_ADVERTISE = """
while True:
    s.sendto(pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0)); time.sleep(0.3)"""


def _listener(address: str, port: int, *, netns: str = "", udp: bool = False, family: str = "AF_INET") -> OnHost:
    code = (_UDP if udp else _TCP).format(address=address, port=port, family=family)
    return OnHost(background(code, netns=netns))


def _vm_listener(address: str, port: int, *, udp: bool = False, family: str = "AF_INET") -> InVm:
    code = (_UDP if udp else _TCP).format(address=address, port=port, family=family)
    return InVm(background(code))


def _qemu(words: str) -> Code:
    """The VM's QEMU gets more words."""
    old = '*("-device", "virtio-rng-device"),'
    return Code("sallyport-vm", (Edit("backend/vm.py", old, f"{old} {words},"),))


def _write(path: str, text: str, mode: int = 0o644) -> Callable[[Path, Path], None]:
    def change(host: Path, vm: Path) -> None:
        file = (vm / path[3:]) if path.startswith("vm/") else (host / path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(mode)

    return change


def _edit(path: str, old: str, new: str) -> Callable[[Path, Path], None]:
    def change(host: Path, vm: Path) -> None:
        text = (host / path).read_text()
        if old not in text:
            raise ValueError(f"{path} has no {old!r}: mend the mutant")
        (host / path).unlink()  # the copy shares nothing, but a mode of 0444 would refuse
        (host / path).write_text(text.replace(old, new))

    return change


def _chmod(path: str, mode: int) -> Callable[[Path, Path], None]:
    return lambda host, vm: (host / path).chmod(mode)


_FIRST_LINE = "        # `_line` has read one byte when it asks for the rest;"
_PLAIN = """        import select
        if select.select([sock], [], [], 0.5)[0] and sock.recv(1, socket.MSG_PEEK) == b"{":
            return await asyncio.open_connection(sock=sock, limit=ins.MAX_LINE - 2)
"""
_LAX = """            import json
            known = {k: v for k, v in json.loads(line).items() if k in ("v", "seq", "do", "token")}
            request = decode_request(json.dumps(known).encode())"""
_UNITS = "etc/systemd/system"
_KEY = f"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEI{'Planted' * 6}\n-----END PRIVATE KEY-----\n"
_HASH = "$6$planted$0123456789012345678901234567890123456789012345678901234567890123456789012345678901234A"
_PORT_STAGE = "outside"
_FORWARDER, _POLICY = "sallyport-port", "backend/forwarder/policy.py"
_ODD = range(39936, 40448)

MUTANTS: tuple[Mutant, ...] = (
    # The port.
    Mutant(
        "address-on-port",
        "port",
        "The host has an address of the management network on the port.",
        OnHost((*_OPEN_PORT, "ip -n mgmt address add 192.168.42.77/24 dev mgmt0")),
        _PORT_STAGE,
        ("host/arp*",),
    ),
    Mutant(
        "foreign-address-on-port",
        "port",
        "The host has an address on the port that no operator would guess.",
        OnHost((*_OPEN_PORT, "ip -n mgmt address add 10.0.2.15/24 dev mgmt0")),
        _PORT_STAGE,
        ("host/arp*",),
    ),
    Mutant(
        "any-address-on-port",
        "port",
        "The host answers for a whole network that is routed to its loopback.",
        OnHost(
            (
                *_OPEN_PORT,
                _LENIENT,
                "ip -n mgmt link set lo up",
                "ip -n mgmt route add local 192.168.42.64/26 dev lo",
            )
        ),
        _PORT_STAGE,
        ("host/arp*",),
    ),
    Mutant(
        "proxy-arp-on-port",
        "port",
        "The host answers ARP for a network behind it.",
        OnHost(
            (
                *_OPEN_PORT,
                "ip -n mgmt tuntap add dev behind mode tap",
                "ip -n mgmt link set behind up",
                "ip -n mgmt route add 192.168.42.64/26 dev behind",
                _LENIENT,
                _ON_PORT + "sysctl -q -w net.ipv4.conf.mgmt0.forwarding=1 net.ipv4.conf.mgmt0.proxy_arp=1 "
                "net.ipv4.neigh.mgmt0.proxy_delay=0",
            )
        ),
        _PORT_STAGE,
        ("host/arp*",),
    ),
    Mutant(
        "no-rules-on-port",
        "port",
        "The rules that drop everything at the port are not there; nobody answers yet.",
        OnHost((_ON_PORT + "nft delete table netdev port",)),
        "system",
        ("system/*",),
    ),
    Mutant(
        "rule-order-on-port",
        "port",
        "A rule that accepts everything stands before the others at the port.",
        OnHost((_ON_PORT + "nft insert rule netdev port in_mgmt0 accept",)),
        "system",
        ("system/*",),
    ),
    Mutant(
        "forwarder-passes-link-addresses",
        "port",
        "The forwarder's policy forgets the link's own network: its addresses come in from outside.",
        Code(_FORWARDER, (Edit(_POLICY, "int(link.network_address),", "0xC0000200,"),)),
        "drops",
        ("drops/link-*",),
    ),
    Mutant(
        "forwarder-passes-tags",
        "port",
        "The forwarder's policy lets VLAN tags in.",
        Code(_FORWARDER, (Edit(_POLICY, "        config.tags,", "        2,"),)),
        "drops",
        ("drops/tags-*",),
    ),
    Mutant(
        "forwarder-passes-ethertype",
        "port",
        "The forwarder's policy lets LLDP in.",
        Code(
            _FORWARDER,
            (
                Edit(_POLICY, "len(config.ethertypes),", "len(config.ethertypes) + 1,"),
                Edit(_POLICY, "*[0] * (_ETHERTYPES", "0x88CC, *[0] * (_ETHERTYPES - 1"),
            ),
        ),
        "drops",
        ("drops/ethertype-88cc",),
    ),
    Mutant(
        "odd-ethertype",
        "port",
        "A service answers on an EtherType for local experiments, under the forwarder's mark.",
        OnHost(
            background(
                _ANSWERS.format(kind=3),
                netns="mgmt",
                ready=_ECHO.format(when="f[12:14].hex() == '88b6'"),
            )
        ),
        _PORT_STAGE,
        ("host/*ether*",),
    ),
    Mutant(
        "multicast-responder",
        "port",
        "The host answers multicast DNS.",
        OnHost(
            background(
                _ANSWERS.format(kind=3),
                netns="mgmt",
                ready=_ECHO.format(when="f[12:14].hex() == '0800' and f[36:38].hex() == '14e9'"),
            )
        ),
        _PORT_STAGE,
        ("host/*",),
    ),
    Mutant(
        "host-chatter",
        "port",
        "The host announces itself by LLDP at the port.",
        OnHost(background(_ANSWERS.format(kind=0), netns="mgmt", ready=_CHATTER)),
        _PORT_STAGE,
        ("passive/*",),
    ),
    Mutant(
        "ipv6-left-on",
        "boot",
        "The host's kernel has its IPv6 stack.",
        AtBoot(patch=(b"ipv6.disable=1", b"ipv6.disable=0")),
        "system",
        ("system/*",),
    ),
    Mutant(
        "open-for-two-seconds",
        "boot",
        "The host has an address on the port for two seconds while it boots.",
        AtBoot(SABOTAGE / "open-at-boot"),
        _PORT_STAGE,
        ("early/*", "passive/*"),
    ),
    # Listeners of the host.
    Mutant(
        "host-sshd",
        "host",
        "A service of the host listens on the SSH port of the port's namespace.",
        _listener("0.0.0.0", 22, netns="mgmt"),
        "listeners",
        ("listeners/*",),
    ),
    Mutant(
        "knock-service",
        "host",
        "A hidden service of the host waits for one datagram and never answers.",
        _listener("0.0.0.0", 31337, netns="mgmt", udp=True),
        "listeners",
        ("listeners/*",),
    ),
    Mutant(
        "host-service-on-link",
        "link",
        "A service of the host listens on the link, and the rules let it.",
        OnHost((*_OPEN_LINK, *_listener(link.BACKEND_ADDRESS, 8080).lines)),
        "link",
        ("link/tcp*",),
    ),
    Mutant(
        "backend-on-any-address",
        "backend",
        "The backend's port is open on every address of the host.",
        OnHost(("systemctl stop sallyport-backend", *_listener("0.0.0.0", 7000).lines)),
        "listeners",
        ("listeners/*",),
    ),
    Mutant(
        "qmp-on-tcp",
        "host",
        "The VM's QEMU takes orders over TCP.",
        _qemu('*("-qmp", "tcp:127.0.0.1:4444,server=on,wait=off")'),
        "listeners",
        ("listeners/*",),
    ),
    Mutant(
        "debug-shell-on-network",
        "host",
        "A root shell listens in the port's namespace.",
        OnHost((_ON_PORT + "busybox nc -ll -p 2323 -e /bin/sh </dev/null >/dev/null 2>&1 & sleep 1",)),
        "listeners",
        ("listeners/*",),
    ),
    Mutant(
        "debug-shell-on-serial",
        "host",
        "A root shell waits on the serial console.",
        OnHost(("busybox setsid sh -c 'exec sh </dev/ttyS0 >/dev/ttyS0 2>&1' & sleep 1",)),
        "system",
        ("system/*",),
    ),
    # The link.
    Mutant(
        "no-rules-on-link",
        "link",
        "The host's rules on the link are not there.",
        OnHost(
            (
                "nft delete table netdev link",
                "nft delete table inet host",
                "sysctl -q -w net.ipv4.icmp_echo_ignore_all=0",
            )
        ),
        "link",
        ("link/icmp", "link/tcp*"),
    ),
    Mutant(
        "rule-order-on-link",
        "link",
        "A rule that accepts everything stands before the check of the sender's address.",
        OnHost(("nft insert rule netdev link from_vm accept", "sysctl -q -w net.ipv4.conf.link0.rp_filter=0")),
        "link",
        ("link/spoofed", "link/*"),
    ),
    # The host.
    Mutant(
        "host-forwards",
        "host",
        "The host forwards packets between its networks.",
        OnHost(("sysctl -q -w net.ipv4.ip_forward=1",)),
        "system",
        ("system/*",),
    ),
    Mutant(
        "root-process",
        "host",
        "A process that nobody declared runs as root.",
        OnHost(background("import os")),
        "system",
        ("system/*",),
    ),
    Mutant(
        "writable-and-executable",
        "host",
        "A file system of the host is writable and takes programs.",
        OnHost(("mkdir -p /run/planted && mount -t tmpfs -o exec,mode=0777 planted /run/planted",)),
        "system",
        ("system/*",),
    ),
    # The backend's own checks.
    Mutant(
        "no-client-certificate",
        "backend",
        "The backend takes instructions from whoever reaches it, without a certificate.",
        Code(
            "sallyport-backend",
            (
                Edit("backend/link.py", "ssl.CERT_REQUIRED", "ssl.CERT_NONE"),
                Edit("backend/server.py", " or tls.getpeercert(binary_form=True) != self._keys.peer:", ":"),
            ),
        ),
        "instructions",
        ("instructions/tls",),
    ),
    Mutant(
        "plain-text-link",
        "backend",
        "The backend takes instructions in plain text, too.",
        Code("sallyport-backend", (Edit("backend/server.py", _FIRST_LINE, _PLAIN + _FIRST_LINE),)),
        "instructions",
        ("instructions/tls",),
    ),
    Mutant(
        "old-tls",
        "backend",
        "The link speaks older versions of TLS.",
        Code(
            "sallyport-backend",
            (
                Edit(
                    "backend/link.py",
                    "context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3",
                    "context.minimum_version = ssl.TLSVersion.TLSv1_2",
                ),
                Edit("backend/server.py", ' or tls.version() != "TLSv1.3"', ""),
            ),
        ),
        "instructions",
        ("instructions/tls",),
    ),
    Mutant(
        "replay",
        "backend",
        "An instruction may be sent a second time.",
        Code(
            "sallyport-backend",
            (Edit("backend/gate.py", "        if seq <= self._last_seq:", "        if seq < 0:"),),
        ),
        "instructions",
        ("instructions/sequence",),
    ),
    Mutant(
        "lax-schema",
        "backend",
        "Fields of an instruction that nobody declared are let pass.",
        Code("sallyport-backend", (Edit("backend/gate.py", "            request = decode_request(line)", _LAX),)),
        "instructions",
        ("instructions/malformed",),
    ),
    # The VM.
    Mutant(
        "vm-port-tcp",
        "VM",
        "The VM has one more TCP port open.",
        _vm_listener("0.0.0.0", 40123),
        _PORT_STAGE,
        ("port/tcp-ipv4*",),
        _ODD,
    ),
    Mutant(
        "vm-port-tcp-ipv6",
        "VM",
        "The VM has a TCP port open that only IPv6 reaches.",
        _vm_listener("::", 40124, family="AF_INET6"),
        _PORT_STAGE,
        ("port/tcp-ipv6*",),
        _ODD,
    ),
    Mutant(
        "vm-port-udp",
        "VM",
        "A service in the VM waits for datagrams and never answers.",
        _vm_listener("0.0.0.0", 40125, udp=True),
        _PORT_STAGE,
        ("port/udp-ipv4*",),
        _ODD,
    ),
    Mutant(
        "vm-forwards",
        "VM",
        "The VM forwards packets between the port and the link.",
        InVm(("sysctl -q -w net.ipv4.ip_forward=1",)),
        "forwarding",
        ("forwarding/*",),
    ),
    Mutant(
        "vm-answers-for-others",
        "VM",
        "The VM has one more address on the port.",
        InVm(("ip addr add 192.168.42.99/32 dev access",)),
        _PORT_STAGE,
        ("host/*", "passive/*"),
    ),
    Mutant(
        "vm-is-a-router",
        "VM",
        "The VM advertises itself as a router.",
        InVm(background(_ADVERT, ready=_ADVERTISE)),
        _PORT_STAGE,
        ("passive/*",),
    ),
    Mutant(
        "vm-extra-nic",
        "VM",
        "The VM has one more NIC.",
        _qemu('*("-netdev", "hubport,id=more,hubid=7", "-device", "virtio-net-device,netdev=more")'),
        "devices",
        ("devices/*",),
    ),
    Mutant(
        "vm-extra-disk",
        "VM",
        "The VM sees a file of the host as a disk.",
        _qemu(
            '*("-drive", "id=more,if=none,format=raw,readonly=on,file=/usr/share/sallyport/frontend/initrd", '
            '"-device", "virtio-blk-device,drive=more")'
        ),
        "devices",
        ("devices/*",),
    ),
    Mutant(
        "link-key-reuse",
        "VM",
        "The VM is handed the host's own key of the link.",
        Code(
            "sallyport-vm",
            (
                Edit(
                    "backend/vm.py",
                    "    return words\n",
                    '    return [*words, "-fw_cfg", "name=opt/sallyport/backend.key,file=/run/sallyport/guest/key"]\n',
                ),
            ),
            (
                "cp /run/sallyport/link/backend.key /run/sallyport/guest/key",
                "chgrp sallyport-vm /run/sallyport/guest/key && chmod 0440 /run/sallyport/guest/key",
            ),
        ),
        "devices",
        ("devices/*",),
    ),
    # The image's files.
    Mutant(
        "world-writable-unit",
        "tree",
        "Everybody may write a unit file.",
        InTree(_chmod(f"{_UNITS}/sallyport-backend.service", 0o666)),
        "tree",
        ("tree/*writable*",),
    ),
    Mutant(
        "setuid",
        "tree",
        "A program runs as root for whoever starts it.",
        InTree(_chmod("usr/bin/busybox", 0o4755)),
        "tree",
        ("tree/*setuid*", "tree/*"),
    ),
    Mutant(
        "default-password",
        "tree",
        "Every image has the same password for root.",
        InTree(_write("etc/shadow", f"root:{_HASH}:20000:0:99999:7:::\n", 0o600)),
        "tree",
        ("tree/*",),
    ),
    Mutant(
        "key-in-image",
        "tree",
        "The link's private key is the same in every image.",
        InTree(_write("usr/share/sallyport/link.key", _KEY)),
        "tree",
        ("tree/*",),
    ),
    Mutant(
        "key-in-vm",
        "tree",
        "A private key lies in the VM's image.",
        InTree(_write("vm/usr/share/web.key", _KEY)),
        "tree",
        ("tree/*",),
    ),
    Mutant(
        "getty",
        "tree",
        "A unit offers a login on the serial console.",
        InTree(
            _write(
                f"{_UNITS}/getty@.service",
                "[Service]\nExecStart=/usr/sbin/agetty %I\nStandardInput=tty\nTTYPath=/dev/%I\n",
            )
        ),
        "tree",
        ("tree/*",),
    ),
    Mutant(
        "sandbox-off",
        "tree",
        "The backend's unit lost its sandbox.",
        InTree(_edit(f"{_UNITS}/sallyport-backend.service", "ProtectSystem=strict", "ProtectSystem=no")),
        "tree",
        ("tree/*",),
    ),
)


def chosen(names: str) -> tuple[Mutant, ...]:
    """The mutants of a list like ``getty,replay``; all for an empty one.

    Raises:
        SallyportError: there is none of that name.
    """
    if not names:
        return MUTANTS
    by_name = {mutant.name: mutant for mutant in MUTANTS}
    wanted = [name.strip() for name in names.split(",")]
    if missing := [name for name in wanted if name not in by_name]:
        raise SallyportError(f"no mutant {', '.join(missing)}; there are {', '.join(by_name)}")
    return tuple(by_name[name] for name in wanted)
