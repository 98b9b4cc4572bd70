"""Holes in the image's files, which are found without booting it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from rootfs.artifact.unpack import VM
from tests.mutants.forge import replaced
from tests.mutants.mutant import Mutant
from tests.mutants.plants import InTree

_UNITS = "etc/systemd/system"
_HASH = "$6$planted$0123456789012345678901234567890123456789012345678901234567890123456789012345678901234A"


def _write(path: str, text: str, mode: int = 0o644) -> Callable[[Path, Path], None]:
    def change(host: Path, vm: Path) -> None:
        file = (vm / path[3:]) if path.startswith("vm/") else (host / path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(mode)

    return change


def _edit(path: str, old: str, new: str) -> Callable[[Path, Path], None]:
    def change(host: Path, vm: Path) -> None:
        text = (host / path).read_text()
        if old not in text:
            raise ValueError(f"{path} has no {old!r}: mend the mutant")
        (host / path).unlink()  # the copy shares nothing, but a mode of 0444 would refuse
        (host / path).write_text(text.replace(old, new))

    return change


def _chmod(path: str, mode: int) -> Callable[[Path, Path], None]:
    return lambda host, vm: (host / path).chmod(mode)


def _key(path: str) -> Callable[[Path, Path], None]:
    """A private key that anybody could read; made anew each time, for none belongs into the project."""
    key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return _write(path, key.decode())


def _more(path: str) -> Callable[[Path, Path], None]:
    """A file with something behind its end."""

    def change(host: Path, vm: Path) -> None:
        file = (vm / path[3:]) if path.startswith("vm/") else (host / path)
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content + b" ")
        file.chmod(0o644)

    return change


def _vm_init(host: Path, vm: Path) -> None:
    file = host / VM / "initrd"
    content = replaced("init", b"#!/bin/sh\nexec sh\n")(file.read_bytes())
    file.unlink()
    file.write_bytes(content)


FILES: tuple[Mutant, ...] = (
    # The image's files.
    Mutant(
        "world-writable-unit",
        "tree",
        "Everybody may write a unit file.",
        InTree(_chmod(f"{_UNITS}/sallyport-backend.service", 0o666)),
        "tree",
        ("tree/*writable*",),
    ),
    Mutant(
        "setuid",
        "tree",
        "A program runs as root for whoever starts it.",
        InTree(_chmod("usr/bin/busybox", 0o4755)),
        "tree",
        ("tree/*setuid*", "tree/*"),
    ),
    Mutant(
        "default-password",
        "tree",
        "Every image has the same password for root.",
        InTree(_write("etc/shadow", f"root:{_HASH}:20000:0:99999:7:::\n", 0o600)),
        "tree",
        ("tree/*",),
    ),
    Mutant(
        "key-in-image",
        "tree",
        "The link's private key is the same in every image.",
        InTree(_key("usr/share/sallyport/link.key")),
        "tree",
        ("tree/*",),
    ),
    Mutant(
        "key-in-vm",
        "tree",
        "A private key lies in the VM's image.",
        InTree(_key("vm/usr/share/web.key")),
        "tree",
        ("tree/*",),
    ),
    Mutant(
        "getty",
        "tree",
        "A unit offers a login on the serial console.",
        InTree(
            _write(
                f"{_UNITS}/getty@.service",
                "[Service]\nExecStart=/usr/sbin/agetty %I\nStandardInput=tty\nTTYPath=/dev/%I\n",
            )
        ),
        "tree",
        ("tree/*",),
    ),
    Mutant(
        "sandbox-off",
        "tree",
        "The backend's unit lost its sandbox.",
        InTree(_edit(f"{_UNITS}/sallyport-backend.service", "ProtectSystem=strict", "ProtectSystem=no")),
        "tree",
        ("tree/*",),
    ),
    Mutant(
        "other-backend",
        "tree",
        "The backend on the host is another one.",
        InTree(_more("usr/lib/python3/dist-packages/backend/daemon/validator.pyc")),
        "tree",
        ("tree/own-files",),
    ),
    Mutant(
        "other-vm-settings",
        "tree",
        "The VM is started in another way than its settings should have it.",
        InTree(_more("etc/sallyport/vm.json")),
        "tree",
        ("tree/own-files",),
    ),
    Mutant(
        "other-vm-init",
        "tree",
        "The VM's initramfs begins with another program.",
        InTree(_vm_init),
        "tree",
        ("flash/vm-initramfs",),
    ),
    Mutant(
        "filter-off",
        "tree",
        "The VM's unit lost its filter of system calls.",
        InTree(_edit(f"{_UNITS}/sallyport-vm.service", "SystemCallFilter=@system-service\n", "")),
        "tree",
        ("tree/*",),
    ),
)
