"""Overlays: how they are laid, and what the shipped ones render to."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from backend import instructions
from frontend_vm import build as frontend
from rootfs import image, overlay, profile
from rootfs.errors import SallyportError
from rootfs.version import PROJECT

PROFILES = ("qemu", "x86-64-uefi")
TEMPLATES = sorted((PROJECT / "overlays").rglob("*.j2"))
NFT = [template for template in TEMPLATES if template.name.endswith(".nft.j2")]


def template(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "page.j2"
    file.write_text(text)
    return file


def test_render_fills_in_and_keeps_the_last_newline(tmp_path: Path) -> None:
    assert overlay.render(template(tmp_path, "a {{ x.y }}\n"), {"x": {"y": "<&>"}}) == "a <&>\n"


@pytest.mark.parametrize(
    "text", ["one\ntwo {{ nobody }}\n", "one\n{{ known.nobody }}\n", "one\n{% if nobody %}{% endif %}"]
)
def test_an_undefined_name_is_an_error_that_names_file_and_line(tmp_path: Path, text: str) -> None:
    file = template(tmp_path, text)
    with pytest.raises(SallyportError, match="nobody") as caught:
        overlay.render(file, {"known": {}})
    assert str(caught.value).startswith(f"{file}:2: ")
    assert "known" in caught.value.hint


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    file = template(tmp_path, "one\ntwo\n{% if %}\n")
    with pytest.raises(SallyportError) as caught:
        overlay.render(file, {})
    assert str(caught.value).startswith(f"{file}:3: ")


@pytest.fixture
def laid(tmp_path: Path) -> Path:
    """A tree under an overlay: returns the tree; the original of its hard-linked files is beside it, in ``base``."""
    base, over, tree = tmp_path / "base", tmp_path / "over", tmp_path / "tree"
    for directory in (base / "etc", over / "etc/deep", over / "bin"):
        directory.mkdir(parents=True)
    (base / "etc/kept").write_text("kept")
    (base / "etc/replaced").write_text("original")
    (base / "etc/rendered").write_text("original")
    (base / "etc/linked").symlink_to("/etc/kept")
    (base / "etc/shadow").write_text("secret")
    (base / "etc/shadow").chmod(0o600)
    overlay.link_tree(base, tree)
    (over / "etc/replaced").write_text("new")
    (over / "etc/rendered.j2").write_text("is {{ x }}")
    (over / "etc/linked").write_text("a file now")
    (over / "etc/shadow").symlink_to("nowhere")
    (over / "etc/deep/odd").write_text("odd")
    (over / "etc/deep/odd").chmod(0o640)
    (over / "etc/deep/empty.keep").write_text("")
    (over / "bin/run").write_text("#!/bin/sh")
    (over / "bin/run").chmod(0o700)
    (over / "bin/run.too.j2").write_text("#!/bin/sh")
    (over / "bin/run.too.j2").chmod(0o755)
    (over / "bin/target").symlink_to("../etc")
    overlay.apply(over, tree, {"x": "y"})
    return tree


def test_an_overlay_replaces_renders_and_links(laid: Path) -> None:
    assert (laid / "etc/kept").read_text() == "kept"
    assert (laid / "etc/replaced").read_text() == "new"
    assert (laid / "etc/rendered").read_text() == "is y"
    assert not (laid / "etc/linked").is_symlink()
    assert os.readlink(laid / "etc/shadow") == "nowhere"
    assert os.readlink(laid / "bin/target") == "../etc"
    assert sorted(path.name for path in laid.rglob("*.j2")) == []
    assert [path.name for path in (laid / "etc/deep").iterdir()] == ["odd"]


def test_modes_are_normal_whatever_the_checkout_has(laid: Path) -> None:
    modes = {name: stat.S_IMODE((laid / name).stat().st_mode) for name in ("etc/deep/odd", "etc/rendered", "bin/run")}
    assert modes == {"etc/deep/odd": 0o644, "etc/rendered": 0o644, "bin/run": 0o755}
    assert stat.S_IMODE((laid / "bin/run.too").stat().st_mode) == 0o755


def test_the_original_of_a_hard_linked_file_stays_as_it_was(laid: Path) -> None:
    base = laid.parent / "base"
    assert (base / "etc/kept").samefile(laid / "etc/kept")
    assert {name: (base / "etc" / name).read_text() for name in ("replaced", "rendered", "kept", "shadow")} == {
        "replaced": "original",
        "rendered": "original",
        "kept": "kept",
        "shadow": "secret",
    }
    assert stat.S_IMODE((base / "etc/shadow").stat().st_mode) == 0o600
    assert (base / "etc/linked").is_symlink()


def test_the_skeleton_has_the_links_of_the_merged_usr(tmp_path: Path) -> None:
    overlay.skeleton(tmp_path)
    assert {name: os.readlink(tmp_path / name) for name in overlay.MERGED} == overlay.MERGED
    assert all((tmp_path / name).is_dir() for name in (*overlay.SKELETON, "bin"))


def values(file: Path, device: profile.Profile, *, test_access: bool = False) -> dict[str, object]:
    if file.relative_to(PROJECT / "overlays").parts[0].startswith("host"):
        return image._values(image.Recipe(device, test_access=test_access))
    return frontend.values(device)


def test_there_are_templates_to_test() -> None:
    assert len(TEMPLATES) >= 8
    assert {file.name for file in NFT} >= {"port.nft.j2", "host.nft.j2", "link.nft.j2"}


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_shipped_templates_render_with_shipped_profiles(file: Path, name: str) -> None:
    device = profile.load(name)
    for test_access in (False, True):
        text = overlay.render(file, values(file, device, test_access=test_access))
        assert text.strip()
        assert "{{" not in text
        assert "{%" not in text
        if text.startswith("#!/bin/sh"):
            subprocess.run(["sh", "-n"], input=text, text=True, check=True)
        if file.name.endswith(".json.j2"):
            json.loads(text)


def test_a_port_at_a_fixed_place_renders_too() -> None:
    device = profile.load("qemu")
    fixed = device.model_copy(update={"management": device.management.model_copy(update={"match": "pci:0000:02:00.1"})})
    file = PROJECT / "overlays/host/usr/lib/sallyport/port-setup.j2"
    text = overlay.render(file, values(file, fixed))
    assert '0000:02:00.1) echo "${nic##*/}"' in text
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)


_BASE_CHAIN = re.compile(r"type filter hook \w+ (?:device \"\w+\" )?priority \w+; policy (\w+);")
_BLOCK = re.compile(r"(table|chain|set|counter) ([\w ]+?) \{")


def rules(file: Path) -> str:
    text = overlay.render(file, values(file, profile.load("qemu")))
    return re.sub(r"#.*", "", text)


@pytest.mark.parametrize("file", NFT, ids=lambda file: file.name)
def test_rules_are_whole(file: Path) -> None:
    """What nft(8) would refuse, as far as can be told without it; with it, it is asked as well."""
    text = rules(file)
    depth = 0
    for char in text:
        depth += {"{": 1, "}": -1}.get(char, 0)
        assert depth >= 0
    assert depth == 0
    names: dict[str, set[str]] = {"table": set(), "chain": set(), "set": set(), "counter": set()}
    for kind, name in _BLOCK.findall(text):
        assert name not in names[kind], f"{kind} {name} twice"
        names[kind].add(name)
    assert len(names["table"]) == 1
    assert set(re.findall(r"counter name (\w+)", text)) == names["counter"]
    assert set(re.findall(r"(?:jump|goto) (\w+)", text)) <= names["chain"]
    assert set(re.findall(r"@(\w+)", text)) <= names["set"]
    if shutil.which("nft"):
        checked = subprocess.run(["nft", "-c", "-f", "-"], input=text, capture_output=True, text=True, check=False)
        # Without CAP_NET_ADMIN, nft parses and then may not ask the kernel.
        assert checked.returncode == 0 or "Operation not permitted" in checked.stderr, checked.stderr


@pytest.mark.parametrize("file", NFT, ids=lambda file: file.name)
def test_every_chain_at_a_hook_drops_by_default(file: Path) -> None:
    text = rules(file)
    assert text.count("hook") == len(_BASE_CHAIN.findall(text)) > 0
    assert set(_BASE_CHAIN.findall(text)) == {"drop"}


def test_the_port_lets_frames_pass_between_port_and_vm_only() -> None:
    text = rules(next(file for file in NFT if file.name == "port.nft.j2"))
    chains = dict(re.findall(r"chain (\w+) \{\n(.*?)\n    \}", text, re.DOTALL))
    jumps = re.findall(r'iifname "(\w+)" oifname "(\w+)" jump (\w+)', chains["forward_port"])
    assert jumps == [("mgmt0", "access0", "from_port"), ("access0", "mgmt0", "from_vm")]
    assert [name for name, body in chains.items() if "accept" in body] == ["from_port", "from_vm"]
    for name in ("input_port", "output_port"):
        hook = re.search(r"hook (\w+)", chains[name])
        assert hook is not None
        assert hook.group(1) == name.removesuffix("_port")
        assert "accept" not in chains[name]
    # A frame of the VM is judged by its source before anything can accept it.
    assert chains["from_vm"].index("ether saddr != @vm") < chains["from_vm"].index("accept")
    assert (
        chains["from_vm"].count(instructions.LINK_NETWORK) == chains["from_port"].count(instructions.LINK_NETWORK) == 4
    )


def test_the_hosts_stack_talks_to_the_backends_port_of_the_link_only() -> None:
    text = rules(next(file for file in NFT if file.name == "host.nft.j2"))
    accepting = [line.strip() for line in text.splitlines() if re.search(r"\b(accept|jump)\b", line)]
    link = [line for line in accepting if '"lo"' not in line and line != "counter name link_in accept"]
    assert len(accepting) == len(link) + 3
    for line in link:
        assert f"{instructions.BACKEND_PORT}" in line
        assert '"link0"' in line
        assert instructions.FRONTEND_ADDRESS in line
        assert instructions.BACKEND_ADDRESS in line
