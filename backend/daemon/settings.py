"""Where the daemon finds its files, and the limits that it keeps. Production runs with the defaults.

There is no configuration file and no command line on purpose: what cannot be set cannot be set wrongly.
Tests build their own `Settings` in a folder of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.daemon.throttle import PASSWORD_RATES, Rates
from backend.protocol import link_plan


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Places and limits. Times are seconds."""

    address: str = link_plan.BACKEND_ADDRESS
    port: int = link_plan.BACKEND_PORT
    device: str = "link0"
    """The listening socket hears this interface only (SO_BINDTODEVICE); empty: any, for tests."""

    peer: str = link_plan.FRONTEND_ADDRESS
    """Connections from any other address are closed before their handshake."""

    link: Path = Path("/run/sallyport/link")
    """`backend.key`, `backend.crt` and `frontend.crt`, made anew at every boot."""
    identity: Path = Path("/run/sallyport/link/identity.json")
    """`identity.Public`: what the front-end is known by."""
    data: Path = Path("/data/sallyport")
    """All that survives a reboot: `credential.json`, `hostname`, and the folder `audit`."""
    request: Path = Path("/run/sallyport/request")
    """A file that appears here starts a small root unit: `hostname`, `reboot`."""
    vm_state: Path = Path("/run/sallyport/vm/state.json")
    heartbeat: Path = Path("/run/sallyport/vm/heartbeat.sock")
    port_status: Path = Path("/run/sallyport/port/status.sock")
    storage: Path = Path("/run/sallyport/storage.json")
    block_devices: Path = Path("/sys/class/block")
    ext4: Path = Path("/sys/fs/ext4")
    image: Path = Path("/etc/sallyport/image.json")
    cmdline: Path = Path("/proc/cmdline")

    connections: int = 8
    """Open connections, those in their TLS handshake included."""
    connect_rate: float = 10.0
    connect_burst: float = 32.0
    """New connections per second; more wait in the kernel's short queue."""
    handshake_s: float = 5.0
    line_s: float = 5.0
    """From the first byte of a line to its newline."""
    idle_s: float = 60.0
    """Between two lines."""
    write_s: float = 5.0
    pause_s: float = 0.1
    """Before a rejection is answered, so that a flood of bad messages runs at our speed."""
    request_rate: float = 50.0
    request_burst: float = 100.0
    """Requests per second over all connections."""
    change_rate: float = 1 / 300
    change_burst: float = 60.0
    """Changes per second. Each is two entries of the audit log that are never left out, so this is what keeps whoever
    has the password, or a VM that has seen it, from pushing out what was written before: the log's 14 MiB last for some
    two months at the very least. What is left of the burst survives a restart."""
    password_rates: Rates = PASSWORD_RATES
    """Passwords that are looked at, 0.5 a second in all. Each costs a slow hash, and a right one an fsync."""

    session_idle_s: float = 15 * 60.0
    session_life_s: float = 12 * 3600.0
    sessions: int = 16

    disks_s: float = 5.0
    """How often to look for a second disk."""
    hostname_s: float = 5.0
    """How long the root unit may take to put a host name in force."""
    reboot_delay_s: float = 0.5
    """Between the reply and the reboot."""

    @classmethod
    def under(cls, root: Path, **changes: object) -> Settings:
        """Settings for tests: every file in folders of `root`, any free port of 127.0.0.1."""
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
