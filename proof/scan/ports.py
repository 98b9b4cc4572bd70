"""Ports of known services, and the requests that those services would answer."""

from __future__ import annotations

TCP_PORTS = (
    *(0, 1, 7, 9, 11, 13, 17, 19, 20, 21, 22, 23, 25, 37, 42, 49, 53, 67, 69, 70, 79, 80, 81, 88, 102, 109, 110, 111),
    *(113, 119, 123, 135, 137, 139, 143, 161, 162, 177, 179, 199, 389, 427, 443, 445, 465, 500, 502, 512, 513, 514),
    *(515, 520, 521, 523, 540, 543, 544, 546, 547, 548, 554, 587, 593, 623, 631, 636, 646, 664, 749, 830, 853, 873),
    *(902, 989, 990, 992, 993, 995, 1080, 1099, 1194, 1433, 1434, 1521, 1701, 1720, 1723, 1812, 1813, 1883, 1900),
    *(2000, 2049, 2123, 2152, 2222, 2375, 2376, 2379, 2380, 2404, 2601, 2623, 3000, 3260, 3306, 3389, 3478, 3784),
    *(4040, 4369, 4444, 4500, 4786, 4789, 5000, 5001, 5060, 5061, 5201, 5353, 5355, 5432, 5555, 5671, 5672, 5683),
    *(5900, 5901, 5985, 5986, 6000, 6379, 6443, 6514, 6633, 6640, 6653, 6666, 6667, 7000, 7001, 7547, 8000, 8008),
    *(8080, 8081, 8086, 8088, 8443, 8883, 8888, 9000, 9090, 9100, 9200, 9443, 9999, 10000, 10050, 10250, 11211),
    *(16509, 19999, 20000, 27017, 30000, 32764, 37777, 44818, 47808, 49152, 50000, 51820, 60000, 65534, 65535),
)
"""Well-known services (IANA), what management software listens on, the backend's port, and the edges."""

UDP_PORTS = TCP_PORTS

_DNS = bytes.fromhex("534101000001000000000000") + b"\x07version\x04bind\x00" + bytes.fromhex("00100003")
_SSDP = b'M-SEARCH * HTTP/1.1\r\nHOST:239.255.255.250:1900\r\nMAN:"ssdp:discover"\r\nMX:1\r\nST:ssdp:all\r\n\r\n'
_SNMP = bytes.fromhex("302602010104067075626c6963a019020400000001020100020100300b300906052b060102010500")
_DHCP = (
    bytes.fromhex("01010600534c5950000080000000000000000000000000000000000002746573740100000000000000000000")
    + bytes(192)
    + bytes.fromhex("63825363350101ff")
)
UDP_PAYLOADS: dict[int, bytes] = {
    53: _DNS,
    67: _DHCP,
    69: b"\x00\x01probe\x00octet\x00",  # TFTP read request, RFC 1350
    111: bytes.fromhex(
        "534c5950000000000000000200 0186a0000000020000000400000000000000000000000000000000".replace(" ", "")
    ),
    123: b"\x23" + bytes(47),  # NTP version 4, client mode
    137: bytes.fromhex("534c00000001000000000000") + b"\x20CK" + b"A" * 30 + bytes.fromhex("0000210001"),
    161: _SNMP,
    500: bytes.fromhex("534c59500000000100000000000000000110020000000000000000 1c".replace(" ", "")),
    623: bytes.fromhex("0600ff07000000000000000000092018c88100388e04b5"),  # IPMI: get channel authentication
    1900: _SSDP,
    520: bytes.fromhex("0101000000000000000000000000000000000000") + b"\0\0\0\x10",  # RIP: the whole table
    3702: b"<?xml version='1.0'?><e:Envelope xmlns:e='http://www.w3.org/2003/05/soap-envelope'/>",
    5353: _DNS,
    5355: _DNS,
    5683: bytes.fromhex("4001534cbb2e77656c6c2d6b6e6f776e04636f7265"),  # CoAP GET /.well-known/core
    11211: b"\x00\x01\x00\x00\x00\x01\x00\x00stats\r\n",
}
"""Request by UDP port that a real service would answer; other ports get `GENERIC`."""
GENERIC = b"sallyport?\r\n"
QUICK_TCP = (22, 80, 443, 7000)
QUICK_UDP = (53, 67, 69, 161, 1900, 5353)
"""Ports that a quick run asks at every address, besides some random ones."""
_ALL = ("255.255.255.255", "224.0.0.1", "ff02::1")
DISCOVERY: dict[int, tuple[str, ...]] = {
    53: _ALL,
    69: _ALL,  # TFTP (RFC 1350)
    123: (*_ALL, "224.0.1.1", "ff02::101"),  # NTP (RFC 5905)
    137: _ALL,  # NetBIOS name service (RFC 1002)
    138: _ALL,
    161: _ALL,  # SNMP
    320: ("224.0.1.129", "224.0.0.107", "ff02::181", "ff02::6b"),  # PTP over UDP (IEEE 1588 annexes C and D)
    427: ("255.255.255.255", "239.255.255.253", "ff02::116"),  # SLP (RFC 2608)
    520: ("255.255.255.255", "224.0.0.9"),  # RIP (RFC 2453)
    521: ("ff02::9",),  # RIPng (RFC 2080)
    1900: (*_ALL, "239.255.255.250", "ff02::c", "ff05::c"),  # SSDP (UPnP 2.0)
    3702: (*_ALL, "239.255.255.250", "ff02::c"),  # WS-Discovery
    5246: ("255.255.255.255", "224.0.1.140", "ff02::18c"),  # CAPWAP (RFC 5415)
    5353: (*_ALL, "224.0.0.251", "ff02::fb"),  # mDNS (RFC 6762)
    5355: (*_ALL, "224.0.0.252", "ff02::1:3"),  # LLMNR (RFC 4795)
    5683: (*_ALL, "224.0.1.187", "ff02::fd"),  # CoAP (RFC 7252)
    5678: _ALL,  # MikroTik neighbour discovery
    9999: _ALL,
    10001: _ALL,  # Ubiquiti discovery
    17185: _ALL,  # VxWorks debugger
    30303: _ALL,
    44818: _ALL,  # EtherNet/IP list identity
    47808: _ALL,  # BACnet
}
"""UDP ports of discovery services, with the broadcast and multicast addresses that they listen on (IANA, RFCs)."""
