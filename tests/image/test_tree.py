"""The built trees, read by testinfra: what is in them, and above all what is not."""

from __future__ import annotations

import json
import re
import stat
import subprocess
from pathlib import Path

import pytest
import testinfra
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from rootfs.artifact.imagefile import open_image
from rootfs.base.tools_tree import Tools
from rootfs.build import Built
from rootfs.engines import symbol_map
from rootfs.spec import defconfig
from rootfs.tree import extension

pytestmark = pytest.mark.image


@pytest.fixture(scope="module")
def host():  # type: ignore[no-untyped-def]
    return testinfra.get_host("local://")


LIMITS = {"debian": (64 * 10**6, 24 * 2**20), "buildroot": (40 * 10**6, 16 * 10**6)}
"""Of engines: how many bytes the root file system may have, and the VM in it."""


def test_sizes(release: Built, made_by: str) -> None:
    sizes = json.loads(release.manifest.read_text())["sizes"]
    assert sizes["root_bytes"] <= LIMITS[made_by][0]
    assert sizes["root_bytes"] + sizes["uki_bytes"] <= 128 * 2**20


def test_frontend_compressed(release: Built, made_by: str, tools: Tools, tmp_path: Path) -> None:
    """The VM's files are stored unpacked inside the compressed root; here they are compressed on their own."""
    total = 0
    for name in ("vmlinuz", "initrd", "root.squashfs"):
        (tmp_path / name).write_bytes((release.frontend / name).read_bytes())
        tools.run(["zstd", "-q", "-19", name], build=tmp_path)
        total += (tmp_path / f"{name}.zst").stat().st_size
    assert total <= LIMITS[made_by][1]


def test_image_is_ours_and_summed(release: Built, host) -> None:  # type: ignore[no-untyped-def]
    assert open_image(release.image).profile.name == "qemu"
    out = release.image.parent
    lines = [line.split("  ") for line in (out / "SHA256SUMS").read_text().splitlines()]
    sums = {name: digest for digest, name in lines}
    for name in (release.image.name, release.image.name + ".bmap", release.manifest.name, _bill(release).name):
        assert host.file(str(out / name)).sha256sum == sums[name]


def _bill(release: Built) -> Path:
    return release.image.with_suffix(".cdx.json")


def test_bill_of_materials_has_every_package_with_hash_and_licence(release: Built) -> None:
    text = _bill(release).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    manifest = json.loads(release.manifest.read_text())
    by_ref = {component["bom-ref"]: component for component in json.loads(text)["components"]}
    packages = manifest["packages"]
    for part, also in (("host", {"systemd-boot-efi"}), ("frontend", set())):
        names = {package["name"] for package in packages[part]}
        assert also <= names
        assert [name for name in names if name == "linux" or name.startswith("linux-image-")]
        for package in packages[part]:
            component = by_ref[f"{part}/{package['name']}"]
            assert component["hashes"] == [{"alg": "SHA-256", "content": package["sha256"]}]
            assert component["licenses"], package["name"]


def test_manifest_lists_every_file(release: Built) -> None:
    listed = set(json.loads(release.manifest.read_text())["files"])
    tree = release.host_tree
    there = {p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file() and not p.is_symlink()}
    assert there == listed
    assert len(there) > 300


def test_every_mode_is_one_of_two(release: Built) -> None:
    """No setuid bit, nothing that others write, and nothing that services of their own users cannot read."""
    for tree in (release.host_tree, release.frontend / "tree"):
        wrong, checked = [], 0
        for path in tree.rglob("*"):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                checked += 1
                if stat.S_IMODE(mode) not in ((0o755,) if stat.S_ISDIR(mode) else (0o755, 0o644)):
                    wrong.append((path, oct(mode)))
        assert wrong == []
        assert checked > 100


def test_no_secret_in_the_image(release: Built, testing: Built) -> None:
    """No private key, no password hash. The control: the same search finds the key that the test access made."""
    # GnuTLS carries the published vectors of its self-test.
    published = "libgnutls.so"
    pattern = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s*\n[A-Za-z0-9+/=]{16}")
    for tree in (release.host_tree, release.frontend / "tree"):
        for path in tree.rglob("*"):
            if path.is_file() and not path.is_symlink() and not path.name.startswith(published):
                assert not pattern.search(path.read_bytes()), path
    from rootfs.tree import qa_access

    assert pattern.search(qa_access.KEY.read_bytes())
    for name in ("host_tree",):
        passwd = (getattr(release, name) / "etc/passwd").read_text().splitlines()
        assert all(line.split(":")[1] == "x" and line.endswith("/false") for line in passwd)
    assert not (release.host_tree / "etc/shadow").exists()


def test_test_access_is_only_in_the_test_image(release: Built, testing: Built) -> None:
    assert (testing.host_tree / "etc/systemd/system/test-shell.service").exists()
    assert (testing.frontend / "tree/usr/lib/sallyport/test_shell.py").exists()
    assert not (release.host_tree / "etc/systemd/system/test-shell.service").exists()
    assert not (release.frontend / "tree/usr/lib/sallyport/test_shell.py").exists()
    assert not (release.frontend / "tree/etc/test-access").exists()


