"""Opens connections to the backend that begin no TLS handshake, from inside the VM. See `proof.remote_script`.

Usage: the backend's address, its port, and how many connections.
"""

import socket
import sys

TIMEOUT = 10.0
"""Seconds for a connection, and for the backend to end it."""


def connect() -> int:
    """Send a line that is not TLS over each connection and wait until the backend ends it; return how many it ended."""
    count = int(sys.argv[3])
    for _ in range(count):
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), TIMEOUT) as connection:
            connection.sendall(b"no handshake\n")
            connection.settimeout(TIMEOUT)
            while connection.recv(4096):
                pass
    return count
