"""Paths and limits of the daemon. Production uses the defaults.

There is no configuration file and no command line, so that nothing can be misconfigured. Tests make their own
`Settings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.daemon.throttle import PASSWORD_RATES, Rates
from backend.protocol import link_plan


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Paths and limits. Times are in seconds."""

    address: str = link_plan.BACKEND_ADDRESS
    port: int = link_plan.BACKEND_PORT
    device: str = "link0"
    """Connections are accepted on this interface only (SO_BINDTODEVICE); empty: on any, for tests."""

    peer: str = link_plan.FRONTEND_ADDRESS
    """Connections from other addresses are closed before the TLS handshake."""

    link: Path = Path("/run/sallyport/link")
    """Folder with `backend.key`, `backend.crt` and `frontend.crt`, made at every boot."""
    identity: Path = Path("/run/sallyport/link/identity.json")
    """`backend.daemon.public_identity.PublicIdentity`: certificate and SSH fingerprint of the front-end."""
    data: Path = Path("/data/sallyport")
    """Folder of everything that survives a reboot: `credential.json`, `hostname`, and the folder `audit`."""
    request: Path = Path("/run/sallyport/request")
    """Folder in which a file starts a root unit: `hostname`, `reboot`."""
    vm_state: Path = Path("/run/sallyport/vm/state.json")
    heartbeat: Path = Path("/run/sallyport/vm/heartbeat.sock")
    port_status: Path = Path("/run/sallyport/port/status.sock")
    storage: Path = Path("/run/sallyport/storage.json")
    block_devices: Path = Path("/sys/class/block")
    ext4: Path = Path("/sys/fs/ext4")
    image: Path = Path("/etc/sallyport/image.json")
    cmdline: Path = Path("/proc/cmdline")

    connections: int = 8
    """Open connections, including those in their TLS handshake."""
    connect_rate: float = 10.0
    connect_burst: float = 32.0
    """New connections per second; more wait in the kernel's queue (`backend.daemon.link.BACKLOG`)."""
    handshake_s: float = 5.0
    line_s: float = 5.0
    """Time from the first byte of a line to its newline."""
    idle_s: float = 60.0
    """Time between two lines."""
    write_s: float = 5.0
    pause_s: float = 0.1
    """Pause before a refused request is answered, which limits the rate of bad messages."""
    request_rate: float = 50.0
    request_burst: float = 100.0
    """Requests per second over all connections."""
    change_rate: float = 1 / 300
    change_burst: float = 60.0
    """Changes per second. Each makes two entries in the audit log, which are never left out. This limit keeps somebody
    who has the password, or a VM that has seen it, from pushing older entries out: at this rate the log's 14 MiB last
    two months at least. What is left of the burst survives a restart."""
    password_rates: Rates = PASSWORD_RATES
    """Password checks, 0.5 a second in all. Each costs a slow hash."""

    session_idle_s: float = 15 * 60.0
    session_life_s: float = 12 * 3600.0
    sessions: int = 16

    disks_s: float = 5.0
    """How often to check for a second disk."""
    hostname_s: float = 5.0
    """How long the root unit may take to set the host name."""
    reboot_delay_s: float = 0.5
    """Time between the reply and the request for the reboot."""

    @classmethod
    def under(cls, root: Path, **changes: object) -> Settings:
        """Settings for tests: all paths below `root`, any free port of 127.0.0.1."""
        places: dict[str, object] = {
            "address": "127.0.0.1",
            "port": 0,
            "device": "",
            "peer": "127.0.0.1",
            "link": root / "link",
            "identity": root / "identity.json",
            "data": root / "data",
            "request": root / "request",
            "vm_state": root / "state.json",
            "heartbeat": root / "heartbeat.sock",
            "port_status": root / "status.sock",
            "storage": root / "storage.json",
            "block_devices": root / "block",
            "ext4": root / "ext4",
            "image": root / "image.json",
            "cmdline": root / "cmdline",
        }
        return cls(**(places | changes))  # type: ignore[arg-type]
