"""What is taken over from a finished build."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from rootfs.base import licenses, packages
from rootfs.base.errors import SallyportError
from rootfs.engines.buildroot import collect
from rootfs.engines.buildroot.output import Package
from rootfs.spec.architecture import X86_64

LISTED = [
    Package.model_validate(
        {
            "name": "busybox", "type": "target", "version": "1.37", "licenses": "GPL-2.0",
            "cpe-id": "cpe:2.3:a:busybox:busybox:1.37:*:*:*:*:*:*:*", "downloads": [{"source": "busybox.tar"}],
        }
    ),
    Package.model_validate(
        {"name": "linux", "type": "target", "version": "6.12", "downloads": [{"source": "linux.tar"}]}
    ),
    Package.model_validate({"name": "host-m4", "type": "host", "downloads": [{"source": "m4.tar"}]}),
]  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An output directory, as Buildroot leaves it."""
    made = tmp_path / "O"
    files = {
        "target/usr/bin/busybox": "", "target/usr/lib/libm.so.6": "", "target/usr/lib/ld-linux-x86-64.so.2": "",
        "target/usr/lib/python3.13/os.py": "", "target/usr/lib/python3.13/site-packages/tornado/web.py": "",
        "target/usr/lib/python3.13/ensurepip/pip.whl": "", "target/usr/sbin/init": "", "images/bzImage": "kernel",
        "build/linux-6.12/include/config/kernel.release": "6.12\n",
        "build/linux-6.12/modules.builtin": "kernel/virtio.ko\n",
        "build/packages-file-list.txt": (
            "busybox,./bin/busybox\nskeleton,./etc/x,y\ntornado,./usr/lib/python3.13/site-packages/tornado/web.py\n"
            "toolchain,./lib/libm.so.6\n"
        ),
    }  # fmt: skip
    for name, content in files.items():
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    for name in ("bin", "sbin", "lib"):
        (made / "target" / name).symlink_to(f"usr/{name}")
    (made / "target/lib64").symlink_to("lib")
    (made / "target/usr/lib64").symlink_to("lib")
    (made / "target/usr/lib/libm.so").symlink_to("libm.so.6")
    return made


def gather(directory: Path, output: Path) -> Path:
    output.mkdir()
    prebuilt = output.parent / "prebuilt"
    prebuilt.mkdir()
    rows = [packages.Package("libc6", "2.41", "amd64", "ef"), packages.Package("make", "4.4", "amd64", "01")]
    (prebuilt / "packages.json").write_text(json.dumps([asdict(row) for row in rows]))
    brought = {"libc6": ["usr/lib/x86_64-linux-gnu/libm.so.6"], "make": ["usr/bin/make"]}
    (prebuilt / "files.json").write_text(json.dumps(brought))
    binaries = collect.prebuilt(prebuilt)
    collect.gather(X86_64, directory, LISTED, binaries, prebuilt, output, {"busybox.tar": "ab", "linux.tar": "cd"})
    return output


def test_the_tree_has_the_layout_of_the_other_engine(directory: Path, tmp_path: Path) -> None:
    tree = gather(directory, tmp_path / "out") / "tree"
    assert (tree / "usr/lib/x86_64-linux-gnu/libm.so").is_file()
    assert (tree / "usr/lib64/ld-linux-x86-64.so.2").is_file()
    assert not (tree / "usr/lib64").is_symlink()
    assert (tree / "usr/lib/python3/dist-packages/tornado/web.py").is_file()
    assert (tree / "usr/lib/python3.13/site-packages/tornado/web.py").is_file()
    assert not (tree / "usr/lib/python3.13/ensurepip").exists()
    assert not (tree / "bin").is_symlink()


def test_a_library_that_is_in_a_directory_beside_is_still_found(directory: Path, tmp_path: Path) -> None:
    lib = directory / "target/usr/lib"
    (lib / "device-mapper").mkdir()
    (lib / "device-mapper/libevent.so").write_text("event")
    (lib / "libevent.so").symlink_to("device-mapper/libevent.so")
    tree = gather(directory, tmp_path / "out") / "tree"
    assert (tree / "usr/lib/x86_64-linux-gnu/libevent.so").read_text() == "event"


def test_only_programs_are_executable(directory: Path, tmp_path: Path) -> None:
    for path in (directory / "target").rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755)
    tree = gather(directory, tmp_path / "out") / "tree"
    executable = {path.name for path in tree.rglob("*") if path.is_file() and path.stat().st_mode & 0o111}
    assert executable == {"busybox", "init", "ld-linux-x86-64.so.2"}


