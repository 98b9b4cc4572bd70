"""Bridges a NIC to standard input and output, inside the VM. `ssh_wire` sends it to ``python3 -c``.

Usage: ``relay.py INTERFACE [mute]``; mute only sends: a relay must not listen to the NIC that carries its own SSH.
Needs root and nothing but the standard library. The framing is that of `wire`. The first message is no frame but a
greeting, ``SALLYPORT-RELAY 1 <mac>``, that proves that the relay runs.
"""

import os
import select
import socket
import struct
import sys

PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC, PACKET_IGNORE_OUTGOING = 1, 1, 23  # linux/if_packet.h
SOL_PACKET, ETH_P_ALL, MAX_FRAME = 263, 3, 4096 + 65536
PACKET_AUXDATA, TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID = 8, 1 << 4, 1 << 6


def write_all(data: bytes) -> None:
    """Write everything to standard output, which may be a non-blocking pipe."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(1, view) :]
        except BlockingIOError:
            select.select([], [1], [])


def untagged(frame: bytes, extra: list[tuple[int, int, bytes]]) -> bytes:
    """Put the 802.1Q tag back that AF_PACKET takes off (struct tpacket_auxdata)."""
    for _, kind, data in extra:
        if kind == PACKET_AUXDATA and len(data) >= 20:
            status, tci, tpid = struct.unpack_from("=I12xHH", data)
            if status & TP_STATUS_VLAN_VALID:
                tpid = tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
                return frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:]
    return frame


def main(interface: str, *, mute: bool) -> None:
    """Relay until standard input ends."""
    nic = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    nic.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    nic.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    nic.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    nic.bind((interface, 0 if mute else ETH_P_ALL))
    index = socket.if_nametoindex(interface)
    nic.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("IHH8s", index, PACKET_MR_PROMISC, 0, b""))
    nic.setblocking(False)
    greeting = b"SALLYPORT-RELAY 1 " + nic.getsockname()[4].hex(":").encode()
    write_all(struct.pack("!I", len(greeting)) + greeting)
    data = b""
    while True:
        ready, _, _ = select.select([nic.fileno(), 0], [], [])
        if nic.fileno() in ready:
            out = []
            for _ in range(64):
                try:
                    frame, extra, _, _ = nic.recvmsg(MAX_FRAME, 256)
                except BlockingIOError:
                    break
                frame = untagged(frame, extra)
                out.append(struct.pack("!I", len(frame)) + frame)
            write_all(b"".join(out))
        if 0 in ready:
            chunk = os.read(0, 1 << 16)
            if not chunk:
                return
            data += chunk
            while len(data) >= 4 and len(data) >= 4 + struct.unpack_from("!I", data)[0]:
                end = 4 + struct.unpack_from("!I", data)[0]
                try:
                    nic.send(data[4:end])
                except BlockingIOError:
                    select.select([], [nic], [], 1)
                    nic.send(data[4:end])
                except OSError:
                    pass  # too long for the NIC, or the NIC is down: the missing control will tell
                data = data[end:]


main(sys.argv[1], mute=sys.argv[2:] == ["mute"])
