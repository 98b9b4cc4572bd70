"""An image and its manifest as somebody hands them to us: recognised, or refused in one sentence."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from rootfs.artifact import imagefile
from rootfs.artifact.imagefile import open_image
from rootfs.base import untrusted
from rootfs.base.errors import SallyportError
from rootfs.spec import profile

NAMES = ("esp", "slot-a", "slot-b", "data")
GOOD: dict[str, Any] = {
    "name": "sallyport-1-qemu",
    "profile": profile.load("qemu").model_dump(mode="json"),
    "test_access": False,
    "engine": "debian",
    "root_hash": "ab" * 32,
    "boot": {"kernel": "ef" * 32, "stub": "01" * 32, "tools": "23" * 32},
    "files": {"etc/passwd": "cd" * 32},
    "sizes": {"image_bytes": 1},
}


def disk(path: Path, names: tuple[str, ...] = NAMES) -> None:
    """A partition table and nothing else (UEFI specification 2.10, section 5.3)."""
    sectors = 2048 * (len(names) + 2)
    entries = b"".join(
        struct.pack(
            "<16s16sQQQ72s", b"t" * 16, b"i" * 16, 2048 * (i + 1), 2048 * (i + 2) - 1, 0, name.encode("utf-16-le")
        )
        for i, name in enumerate(names)
    ).ljust(128 * 128, b"\0")
    header = struct.pack("<8sIIII", b"EFI PART", 0x10000, 92, 0, 0)
    header += struct.pack("<QQQQ16sQIII", 1, sectors - 1, 34, sectors - 34, b"d" * 16, 2, 128, 128, zlib.crc32(entries))
    header = header[:16] + struct.pack("<I", zlib.crc32(header)) + header[20:]
    with path.open("wb") as file:
        file.truncate(sectors * 512)
        file.seek(512)
        file.write(header.ljust(512, b"\0") + entries)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "some.img"
    disk(path)
    return path


def told(image: Path, manifest: str | bytes) -> str:
    data = manifest.encode() if isinstance(manifest, str) else manifest
    image.with_suffix(".manifest.json").write_bytes(data)
    with pytest.raises(SallyportError) as caught:
        open_image(image)
    assert "keep the manifest" in caught.value.hint
    said = str(caught.value)
    assert "some.manifest.json" in said
    assert len(said) < 600
    return said


def test_what_we_made_is_opened(image: Path) -> None:
    image.with_suffix(".manifest.json").write_text(json.dumps(GOOD))
    found = open_image(image)
    assert (found.name, found.profile.name, found.manifest.files) == ("sallyport-1-qemu", "qemu", GOOD["files"])


@pytest.mark.parametrize(
    "name",
    [
        "../../../tmp/x",
        "a/b",
        "..",
        ".",
        "",
        "-rf",
        "a\x1b[2J",
        "a\nb",
        "/etc",
        "x" * 129,
        "a\u202eb",
        "ä",
        7,
        None,
        ["a"],
    ],
)
def test_a_name_is_one_plain_word(image: Path, name: object) -> None:
    """It names the folder of the report: nothing is written outside of out/."""
    assert ": name: " in told(image, json.dumps(GOOD | {"name": name}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("test_access", "no"),
        ("test_access", 0),
        ("engine", "mine"),
        ("root_hash", "AB" * 32),
        ("root_hash", "ab"),
        ("boot", {"kernel": "ef" * 32}),
        ("files", {"etc/passwd": 1}),
        ("files", ["etc/passwd"]),
        ("profile", "qemu"),
        ("profile", GOOD["profile"] | {"console": "tty0 init=/bin/sh"}),
        ("profile", GOOD["profile"] | {"more": 1}),
    ],
)
def test_each_field_is_what_it_should_be(image: Path, field: str, value: object) -> None:
    assert f"{field}" in told(image, json.dumps(GOOD | {field: value}))


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", "[1, 2]", "7", "null", '"text"', "{}", "{", "[" * 1_000_000, '{"a":' * 100_000, b"\xff\xfe", "\0" * 10],
    ids=["empty", "list", "numbers", "number", "null", "text", "nothing", "cut", "deep", "deeper", "no-text", "zeros"],
)
def test_what_is_no_manifest_is_told_in_a_sentence(image: Path, manifest: str | bytes) -> None:
    told(image, manifest)


def test_what_is_too_long_missing_or_no_file_is_told(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagefile, "MAX_MANIFEST", 10)
    assert "has more than 10 bytes" in told(image, json.dumps(GOOD))
    manifest = image.with_suffix(".manifest.json")
    manifest.unlink()
    with pytest.raises(SallyportError, match="No such file"):
        open_image(image)
    os.mkfifo(manifest)
    with pytest.raises(SallyportError, match="is not a file"):
        open_image(image)


@pytest.mark.parametrize("names", [(), ("esp",), ("data", *NAMES), ("esp", "slot-a", "slot-b", "\x1b[2J")])
def test_another_disk_is_told_by_its_partitions(tmp_path: Path, names: tuple[str, ...]) -> None:
    disk(tmp_path / "some.img", names)
    with pytest.raises(SallyportError, match=r"not one of Sallyport's|more than one partition"):
        open_image(tmp_path / "some.img")


def test_a_profile_or_a_file_that_somebody_sent_is_bounded(tmp_path: Path) -> None:
    deep = tmp_path / "deep.toml"
    deep.write_text("a = " + "[" * 100_000)
    with pytest.raises(SallyportError, match=r"deep\.toml"):
        profile.load(str(deep))
    deep.write_bytes(b"#" * (2 << 20))
    with pytest.raises(SallyportError, match="has more than"):
        profile.load(str(deep))
    with pytest.raises(SallyportError, match="cannot be read"):
        untrusted.read(Path("a\0b"), 1)
