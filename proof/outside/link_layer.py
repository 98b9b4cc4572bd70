"""Probes below IP: EtherTypes, LLC and SNAP, tags, link protocols, source MACs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scapy.layers.inet import ICMP, IP
from scapy.packet import Raw

from proof.outside.targets import UNUSED_IPV6, UNUSED_MAC, Targets
from proof.scan.frame_batch import GeneratedFrames
from proof.wire.craft import FramePath, arp_request, ether, llc, neighbour_solicit, ping, snap, tagged, udp
from proof.wire.target import BROADCAST, mac_bytes

SAMPLED_ETHERTYPES = 8192
"""Random EtherTypes of a full run, over all MACs together."""
FIRST_ETHERTYPE = 0x0600  # IEEE 802.3 clause 3.2.6: below it the field is a length
IP_TYPES = (0x0800, 0x0806, 0x86DD)
TPIDS = (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300)
"""EtherTypes of VLAN tags: IEEE 802.1Q, 802.1ad, and what was used before that."""
RESERVED_GROUPS = (
    *(f"01:80:c2:00:00:{last:02x}" for last in (*range(0x11), 0x20, 0x21, 0x2E, 0x30, 0x31)),
    *("01:00:0c:cc:cc:cc", "01:00:0c:cc:cc:cd", "01:00:0c:cd:cd:cd", "01:1b:19:00:00:00", "01:e0:52:cc:cc:cc"),
    *("01:00:5e:90:00:00", "01:80:c2:00:00:14", "01:80:c2:00:00:15", "09:00:2b:00:00:05", "cf:00:00:00:00:00"),
)
"""Groups of link protocols (IEEE 802.1Q tables 8-1 to 8-3, IEEE 1588, Cisco's, Foundry's, ISO 9542, loopback)."""
WAKE_UP = 0x0842
LIKELY = (*IP_TYPES, 0x0842, 0x7000, 0x8035, 0x8899, 0x88B5, 0x88B6, 0x88B7, 0x9000, 0xFFFF)
"""EtherTypes that a private service would use: local experiments (IEEE 802 clause 9.2.4), tests, round values."""
PAUSE = 0x8808  # IEEE 802.3 annex 31B, 802.1Qbb
EAPOL = 0x888E  # IEEE 802.1X
SLOW = 0x8809  # IEEE 802.3 clause 57: LACP, marker, OAM, ESMC
_LLDP = bytes.fromhex("0207040274657374010402076106020078 0000".replace(" ", ""))
KNOWN: tuple[tuple[int, bytes], ...] = (
    (0x88CC, _LLDP),
    *((SLOW, bytes([subtype, 1]) + bytes(108)) for subtype in (1, 2, 3, 10)),
    *((EAPOL, bytes([version, kind, 0, 0])) for version in (1, 2, 3) for kind in (1, 2)),  # start, logoff
    (EAPOL, bytes.fromhex("0200000501010005 01".replace(" ", ""))),  # EAP request: identity
    (EAPOL, bytes.fromhex("02050000")),  # MKA
    *(
        (0x8863, bytes([0x11, code]) + bytes.fromhex("0000000401010000")) for code in (0x09, 0x19, 0xA7)
    ),  # PADI, PADR, PADT
    (0x8864, bytes.fromhex("110000010006c02101010004")),  # PPPoE session 1: LCP configure request
    (0x9000, bytes.fromhex("00000200") + bytes(6) + bytes.fromhex("0100")),  # configuration test: loop back
    *((0x8902, bytes([level << 5, opcode, 0, 4, 0, 0, 0, 1, 0])) for level in (0, 7) for opcode in (1, 3, 5)),  # CFM
    *((0x88F7, bytes([kind, 2, 0, 44]) + bytes(60)) for kind in (0, 1, 2, 8, 11, 13)),  # PTP, IEEE 1588
    (0x88A2, bytes.fromhex("1000ffffff0100000000") + bytes(32)),  # ATA over Ethernet
    (0x22F0, b"\xfa" + bytes(60)),  # AVDECC
    (0x88E5, bytes(40)),  # MACsec
    *(
        (0x88F5, bytes([0]) + bytes(40)),
        (0x22EA, bytes(40)),
        (0x88E1, bytes(46)),
        (0x8912, bytes(46)),
    ),  # MVRP, SRP, HomePlug
    *(
        (0x8892, bytes.fromhex("fefe05000100000100000004ffff0000") + bytes(30)),
        (0x88A4, bytes(46)),
    ),  # PROFINET, EtherCAT
    *(
        (0x88B8, bytes(46)),
        (0x88BA, bytes(46)),
        (0x8906, bytes(46)),
        (0x8914, bytes(46)),
        (0x88D9, bytes(46)),
    ),  # GOOSE ... LLTD
    *(
        (0x8137, b"\xff\xff" + bytes(44)),
        (0x809B, bytes(46)),
        (0x6002, bytes(46)),
        (0x0BAD, bytes(46)),
    ),  # IPX, AppleTalk, DEC MOP
    # Short pauses (512 bit times each): a longer one would hold up the controls of whatever honours it.
    *((PAUSE, bytes.fromhex(text) + bytes(42)) for text in ("00010001", "00010000")),
    (PAUSE, bytes.fromhex("010100ff") + b"\x00\x01" * 8 + bytes(26)),
)
"""Link protocols and a message of each that a station would act on or answer."""
BRIDGE_MESSAGES = (
    b"\x42\x42\x03" + bytes(4) + bytes(31),  # STP configuration: the root is bridge 0 (IEEE 802.1D)
    b"\x42\x42\x03\x00\x00\x00\x80",  # STP topology change
    b"\x42\x42\x03\x00\x00\x02\x02\x3c" + bytes(30) + b"\x00",  # RSTP
    b"\x42\x42\x03\x00\x00\x03\x02\x3c" + bytes(31) + b"\x00\x40" + bytes(64),  # MSTP
    b"\x42\x42\x03\x00\x01" + bytes(8),  # GARP
    b"\xfe\xfe\x03\x82\x14\x01\x00\x01\x00\x01" + bytes(20),  # ESIS
    b"\xe0\xe0\x03\xff\xff" + bytes(28),  # raw IPX
    b"\xf0\xf0\x03\x2c\x00\xff\xef\x08" + bytes(36),  # NetBEUI
)
CISCO, PIDS = 0x00000C, (0x2000, 0x2003, 0x2004, 0x0104, 0x0111, 0x010B, 0x0102)
"""CDP, VTP, DTP, PAgP, UDLD, PVST+, DRiP."""
SNAP_TYPES = (*IP_TYPES, 0x8035, 0x809B, 0x80F3, 0x8100, 0x8137, 0x814C, 0x8847, 0x8863, 0x8864, 0x888E, 0x88CC, 0x9000)

SNAP_BODY = b"sallyport probe of a SNAP protocol"


def _echo(targets: Targets) -> bytes:
    """Return an echo request to the host's address on the link: a stack that takes such a frame for IP answers."""
    target = targets.target
    ask = (
        IP(src=target.tester_ipv4, dst=targets.ipv4[0])
        / ICMP(id=targets.rng.getrandbits(16))
        / Raw(b"sallyport ethertyp")
    )
    return bytes(ask)