def test_programs_of_administrators_are_where_the_choice_of_files_looks(directory: Path, tmp_path: Path) -> None:
    (directory / "target/usr/sbin/init").rename(directory / "target/usr/bin/dmsetup")
    (directory / "target/usr/sbin").rmdir()
    (directory / "target/usr/sbin").symlink_to("bin")
    with (directory / "build/packages-file-list.txt").open("a") as listed:
        listed.write("lvm2,./usr/bin/dmsetup\n")
    output = gather(directory, tmp_path / "out")
    assert [path.name for path in (output / "tree/usr/sbin").iterdir()] == ["dmsetup"]
    assert [path.name for path in (output / "tree/usr/bin").iterdir()] == ["busybox"]
    assert json.loads((output / "files.json").read_text())["lvm2"] == ["usr/sbin/dmsetup"]


def test_packages_files_and_licences_are_as_the_other_engine_has_them(directory: Path, tmp_path: Path) -> None:
    output = gather(directory, tmp_path / "out")
    assert [(p.name, p.version, p.sha256, p.by) for p in packages.load(output)] == [
        ("busybox", "1.37", "ab", "buildroot"),
        ("linux", "6.12", "cd", "buildroot"),
        ("libc6", "2.41", "ef", "debian"),
    ]
    files = json.loads((output / "files.json").read_text())
    assert files["busybox"] == ["usr/bin/busybox"]
    assert files["tornado"] == ["usr/lib/python3/dist-packages/tornado/web.py"]
    assert files["toolchain"] == ["usr/lib/x86_64-linux-gnu/libm.so.6"]
    assert files["libc6"] == files["toolchain"]
    assert files["skeleton"] == ["etc/x,y"]
    assert [p.cpe for p in packages.load(output)] == ["cpe:2.3:a:busybox:busybox:1.37:*:*:*:*:*:*:*", "", ""]
    assert licenses.load(output / "licenses.json")["busybox"].names == ("GPL-2.0",)


def test_a_kernel_without_modules_tells_what_it_has_built_in(directory: Path, tmp_path: Path) -> None:
    linux = gather(directory, tmp_path / "out") / "linux/tree"
    assert (linux / "boot/vmlinuz-6.12").read_text() == "kernel"
    assert (linux / "usr/lib/modules/6.12/modules.builtin").read_text() == "kernel/virtio.ko\n"


def test_a_tree_with_two_places_for_programs_is_refused(directory: Path, tmp_path: Path) -> None:
    (directory / "target/bin").unlink()
    (directory / "target/bin").mkdir()
    with pytest.raises(SallyportError, match="bin is a directory") as caught:
        gather(directory, tmp_path / "out")
    assert "BR2_ROOTFS_MERGED_USR=y" in caught.value.hint


def test_what_is_prebuilt_and_does_not_load_is_told(directory: Path, tmp_path: Path) -> None:
    mapped = Path("/proc/self/maps").read_text().splitlines()
    libm = next(Path(line.split()[-1]) for line in mapped if "/libm.so" in line)
    (directory / "target/usr/lib/libm.so.6").write_bytes(libm.read_bytes())
    with pytest.raises(
        SallyportError, match=r"prebuilt programs need \d+ symbols that no library has: libm.so.6 wants \w+"
    ):
        gather(directory, tmp_path / "out")


def test_what_is_of_no_package_is_not_taken_over(directory: Path, tmp_path: Path) -> None:
    """The bill of materials would not have it."""
    lib = directory / "target/usr/lib"
    (lib / "systemd").mkdir()
    (lib / "systemd/libsystemd-core-257.so").write_bytes(b"\x7fELF")
    with pytest.raises(
        SallyportError, match=r"^1 programs belong to no package .*: usr/lib/x86_64-linux-gnu/libsystemd-core-257\.so$"
    ):
        gather(directory, tmp_path / "out")


def test_a_library_that_was_moved_is_still_its_packages(directory: Path, tmp_path: Path) -> None:
    lib = directory / "target/usr/lib"
    (lib / "systemd").mkdir()
    (lib / "systemd/libsystemd-core-257.so").write_bytes(b"not quite")
    with (directory / "build/packages-file-list.txt").open("a") as file:
        file.write("systemd,./usr/lib/systemd/libsystemd-core-257.so\n")
    files = json.loads((gather(directory, tmp_path / "out") / "files.json").read_text())
    assert files["systemd"] == ["usr/lib/x86_64-linux-gnu/libsystemd-core-257.so"]
