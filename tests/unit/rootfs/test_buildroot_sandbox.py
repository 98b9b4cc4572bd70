"""Where Buildroot runs: what it sees there, and what makes one sandbox differ from another."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rootfs.base import packages
from rootfs.engines.buildroot import distcc
from rootfs.engines.buildroot.sandbox import Sandbox


def save(folder: Path, *rows: packages.Package) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "packages.json").write_text(json.dumps([asdict(row) for row in rows]))
    return folder


GCC, LIBC = (packages.Package(name, "14", "amd64", "ab") for name in ("gcc-14", "libc6"))


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    added = tmp_path / "added"
    added.mkdir()
    (added / "digest").write_text("of the toolchain")
    return Sandbox(save(tmp_path / "fetched", GCC), save(tmp_path / "prebuilt", LIBC), added)


def command(sandbox: Sandbox, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """The command line and the environment by which make is run."""
    environment = sandbox.make_environment(tmp_path / "br", tmp_path / "O", tmp_path / "dl", tmp_path / "cc")
    return " ".join(environment.argv(["make", "-j2"])), environment.variables


def test_a_build_has_no_network_and_writes_where_it_may(sandbox: Sandbox, tmp_path: Path) -> None:
    words, environment = command(sandbox, tmp_path)
    assert " --unshare-net " in words
    assert words.endswith("--chdir /output -- make -j2")
    written = {words.split()[at + 2] for at, word in enumerate(words.split()) if word == "--bind"}
    assert written == {"/output", "/downloads", "/ccache"}
    for seen in ("br /buildroot", "prebuilt/tree /prebuilt", "added/toolchain /opt/toolchain"):
        assert f"--ro-bind {tmp_path}/{seen} " in words
    assert environment["CCACHE_COMPILERCHECK"] == f"string:{sandbox.identity}"
    assert "CCACHE_PREFIX" not in environment


def test_only_with_a_farm_it_has_one(sandbox: Sandbox, tmp_path: Path) -> None:
    words, environment = command(replace(sandbox, farm=distcc.read("10.0.0.7/2")), tmp_path)
    assert "--unshare-net" not in words
    assert environment["CCACHE_PREFIX"] == "distcc"


@pytest.mark.parametrize("change", ["compiler", "prebuilt", "toolchain"])
def test_whatever_it_is_made_of_makes_it_another(sandbox: Sandbox, change: str) -> None:
    before = sandbox.identity
    again = Sandbox(sandbox.fetched, sandbox.prebuilt, sandbox.added)
    assert again.identity == before
    if change == "compiler":
        save(sandbox.fetched, replace(GCC, version="15"))
    elif change == "prebuilt":
        save(sandbox.prebuilt, replace(LIBC, sha256="cd"))
    else:
        (sandbox.added / "digest").write_text("of another")
    assert Sandbox(sandbox.fetched, sandbox.prebuilt, sandbox.added).identity != before
