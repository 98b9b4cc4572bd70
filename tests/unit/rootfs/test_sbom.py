"""The bill of materials: valid CycloneDX, both parts, the same bytes each time; licences as packages tell them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from rootfs.artifact import sbom
from rootfs.base import licenses
from rootfs.base.licenses import Licenses
from rootfs.base.packages import Package

ZLIB = Package("zlib1g", "1:1.3.dfsg-1", "amd64", "ab" * 32)
QEMU = Package("qemu-system-x86", "1:10.0-2", "amd64", "cd" * 32)
SAYS = {"zlib1g": Licenses(("Zlib", "GPL-2+")), "qemu-system-x86": Licenses(text='See "COPYING".\n')}
PARTS = [
    sbom.Part("host", "the host", [ZLIB, QEMU], SAYS, "backend"),
    sbom.Part("frontend", "the VM", [ZLIB], {}, "frontend_vm"),
]
DEP5 = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: thing

Files: *
Copyright: 2020 Somebody
License: GPL-2+

Files: a/*
Copyright: 2021 Somebody else
License: Expat
 Permission is hereby granted.

License: GPL-2+
 On Debian systems see /usr/share/common-licenses/GPL-2.
"""


def test_the_document_is_valid_and_has_both_parts() -> None:
    text = sbom.document("sallyport-1-qemu", "1", "ef" * 32, PARTS)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found = json.loads(text)
    assert found["metadata"]["component"]["name"] == "sallyport-1-qemu"
    assert found["metadata"]["component"]["properties"] == [{"name": "sallyport:root-hash", "value": "ef" * 32}]
    by_ref = {component["bom-ref"]: component for component in found["components"]}
    assert set(by_ref) == {
        "host", "host/backend", "host/zlib1g", "host/qemu-system-x86",
        "frontend", "frontend/frontend_vm", "frontend/zlib1g",
    }  # fmt: skip
    zlib = by_ref["host/zlib1g"]
    assert zlib["purl"] == "pkg:deb/debian/zlib1g@1:1.3.dfsg-1?arch=amd64&distro=trixie"
    assert zlib["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    # What SPDX knows goes by its identifier, what is Debian's by its name, and what has no name with its text.
    assert zlib["licenses"] == [{"license": {"id": "Zlib"}}, {"license": {"name": "GPL-2+"}}]
    (own,) = by_ref["host/qemu-system-x86"]["licenses"]
    assert own["license"]["text"]["content"] == 'See "COPYING".\n'
    assert "licenses" not in by_ref["frontend/zlib1g"]
    needs = {dependency["ref"]: set(dependency.get("dependsOn", ())) for dependency in found["dependencies"]}
    assert needs["image"] == {"host", "frontend"}
    assert needs["frontend"] == {"frontend/frontend_vm", "frontend/zlib1g"}


def test_the_same_image_gives_the_same_bytes_and_another_one_another_number() -> None:
    one, two, other = (sbom.document("a", "1", root, PARTS) for root in ("00" * 32, "00" * 32, "11" * 32))
    assert one == two
    more = sbom.document("a", "1", "00" * 32, [*PARTS[:1], replace(PARTS[1], licenses=SAYS)])
    assert len({json.loads(text)["serialNumber"] for text in (one, other, more)}) == 3


def test_a_machine_readable_copyright_file_is_told_by_its_names() -> None:
    assert licenses.of_text(DEP5) == Licenses(("Expat", "GPL-2+"))


@pytest.mark.parametrize(
    "text",
    [
        "This is free software, see /usr/share/common-licenses/GPL-2.\n",
        "",
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nCopyright: nobody\n",
        "\n\n: :\n",
    ],
)
def test_another_one_by_its_text(text: str) -> None:
    assert licenses.of_text(text) == Licenses(text=text)


def test_what_packages_say_is_kept(tmp_path: Path) -> None:
    doc = tmp_path / "tree/usr/share/doc"
    (doc / "thing").mkdir(parents=True)
    (doc / "thing/copyright").write_text(DEP5)
    (doc / "libthing1").symlink_to("thing")
    (doc / "odd").mkdir()
    (doc / "odd/copyright").write_bytes(b"\xff\xfe free\n")
    found = licenses.read(tmp_path / "tree", ["thing", "libthing1", "odd", "none"])
    assert found["libthing1"] == found["thing"] == Licenses(("Expat", "GPL-2+"))
    assert found["odd"].text.endswith(" free\n")
    assert found["none"] == Licenses()
    licenses.save(found, tmp_path / "licenses.json")
    assert licenses.load(tmp_path / "licenses.json") == found