def test_no_user_interface_on_the_host(release: Built) -> None:
    names = {path.name for path in release.host_tree.rglob("*")}
    assert {"systemd", "nft", "qemu-system-x86_64-microvm"} <= names  # the search does find what is there
    for name in (
        "agetty",
        "getty",
        "login",
        "sshd",
        "dropbear",
        "sulogin",
        "systemd-logind",
        "dbus-daemon",
        "su",
        "sudo",
    ):
        assert name not in names
    # What systemd would listen on for a service: its own log, by local sockets.
    journal = {"systemd-journald.socket", "systemd-journald-dev-log.socket"}
    assert {name for name in names if name.endswith(".socket")} == journal


def test_services_are_sandboxed(release: Built) -> None:
    units = release.host_tree / "etc/systemd/system"
    for name in ("sallyport-backend.service", "sallyport-vm.service", "sallyport-port.service"):
        text = (units / name).read_text()
        for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "DevicePolicy=closed", "RestrictNamespaces=yes"):
            assert line in text, (name, line)
        assert re.search(r"^User=sallyport", text, re.MULTILINE), name
    assert "CapabilityBoundingSet=\n" in (units / "sallyport-backend.service").read_text()
    assert "CapabilityBoundingSet=\n" in (units / "sallyport-vm.service").read_text()


def test_only_backend_runs_on_the_host_and_only_frontend_in_the_vm(release: Built) -> None:
    own_files = "usr/lib/python3/dist-packages"
    assert (release.host_tree / own_files / "backend/daemon/main.pyc").exists()
    assert not (release.host_tree / own_files / "frontend_vm").exists()
    assert (release.frontend / "tree" / own_files / "frontend_vm/app.pyc").exists()
    assert not (release.frontend / "tree" / own_files / "backend").exists()
    assert not (release.frontend / "tree" / own_files / "frontend_vm/build.pyc").exists()
    assert not list((release.frontend / "tree" / own_files / "frontend_vm").glob("*.config"))


def test_the_forwarder_is_compiled_and_its_sources_stay_outside(release: Built) -> None:
    forwarder = release.host_tree / "usr/lib/python3/dist-packages/backend/forwarder"
    names = {path.name for path in forwarder.iterdir()}
    assert {*extension.FORWARDER.outputs, "process.pyc", "datapaths.pyc"} <= names
    for name in extension.FORWARDER.outputs:
        head = (forwarder / name).read_bytes()[:20]
        machine = int.from_bytes(head[18:20], "little")  # e_machine (System V ABI): 62 is x86-64, 247 is BPF
        assert (head[:4], machine) == (b"\x7fELF", 247 if name.endswith(".o") else 62), name
    assert not names & {"core", "kernel"}
    assert [path.name for path in forwarder.rglob("*") if path.suffix in (".c", ".h", ".pyi", ".py")] == []


def test_no_image_has_the_guest_lan(release: Built) -> None:
    """No profile has one: neither its Python code nor its extension module is on the host."""
    backend = release.host_tree / "usr/lib/python3/dist-packages/backend"
    names = {part for path in backend.rglob("*") for part in path.relative_to(backend).parts}
    assert [name for name in names if name == "lan" or name.startswith("_lan.")] == []


def test_one_schema_at_both_ends(release: Built) -> None:
    own_files = "usr/lib/python3/dist-packages"
    here = release.host_tree / own_files / "backend/protocol/instructions.pyc"
    there = release.frontend / "tree" / own_files / "frontend_vm/protocol/instructions.pyc"
    # The header holds the hash of the source (PEP 552): the same source was compiled at both ends.
    assert here.read_bytes()[:16] == there.read_bytes()[:16]


def test_every_symbol_of_the_defconfigs_is_served() -> None:
    for config in (defconfig.HOST, defconfig.FRONTEND):
        assert symbol_map.translate(defconfig.read(config)).packages


@pytest.mark.parametrize(
    ("end", "modules"),
    [
        (
            "host",
            "backend.daemon.main, backend.guests.supervisor, backend.forwarder.__main__, backend.forwarder.process, "
            "backend.forwarder._core, backend.forwarder._kernel",
        ),
        ("frontend", "frontend_vm.app, frontend_vm.web, frontend_vm.ssh, frontend_vm.cli"),
    ],
)
def test_the_services_of_the_tree_can_be_imported(tools: Tools, release: Built, end: str, modules: str) -> None:
    """Python of the tree, in the tree: nothing that our code needs was left out."""
    tree = release.host_tree if end == "host" else release.frontend / "tree"
    bubblewrap = tools.argv([], cwd=Path("/"))
    bubblewrap = bubblewrap[: bubblewrap.index("--die-with-parent")]
    command = [
        *bubblewrap,
        "--ro-bind",
        str(tree),
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "--",
        "/usr/bin/python3",
        "-I",
    ]
    environment = {"CRYPTOGRAPHY_OPENSSL_NO_LEGACY": "1"}
    done = subprocess.run([*command, "-c", f"import {modules}"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-800:]
    # The control: a module that is not there is noticed.
    assert subprocess.run([*command, "-c", "import tkinter"], capture_output=True).returncode != 0
