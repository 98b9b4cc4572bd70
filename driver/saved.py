"""A whole running machine saved in files, and resumed from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from driver.command_line import FD_SETS, PLACE
from driver.errors import MachineError
from driver.monitor import Monitor
from rootfs.base.tools_tree import take

_ENDS = frozenset({"completed", "failed", "cancelled"})
"""Where a migration stays (MigrationStatus, QEMU qapi/migration.json). Before them come ``active`` and ``device``."""
_LOADED = frozenset({"paused"})
"""RunState of a machine that was stopped when it was saved, when ``inmigrate`` is over."""


@dataclass(frozen=True)
class Saved:
    """A saved machine: processors, memory and devices; its disk; its firmware's variables."""

    state: Path
    disk: Path
    variables: Path


def save(monitor: Monitor, directory: Path, disk: Path, folder: Path) -> Saved:
    """Save a machine and leave it paused.

    No virtual machine may run inside it at this moment: an emulated processor in guest mode cannot be loaded again
    (cpu_post_load in target/i386/machine.c of QEMU). What is inside is therefore stopped first (`proof.rig`).

    Args:
        monitor: of the running machine.
        directory: QEMU's own, which it sees as `PLACE`.
        disk: the machine's; it becomes a part of what is saved, and is not copied.
        folder: where state and variables go.

    Raises:
        MachineError: QEMU cannot.
    """
    saved = Saved(folder / "state", disk, folder / "vars.fd")
    monitor.command("stop")  # flushes the disk, too
    monitor.command("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    monitor.command("migrate", uri=f"file:{PLACE}/state")
    answer = monitor.wait_status("query-migrate", _ENDS, "saving the machine")
    if answer["status"] != "completed":
        raise MachineError(f"QEMU could not save the machine: {answer.get('error-desc', answer)}")
    for path in (saved.state, saved.variables):
        take(directory / path.name, path)
    return saved


def load(monitor: Monitor) -> None:
    """Load the saved state that QEMU was given as descriptor set ``state``; the machine stays paused.

    Raises:
        MachineError: QEMU cannot.
    """
    # Or QEMU itself would send frames in the port's name, as after a move to another switch.
    monitor.command("migrate-set-parameters", **{"announce-rounds": 0})
    monitor.command("migrate-incoming", uri=f"file:/dev/fdset/{FD_SETS['state']}")
    monitor.wait_status("query-status", _LOADED, "loading the saved machine")