def ethertypes(targets: Targets) -> Sequence[bytes]:
    """Return every EtherType to broadcast and to the port's own MAC; to the other MACs `LIKELY` and some at random.

    A card without promiscuous mode hands on no frame to another MAC, so those two matter most. Frames are computed on
    access, as there are 64,000 for each MAC. In a quick run every MAC gets `LIKELY` and a few others.
    """
    heads = [mac_bytes(mac) + mac_bytes(targets.target.tester_mac) for mac in targets.macs]
    kinds = [kind.to_bytes(2, "big") for kind in range(FIRST_ETHERTYPE, 0x10000)]
    body, count = _echo(targets), len(kinds)
    whole = (
        []
        if targets.quick
        else [index for index, mac in enumerate(targets.macs) if mac in (*targets.host_macs[:1], BROADCAST)]
    )
    likely = [start * count + kind - FIRST_ETHERTYPE for start in range(len(heads)) for kind in LIKELY]
    sampled = [*likely, *targets.rng.sample(range(len(heads) * count), 120 if targets.quick else SAMPLED_ETHERTYPES)]

    def frame(index: int) -> bytes:
        if index < len(whole) * count:
            head, kind = heads[whole[index // count]], kinds[index % count]
        else:
            at = sampled[index - len(whole) * count]
            head, kind = heads[at // count], kinds[at % count]
        return head + kind + body

    return GeneratedFrames(len(whole) * count + len(sampled), frame)


def protocols(targets: Targets) -> Iterator[bytes]:
    """Yield a message of every link protocol, to the groups of all of them and to each MAC."""
    source = targets.target.tester_mac
    for mac in (*targets.macs, *targets.some(RESERVED_GROUPS, 2, always=RESERVED_GROUPS[:1])):
        for kind, body in targets.some(KNOWN, 10, always=KNOWN[:2]):
            yield ether(source, mac, kind, body)
        for body in BRIDGE_MESSAGES:
            yield llc(source, mac, body)
        for pid in PIDS:
            yield snap(ether(source, mac, pid, b"\x02\xb4\x00\x00\x00\x01\x00\x08test"), CISCO)


def wake_on_lan(targets: Targets) -> Iterator[bytes]:
    """Yield magic packets for each host MAC, with and without password: EtherType 0x0842, UDP ports 0, 7 and 9."""
    for owner in (*targets.host_macs, targets.target.vm_mac):
        for password in (b"", bytes(6)):
            magic = b"\xff" * 6 + mac_bytes(owner) * 16 + password
            for mac in (BROADCAST, owner):
                yield ether(targets.target.tester_mac, mac, WAKE_UP, magic)
                for port in (0, 7, 9):
                    for address in ("255.255.255.255", targets.unused_ipv4):
                        yield udp(targets.v4.to(mac=mac, ip=address), 9, port, magic)


def logical_links(targets: Targets) -> Iterator[bytes]:
    """Yield LLC TEST (an echo), XID, SABME and data for every DSAP (IEEE 802.2 section 5.4)."""
    commands = (b"\xf3sallyport", b"\xbf\x81\x01\x00", b"\x7f", b"\x03sallyport")
    for dsap in targets.some(range(256), 5, always=(0x00, 0x42, 0xAA, 0xE0, 0xFF)):
        for mac in targets.macs:
            for command in commands:
                yield llc(targets.target.tester_mac, mac, bytes([dsap, 0x04]) + command)


def snaps(targets: Targets) -> Iterator[bytes]:
    """Yield ARP, ND, ping and SYN for the host in SNAP, without and with tags; then other protocol numbers."""
    for frame in targets.some(targets.basic_requests(), 20):
        yield snap(frame)
        yield snap(frame, 0x0000F8)
        yield tagged(snap(frame), 0, priority=5)
        yield tagged(snap(frame), targets.rng.randrange(1, 4095))
        yield snap(tagged(frame, 1))
    numbers = [*SNAP_TYPES, *(targets.rng.randrange(0x10000) for _ in range(4 if targets.quick else 64))]
    for mac in targets.macs:
        for number in numbers:
            for oui in (0, 0x0000F8, 0x00000C, 0x080007):
                yield snap(ether(targets.target.tester_mac, mac, number, SNAP_BODY), oui)


def tags(targets: Targets) -> Iterator[bytes]:
    """Yield frames with VLAN tags, as some drivers and stacks strip tags before any rule sees the frame."""
    vids = [0, 1, 2, 42, 100, 4094, 4095, *targets.rng.sample(range(3, 4093), 5)]
    basic_requests = targets.basic_requests()
    for vid in vids:
        for frame in targets.some(basic_requests, 8):
            yield tagged(frame, vid)
    for frame in targets.some(basic_requests, 4):
        for priority in range(1, 8):  # IEEE 802.1Q clause 6.9.3: VLAN 0 carries a priority alone
            yield tagged(frame, 0, priority=priority)
        for tpid in TPIDS[1:]:
            yield tagged(frame, vids[-1], tpid)
    for frame in targets.some(basic_requests, 10):
        yield from _stacked(targets, frame, vids[-2:])


def _stacked(targets: Targets, frame: bytes, vids: list[int]) -> Iterator[bytes]:
    """Yield ``frame`` behind two to four tags: of one kind, of VLAN 0, and mixed."""
    yield tagged(tagged(frame, vids[0]), vids[1], 0x88A8)
    yield tagged(tagged(frame, 0), 0)
    for depth in (3, 4):
        same = mixed = frame
        for _ in range(depth):
            same = tagged(same, 0)
            mixed = tagged(mixed, targets.rng.choice((0, *vids)), targets.rng.choice(TPIDS))
        yield same
        yield mixed


def tunnels(targets: Targets) -> Iterator[bytes]:
    """Yield IP for the host within MPLS (RFC 3032), PPPoE (RFC 2516), NSH, TRILL and PBB."""
    for frame in targets.some(targets.basic_requests(), 14):
        head, kind, packet = frame[:12], frame[12:14], frame[14:]
        if kind == b"\x08\x06":
            continue
        is_ipv6 = kind == b"\x86\xdd"
        for label in (2 if is_ipv6 else 0, 3, 16, 0xFFFFF):
            entry = (label << 12 | 0x1FF).to_bytes(4, "big")  # bottom of the stack, 255 hops
            for mpls in (b"\x88\x47", b"\x88\x48"):
                yield head + mpls + entry + packet
        yield head + b"\x88\x47" + (16 << 12 | 0xFF).to_bytes(4, "big") + (17 << 12 | 0x1FF).to_bytes(4, "big") + packet
        ppp = (b"\x00\x57" if is_ipv6 else b"\x00\x21") + packet
        for session in (0, 1, 0xFFFF):
            yield head + b"\x88\x64\x11\x00" + session.to_bytes(2, "big") + len(ppp).to_bytes(2, "big") + ppp
        yield (
            head
            + b"\x89\x4f"
            + bytes.fromhex("0fc60202" if is_ipv6 else "0fc60201")
            + b"\x00\x00\x01\xff"
            + bytes(16)
            + packet
        )
        yield head + b"\x22\xf3" + bytes.fromhex("003f00010002") + frame
        yield head + b"\x88\xe7" + bytes(4) + frame
        yield head + b"\x65\x58" + frame  # transparent Ethernet bridging


def source_macs(targets: Targets) -> Iterator[bytes]:
    """Yield frames with the VM's, the host's, unused and group MACs as source.

    An ARP request to the VM follows those that a bridge may learn from: with the VM's answer the bridge learns again
    which port the VM is at. The sender address in ARP and ND is an unused one, so that no neighbour table of the tester
    or the VM changes.
    """
    target = targets.target
    sources = (target.vm_mac, *targets.host_macs, "00:00:00:00:00:00", BROADCAST)
    sources += ("01:00:5e:00:00:01", "33:33:00:00:00:01", "01:80:c2:00:00:00", "01:80:c2:00:00:01", UNUSED_MAC)
    relearn = arp_request(targets.v4, ethernet_dst=BROADCAST)
    for source in sources:
        for mac in targets.macs:
            for address in (*targets.ipv4, target.vm_ipv4):
                path = FramePath(source, mac, targets.unused_ipv4, address)
                yield arp_request(path, ethernet_dst=mac)
                yield ping(path, 21, 1)
            for address in (*targets.ipv6, target.vm_ipv6):
                path = FramePath(source, mac, UNUSED_IPV6, address)
                yield neighbour_solicit(path, multicast=False)
                yield ping(path, 21, 1)
            if source in (target.vm_mac, *targets.host_macs):
                yield relearn
