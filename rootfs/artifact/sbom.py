"""The bill of materials of an image: host and front-end VM in one CycloneDX 1.6 document (ECMA-424).

The same image gives the same bytes: the serial number is derived from the contents, the time is `EPOCH`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cyclonedx.model import AttachedText, HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import is_supported_id
from packageurl import PackageURL

from rootfs.base.apt_sources import SUITE
from rootfs.base.licenses import Licenses
from rootfs.base.packages import Package
from rootfs.base.tools_tree import EPOCH

_SPACE = uuid.UUID("0d6a1c0e-6a4e-5a52-9d0b-3a5f0c9f7b11")
"""Namespace of serial numbers (RFC 9562, section 5.5), chosen at random once."""


@dataclass(frozen=True)
class Part:
    """One root file system of the image, and the packages that it was made of, including its kernel and boot loader."""

    name: str
    description: str
    packages: Sequence[Package]
    licenses: Mapping[str, Licenses]
    own: str
    """Name of our own Python package in it."""


def document(name: str, version: str, root_hash: str, parts: Sequence[Part]) -> str:
    """The document as JSON.

    Args:
        name: name of the image.
        version: version of the image, and of our own packages in it.
        root_hash: dm-verity's root hash of the host's root file system, which identifies the image.
        parts: host and front-end VM.
    """
    image = Component(
        type=ComponentType.FIRMWARE, name=name, version=version, bom_ref="image",
        properties=[Property(name="sallyport:root-hash", value=root_hash)],
    )  # fmt: skip
    bom = Bom(metadata=BomMetaData(component=image, timestamp=datetime.fromtimestamp(EPOCH, UTC)))
    for part in parts:
        whole = Component(
            type=ComponentType.OPERATING_SYSTEM, name=part.name, version=version, bom_ref=part.name,
            description=part.description,
        )  # fmt: skip
        own = Component(
            type=ComponentType.APPLICATION, name=part.own, version=version, bom_ref=f"{part.name}/{part.own}",
            licenses=[DisjunctiveLicense(id="Apache-2.0")],
        )  # fmt: skip
        inside = [own, *(_component(part, package) for package in part.packages)]
        for component in (whole, *inside):
            bom.components.add(component)
        bom.register_dependency(whole, inside)
    bom.register_dependency(image, [c for c in bom.components if c.type is ComponentType.OPERATING_SYSTEM])
    bom.serial_number = uuid.UUID(int=0)
    bom.serial_number = uuid.uuid5(_SPACE, JsonV1Dot6(bom).output_as_string())
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def _component(part: Part, package: Package) -> Component:
    says = part.licenses.get(package.name, Licenses())
    licenses = [DisjunctiveLicense(id=n) if is_supported_id(n) else DisjunctiveLicense(name=n) for n in says.names]
    if not licenses and says.text:
        licenses = [DisjunctiveLicense(name="see text", text=AttachedText(content=says.text))]
    return Component(
        type=ComponentType.LIBRARY if package.name.startswith("lib") else ComponentType.APPLICATION,
        name=package.name,
        version=package.version,
        bom_ref=f"{part.name}/{package.name}",
        purl=_purl(package),
        cpe=package.cpe or None,
        # SHA-256 of the package's file, or of the source archive that it was built from.
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=package.sha256)] if package.sha256 else [],
        licenses=licenses,
    )


def _purl(package: Package) -> PackageURL:
    if package.by != "debian":
        return PackageURL("generic", package.by, package.name, package.version)
    return PackageURL("deb", "debian", package.name, package.version, _qualifiers(package))


def _qualifiers(package: Package) -> dict[str, str]:
    """Qualifiers of a package URL; ``upstream`` as syft and grype write it: the source package with its version."""
    source = {"upstream": f"{package.source}@{package.source_version}"} if package.source else {}
    return {"arch": package.arch, "distro": SUITE} | source
