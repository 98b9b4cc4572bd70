"""A program that reads what somebody sent can do nothing with this machine, even if that took it over."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from proof.image import trees
from proof.result import Verdict
from rootfs.artifact.imagefile import open_image
from rootfs.artifact.unpack import unpack
from rootfs.base.package_sets import PackageSets
from rootfs.base.process import run
from rootfs.base.tools_tree import Confined, Tools, left
from rootfs.build import Built

pytestmark = pytest.mark.image

TRIES = """
import json, os, socket, sys
status = {line.partition(":")[0]: line.partition(":")[2].strip() for line in open("/proc/self/status")}
def attempt(act):
    try:
        act()
    except OSError as error:
        return error.strerror
    return "done"
def listen():
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2):
        pass
def signal():
    os.kill(int(sys.argv[2]), 0)
print(json.dumps({
    "capabilities": int(status["CapEff"], 16) | int(status["CapPrm"], 16) | int(status["CapInh"], 16),
    "new": status["NoNewPrivs"],
    "device": attempt(lambda: os.mknod("device", 0o600 | 0o020000, os.makedev(1, 3))),
    "connect": attempt(listen),
    "signal": attempt(signal),
    "others": [n for n in os.listdir("/proc") if n.isdigit() and int(n) > 20],
    "sysctl": attempt(lambda: open("/proc/sys/kernel/core_pattern", "w").close()),
    "tools": attempt(lambda: open("/usr/planted", "w").close()),
    "project": os.path.exists(sys.argv[3]),
    "written": attempt(lambda: open("written", "w").close()),
}))
"""


@pytest.fixture
def tried(tools: Tools, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, object]:
    """What a program of the tools tree could do, confined as the test's parameter says; ``None``: not at all."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        words = [server.getsockname()[1], os.getpid(), __file__]
        command = ["python3", "-I", "-c", TRIES, *(str(word) for word in words)]
        # run(), and not argv() alone: as builds call it.
        return dict(json.loads(tools.run(command, build=tmp_path, confined=request.param)))


@pytest.mark.parametrize("tried", [Confined()], indirect=True)
def test_it_has_no_right_no_network_and_no_view(tried: dict[str, object], tmp_path: Path) -> None:
    assert tried.pop("others") == []
    assert tried == {
        "capabilities": 0, "new": "1", "device": "Operation not permitted", "connect": "Connection refused",
        "signal": "No such process", "sysctl": "Permission denied", "tools": "Read-only file system", "project": False,
        "written": "done",
    }  # fmt: skip
    assert os.geteuid() != 0 or (tmp_path / "written").stat().st_uid not in (0, os.getuid())


@pytest.mark.parametrize("tried", [Confined(owners=True)], indirect=True)
def test_unpacking_may_give_owners_and_no_more(tried: dict[str, object]) -> None:
    assert tried["device"] == "Operation not permitted"
    assert tried["connect"] == "Connection refused"
    assert tried["sysctl"] == "Permission denied"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has what is taken away")
@pytest.mark.parametrize("tried", [None], indirect=True)
def test_the_same_program_can_all_that_as_root(tried: dict[str, object]) -> None:
    """The control: what is refused above is refused by the confinement, and not by the machine."""
    assert tried["capabilities"] != 0
    assert tried["device"] == tried["connect"] == tried["signal"] == tried["sysctl"] == "done"


class Turned(Tools):
    """Tools of which each confined one leaves links in the place of whatever we might write or read after it."""

    NAMES = (
        "addon",
        "initrd.zst",
        "initrd",
        "uki.efi",
        "esp.vfat",
        "disk.img",
        "data.ext4",
        "root.verity",
        "partition",
    )

    def __init__(self, tree: Path, victim: Path) -> None:
        super().__init__(tree)
        self._victim = victim

    def run(self, command: Sequence[str | Path], *, build: Path, **options: Any) -> str:
        said = super().run(command, build=build, **options)
        if options.get("confined") is not None:
            for name in self.NAMES:
                if not os.path.lexists(build / name):
                    (build / name).symlink_to(self._victim)
        return said


def test_links_that_a_confined_program_leaves_lead_nobody_astray(
    package_sets: PackageSets, release: Built, tmp_path: Path
) -> None:
    """Of the whole static proof, with an image that it has to take apart to say how it differs."""
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    image = tmp_path / release.image.name
    run(["cp", "--reflink=auto", "--sparse=always", release.image, image])
    shutil.copyfile(release.manifest, image.with_suffix(".manifest.json"))
    image.chmod(0o600)
    with image.open("r+b") as file:
        file.seek(-(2 << 20), os.SEEK_END)  # in the data partition
        file.write(b"x")
    turned = Turned(package_sets.tools.tree, victim)
    package_sets.__dict__["tools"] = turned
    try:
        results = trees.prove(package_sets, open_image(image), say=lambda *_: None)
    finally:
        package_sets.__dict__.pop("tools")
    assert victim.read_text() == "as it was"
    assert any(result.verdict is Verdict.HOLE for result in results)


def test_a_result_that_is_a_link_to_a_file_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "report").symlink_to("secret")
    os.mkfifo(tmp_path / "pipe")
    for name in ("report", "pipe", "absent"):
        with pytest.raises(OSError, match=r"."):
            left(tmp_path / name, 100)
    assert left(tmp_path / "secret", 6) == b"secret"
    with pytest.raises(OSError, match="more than 5 bytes"):
        left(tmp_path / "secret", 5)


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user cannot make a file system with devices and owners")
def test_what_an_image_holds_is_nobody_s_here(tools: Tools, release: Built, tmp_path: Path) -> None:
    """Neither root's nor with a setuid bit that counts for somebody: it is only ever looked at."""
    found = unpack(tools, open_image(release.image), tmp_path)
    owners = {os.lstat(found.host / name).st_uid for name in ("usr", "etc/passwd", "usr/bin/busybox")}
    assert 0 not in owners
    assert len(owners) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user cannot make a file system with devices and owners")
def test_a_device_in_a_file_system_is_refused_and_owners_are_kept(tools: Tools, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("")
    os.chown(tree / "file", 900, 901)
    (tree / "file").chmod(0o4755)
    command = ["mksquashfs", "tree", "plain", "-quiet", "-no-progress"]
    subprocess.run(tools.argv(command, binds=[(tmp_path, Path("/build"))], cwd=Path("/build")), check=True)
    os.mknod(tree / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    command[2] = "devices"
    subprocess.run(tools.argv(command, binds=[(tmp_path, Path("/build"))], cwd=Path("/build")), check=True)
    work = tmp_path / "work"
    work.mkdir()
    for name in ("plain", "devices"):
        (tmp_path / name).rename(work / name)
    tools.run(["unsquashfs", "-q", "-n", "-d", "out", "plain"], build=work, confined=Confined(owners=True))
    at = os.lstat(work / "out/file")
    first = os.lstat(work / "out").st_uid
    assert (at.st_uid - first, at.st_gid - first, stat.S_IMODE(at.st_mode)) == (900, 901, 0o4755)
    with pytest.raises(Exception, match="failed to create character device"):
        tools.run(["unsquashfs", "-q", "-n", "-d", "other", "devices"], build=work, confined=Confined(owners=True))
    assert not (work / "other/null").exists()
