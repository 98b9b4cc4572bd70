"""Finds every shell script of a checkout, and renders the templates among them for each profile and datapath."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rootfs.spec import profile
from rootfs.tree import frontend_image, host_image, overlay
from tests.lint import files

_SHEBANG = re.compile(rb"#!\s*(/usr)?/bin/(env )?(ba|da|a)?sh\b")


def scripts(root: Path) -> Iterator[Path]:
    """Every file of the checkout at ``root`` that begins with a shell's ``#!`` line."""
    for path in files.own(root):
        with path.open("rb") as file:
            if _SHEBANG.match(file.read(64)):
                yield path


def variants() -> Iterator[tuple[str, profile.Profile]]:
    """Name and profile: each shipped device profile with each datapath, and once with its port at a PCI address."""
    for shipped in profile.names():
        for datapath in profile.DATAPATHS:
            yield f"{shipped}-{datapath}", profile.load(shipped, datapath)
        device = profile.load(shipped)
        port = device.management.model_copy(update={"match": "pci:0000:02:00.1"})
        yield f"{shipped}-pci", device.model_copy(update={"management": port})


def values(overlay_name: str, device: profile.Profile, *, test_access: bool = False) -> Mapping[str, object]:
    """What the templates of an overlay are rendered with.

    Args:
        overlay_name: folder below overlays/: those of the host begin with ``host``, all others are the VM's.
        device: whose image it is.
        test_access: whether it is a test image.
    """
    if overlay_name.startswith("host"):
        return host_image.values(device, "debian", test_access=test_access)
    return frontend_image.values(device)


@contextmanager
def collected(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Lay every shell script of the checkout, templates rendered, into a temporary directory.

    Yields:
        the directory, and the paths in it: as in the checkout; a rendered one below ``rendered-PROFILE-DATAPATH``, once
        for each text that it renders to.
    """
    with TemporaryDirectory(prefix="sallyport-lint-") as name:
        folder, found = Path(name), []
        for path in scripts(root):
            place = path.relative_to(root)
            for target, text in _texts(path, place).items():
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                (folder / target).write_text(text)
                found.append(target)
        yield folder, found


def _texts(path: Path, place: Path) -> dict[str, str]:
    """The script's text, or the different ones that a template renders to, each by the name to show."""
    if place.suffix != ".j2":
        return {place.as_posix(): path.read_text()}
    texts: dict[str, str] = {}
    for variant, device in variants():
        for kind, test_access in (("", False), ("-test", True)):
            text = overlay.render(path, values(place.parts[1], device, test_access=test_access))
            if text not in texts.values():
                texts[f"rendered-{variant}{kind}/{place.with_suffix('').as_posix()}"] = text
    return texts
