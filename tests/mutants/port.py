"""Holes in the port: on the host's side of it, in the forwarder's policy, and while the appliance boots."""

from __future__ import annotations

from pathlib import Path

from driver.command_line import PORT_MAC
from tests.mutants.mutant import ON_PORT, PORT_STAGE, Mutant
from tests.mutants.plants import AtBoot, Code, Edit, OnHost, background

SABOTAGE = Path(__file__).parent / "sabotage"
_OPEN_PORT = (
    *(ON_PORT + f"nft add chain netdev port {chain} '{{ policy accept; }}'" for chain in ("in_mgmt0", "out_mgmt0")),
    "ip -n mgmt link set mgmt0 arp on",
)
"""The rules around the port let everything pass; alone it does no harm, as nobody is at home there."""
_LENIENT = ON_PORT + (
    "sysctl -q -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.mgmt0.rp_filter=0 net.ipv4.conf.all.arp_ignore=0 "
    "net.ipv4.conf.mgmt0.arp_ignore=0 net.ipv4.conf.all.arp_filter=0"
)
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
_FORWARDER, _POLICY = "sallyport-port", "backend/forwarder/policy.py"


def _answering(when: str) -> OnHost:
    """A program of the host that echoes frames at the port ``when`` a condition on their bytes ``f`` holds."""
    return OnHost(background(_ANSWERS.format(kind=3), netns="mgmt", ready=_ECHO.format(when=when)))


PORT: tuple[Mutant, ...] = (
    # The port.
    Mutant(
        "address-on-port",
        "port",
        "The host has an address of the management network on the port.",
        OnHost((*_OPEN_PORT, "ip -n mgmt address add 192.168.42.77/24 dev mgmt0")),
        PORT_STAGE,
        ("host/arp*",),
    ),
    Mutant(
        "foreign-address-on-port",
        "port",
        "The host has an address on the port that no operator would guess.",
        OnHost((*_OPEN_PORT, "ip -n mgmt address add 10.0.2.15/24 dev mgmt0")),
        PORT_STAGE,
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
        PORT_STAGE,
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
                ON_PORT + "sysctl -q -w net.ipv4.conf.mgmt0.forwarding=1 net.ipv4.conf.mgmt0.proxy_arp=1 "
                "net.ipv4.neigh.mgmt0.proxy_delay=0",
            )
        ),
        PORT_STAGE,
        ("host/arp*",),
    ),
    Mutant(
        "no-rules-on-port",
        "port",
        "The rules that drop everything at the port are not there; nobody answers yet.",
        OnHost((ON_PORT + "nft delete table netdev port",)),
        "system",
        ("system/*",),
    ),
    Mutant(
        "rule-order-on-port",
        "port",
        "A rule that accepts everything stands before the others at the port.",
        OnHost((ON_PORT + "nft insert rule netdev port in_mgmt0 accept",)),
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
        "The forwarder's policy lets a VLAN tag in, though not two: a tag of VLAN 0 alone is none.",
        Code(_FORWARDER, (Edit(_POLICY, "        config.tags,", "        config.tags + 1,"),)),
        "drops",
        ("drops/tags-1", "drops/tags-priority-vlan"),
    ),
    Mutant(
        "forwarder-passes-ethertype",
        "port",
        "The forwarder's policy lets LLDP in.",
        Code(
            _FORWARDER,
            (
                Edit(_POLICY, "len(config.ethertypes),", "len(config.ethertypes) + 1,"),
                Edit(_POLICY, "*[0] * (MAX_ETHERTYPES", "0x88CC, *[0] * (MAX_ETHERTYPES - 1"),
            ),
        ),
        "drops",
        ("drops/ethertype-88cc",),
    ),
    Mutant(
        "odd-ethertype",
        "port",
        "A service answers on an EtherType for local experiments, under the forwarder's mark.",
        _answering("f[12:14].hex() == '88b6'"),
        PORT_STAGE,
        ("host/*ether*",),
    ),
    Mutant(
        "multicast-responder",
        "port",
        "The host answers multicast DNS.",
        _answering("f[12:14].hex() == '0800' and f[36:38].hex() == '14e9'"),
        PORT_STAGE,
        ("host/*",),
    ),
    Mutant(
        "host-chatter",
        "port",
        "The host announces itself by LLDP at the port.",
        OnHost(background(_ANSWERS.format(kind=0), netns="mgmt", ready=_CHATTER)),
        PORT_STAGE,
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
        "threads-left-on",
        "boot",
        "Two threads of the host's processor share a core, one of them the VM's.",
        AtBoot(patch=(b"nosmt=force", b"no_smt=none")),
        "system",
        ("system/settings",),
    ),
    Mutant(
        "open-for-two-seconds",
        "boot",
        "The host has an address on the port for two seconds while it boots.",
        AtBoot(SABOTAGE / "open-at-boot"),
        PORT_STAGE,
        ("early/*", "passive/*"),
    ),
)
