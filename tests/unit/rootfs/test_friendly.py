"""Errors as people read them."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
from invoke import Exit

from rootfs.errors import SallyportError
from rootfs.friendly import friendly

NO_ROOM = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SallyportError("it is [red]", "mend it"), ["error: it is [red]", "what to do: mend it"]),
        (PermissionError(errno.EACCES, "Permission denied", "/a file"), ["error: /a file: Permission denied"]),
        (OSError(errno.ENOSPC, NO_ROOM), [f"error: {NO_ROOM}", "what to do: make room"]),
        (
            shutil.Error([("a", "/out/a", f"[Errno 28] {NO_ROOM}"), ("b", "/out/b", NO_ROOM)]),
            [f"error: /out/a: [Errno 28] {NO_ROOM}, and 1 more like it", "what to do: make room"],
        ),
    ],
)
def test_what_can_be_expected_is_a_sentence(
    error: Exception, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(Exit) as caught:
        friendly(fail)()
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    for part in words:
        assert part in said
