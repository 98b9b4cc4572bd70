"""The same inputs give the same bytes: at another time, in another place, however the build is started."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootfs import build as images
from rootfs.base import cache as steps
from rootfs.base.version import PROJECT
from rootfs.build import Built

pytestmark = pytest.mark.image
FETCHED = ("packages-", "buildroot-", "linux-", "toolchain")
"""Steps whose outputs are taken as they are: the others are done once more."""
NOT_SOURCE = ("out", ".venv", ".git", ".*_cache", "__pycache__", "*.so", "*.bpf.o")
ODD = {
    "HOME": "/no/such home",
    "USER": "o'nobody",
    "LC_ALL": "tr_TR.ISO-8859-9",
    "LANG": "tr_TR.ISO-8859-9",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONHASHSEED": "1",
    "PYTHONOPTIMIZE": "2",
    "TZ": "Pacific/Kiritimati",
    "SOURCE_DATE_EPOCH": "1",
    "CFLAGS": "-O0",
    "LD_LIBRARY_PATH": "/no/such",
}


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A checkout in an odd place, as a file system without modes or a careful user has it; ``out`` is a link."""
    place = Path(tempfile.mkdtemp(dir=images.OUT, prefix=".elsewhere-"))
    checkout = place / "ein Ort, für 'alles' 目录"
    shutil.copytree(PROJECT, checkout, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    for path in (checkout, *checkout.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o600)
    (checkout / "out").symlink_to("../big disk")
    cache = checkout / "out/cache"
    (place / "big disk").mkdir()
    cache.mkdir()
    for made in images.CACHE.iterdir():
        if made.name.startswith(FETCHED) and made.is_dir():
            (cache / made.name).symlink_to(made)
    yield checkout
    steps.remove(place)


def digests(image: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in image.parent.glob(f"{image.stem}.*")}


def test_an_image_is_the_same_wherever_and_however_it_is_built(release: Built, made_by: str, elsewhere: Path) -> None:
    temporary = elsewhere.parent / "/".join(["t m p" * 20] * 2)
    temporary.mkdir(parents=True, mode=0o700)
    env = {"PATH": os.environ["PATH"], "TMPDIR": str(temporary), **ODD}
    env |= {name: value for name, value in os.environ.items() if name.startswith("SALLYPORT_")}
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "-r", elsewhere, "image", "--engine", made_by],
        cwd="/",
        env=env,
        umask=0o077,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    again = elsewhere / "out" / release.image.name
    # It was built, and not found.
    assert {path.name.rsplit("-", 1)[0] for path in again.parent.glob("cache/disk-*")} == {"disk"}
    assert digests(again) == digests(release.image)
    assert len(digests(again)) == 4, "image, block map, manifest, bill of materials"
