"""`invoke run`: boot an image in QEMU, print how to reach it, and stay until Ctrl-C."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from driver.appliance import FINGERPRINTS, PASSWORD, Api, wait_managed
from driver.errors import MachineError
from driver.machine import QemuMachine
from driver.ports import Forward, check_port
from rootfs.artifact.imagefile import ImageFile
from rootfs.base.errors import SallyportError
from rootfs.base.tools_tree import Tools
from rootfs.base.version import shown
from rootfs.build import OUT


def check_ports(https: int, ssh: int) -> None:
    """Refuse host ports that the web page and the SSH command line cannot use.

    Raises:
        SallyportError: a port is out of range or in use, or both are the same.
    """
    if https == ssh:
        raise SallyportError(f"page and command line cannot share port {https}", "choose another with --https or --ssh")
    check_port(https, "--https")
    check_port(ssh, "--ssh")


def run(tools: Tools, image: ImageFile, console: Console, *, https: int, ssh: int, persist: bool, serial: bool) -> None:
    """Boot, wait until the front-end is healthy, print how to log in, and stay until Ctrl-C or QEMU's end.

    Args:
        tools: has QEMU.
        image: what to boot.
        console: where progress and the addresses are printed.
        https: port of 127.0.0.1 for the page.
        ssh: port of 127.0.0.1 for the command line.
        persist: keep changes in ``out/run/<name>.img``.
        serial: the appliance's serial console on this terminal.

    Raises:
        SallyportError: a port is in use, or the image does not boot.
    """
    check_ports(https, ssh)
    kept = _persistent(image) if persist else None
    log = OUT / "run" / f"{image.name}.serial.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with QemuMachine(tools, image, forward=Forward(https, ssh), persist=kept, console=serial, log=log) as machine:
        machine.run()
        api = Api(https)
        if serial:
            console.print("the appliance's console is this terminal; Ctrl-C ends the machine", style="dim")
            seconds = wait_managed(machine, api)
        else:
            with console.status("the appliance boots") as status:
                machine.on_line = lambda line: status.update(f"the appliance boots [dim]{_plain(line)}[/]")
                seconds = wait_managed(machine, api)
        console.print(_welcome(machine, https, ssh, seconds, kept, None if serial else log))
        while machine.alive():
            time.sleep(0.3)
        raise MachineError("QEMU ended by itself", f"the console's log is in {log}")


def _plain(line: str) -> str:
    return re.sub(r"[\[\]]", " ", line).strip()[:70]


def _persistent(image: ImageFile) -> Path:
    """Return the working copy that keeps changes; made anew when the image is not the one it was copied from."""
    directory = OUT / "run"
    directory.mkdir(parents=True, exist_ok=True)
    kept, mark = directory / f"{image.name}.img", directory / f"{image.name}.from"
    digest = image.sha256()
    if not (kept.exists() and mark.exists() and mark.read_text() == digest):
        if shutil.disk_usage(directory).free < image.path.stat().st_size:
            raise SallyportError(
                f"{directory}: no room for a copy of {image.path}", "free some room, or leave --persist"
            )
        new = kept.with_suffix(".new")
        shutil.copyfile(image.path, new)
        new.chmod(0o600)
        new.replace(kept)
        mark.write_text(digest)
    return kept


def _welcome(machine: QemuMachine, https: int, ssh: int, seconds: float, kept: Path | None, log: Path | None) -> Table:
    match = re.search(PASSWORD, machine.serial)
    if match:
        first_login = f"[bold]{match.group(1)}[/]  (on the serial console until somebody has logged in)"
    elif log:
        first_login = "the one that was set before"
    else:
        first_login = "on the serial console above"
    rows = {
        "page": f"[bold]https://localhost:{https}[/]  (the certificate is its own)",
        "ssh": f"[bold]ssh -p {ssh} admin@localhost[/]",
        "user": "[bold]admin[/]",
        "password": first_login,
        **_fingerprints(machine.serial),
        "changes": f"kept in {shown(kept)}" if kept else "discarded at the end (--persist keeps them)",
        "console": shown(log) if log else "this terminal",
        "up": f"{seconds:.0f} s after power-on; Ctrl-C ends it",
    }
    table = Table(title=machine.image.name, title_justify="left", show_header=False, box=None)
    for name, text in rows.items():
        table.add_row(f"[dim]{name}[/]", text)
    return table


def _fingerprints(serial: str) -> dict[str, str]:
    """Return the fingerprints that browser and SSH client should show, if the serial console has printed them."""
    for begin, end, ssh in reversed(re.findall(FINGERPRINTS, serial)):  # the newest counts
        return {"certificate": f"SHA-256 {begin}\n        {end}", "ssh key": ssh}
    return {}
