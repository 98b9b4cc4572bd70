"""Remote scripts: assembled from files, run by a plain Python, and believed only with a whole answer of their type."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from proof.host import audit_log, listeners
from proof.host.system.run import PARTS, script
from proof.inside import devices, flood, forwarding, host_work, misuse
from proof.remote_answer import framed
from proof.remote_script import HOST_TRIES, MAX_LINE, RemoteScript, RemoteScriptError, assemble

LISTING: RemoteScript[dict[str, int]] = RemoteScript("", dict[str, int], 64)


def execute(command: str) -> str:
    words = shlex.split(command)
    return subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, timeout=60, check=True).stdout


def files(folder: Path) -> tuple[Path, Path]:
    (folder / "first.py").write_text(
        '"""Shared."""\nimport os, sys\nfrom typing import Any\nLIMIT: int = 3\n"""Three."""\nUNUSED = 1\n'
        "class Wrong(Exception):\n    '''Only a docstring.'''\n\n"
        "def double(number: int) -> Any:\n    '''Twice.'''\n    return number * 2\n"
    )
    (folder / "second.py").write_text(
        "from __future__ import annotations\nimport sys\nfrom proof.first import LIMIT, Wrong, double\n"
        "def work() -> dict[str, int]:\n    left: int\n    try:\n        raise Wrong\n    except Wrong:\n"
        "        return {'a': double(LIMIT), 'b': int(sys.argv[1])}\n"
    )
    return folder / "first.py", folder / "second.py"


def test_files_become_one_script_without_what_is_not_used(tmp_path: Path) -> None:
    source = assemble(*files(tmp_path), main="answer(work())")
    assert not {"UNUSED", "import os", "Twice", "-> ", "proof.", "Any"} & {part for part in
               ("UNUSED", "import os", "Twice", "-> ", "proof.", "Any") if part in source}  # fmt: skip
    script = RemoteScript(source, dict[str, int])
    assert script.decode("noise\r\n" + execute(script.command("7"))) == {"a": 6, "b": 7}


def test_a_file_that_acts_when_it_is_read_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "acts.py").write_text("import sys\nprint(sys.argv)\n")
    with pytest.raises(ValueError, match=r"acts\.py:2: the top level"):
        assemble(tmp_path / "acts.py", main="answer(1)")


def line(data: bytes, *, cut: int = 0) -> str:
    packed = zlib.compress(data)
    packed = packed[: len(packed) - cut]
    return f"SALLYPORT-ANSWER {zlib.crc32(packed):08x} {base64.b64encode(packed).decode()}"


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("", "printed no answer"),
        ("Traceback", "printed no answer"),
        (framed({"a": 1})[:-12], "damaged"),
        (framed({"a": 1}).replace("SALLYPORT-ANSWER ", "SALLYPORT-ANSWER 0000000", 1)[:-7], "no answer|damaged|read"),
        ("SALLYPORT-ANSWER 00000000 ====", "cannot be read"),
        ("SALLYPORT-ANSWER 00000000 AAAA", "damaged|cannot be read"),
        (line(b'{"a": 1}', cut=4), "cut off|cannot be read"),
        (line(b" " * 65), "longer than 64 bytes"),
        (line(json.dumps({"a": "x"}).encode()), "cannot be read"),
        (line(b"not JSON"), "cannot be read"),
        (line(b"\xff\xfe"), "cannot be read"),
    ],
)
def test_what_is_no_whole_answer_of_the_type_is_refused(output: str, why: str) -> None:
    assert LISTING.decode(f"$ echo\r\n{framed({'a': 1})}\r\n$ ") == {"a": 1}
    with pytest.raises(RemoteScriptError, match=why):
        LISTING.decode(output)


def test_the_host_is_asked_again_and_the_last_reason_is_told() -> None:
    outputs = iter([(1, "no"), (0, "noise"), (0, framed({"a": 1}))])
    assert LISTING.run_on_host(lambda command: next(outputs)) == {"a": 1}
    tries: list[str] = []
    with pytest.raises(RemoteScriptError, match="exit code 1"):
        LISTING.run_on_host(lambda command: tries.append(command) or (1, "no"))  # type: ignore[func-returns-value]
    assert len(tries) == HOST_TRIES


def test_scripts_of_the_host_fit_in_a_line_and_those_of_the_vm_in_an_ssh_packet() -> None:
    parts = {part: script(part) for part in PARTS}
    on_host: dict[str, RemoteScript[Any]] = {"listeners": listeners.SCRIPT, "work": host_work.BEGIN_WORK, **parts}
    in_vm: list[RemoteScript[Any]] = [misuse.SCRIPT, devices.SCRIPT, flood.BEGIN, flood.END, forwarding.READ]
    in_vm.append(audit_log.SCRIPT)
    assert [name for name, one in on_host.items() if len(one.command("60.0", host_work.WORK_FILE)) >= MAX_LINE] == []
    # 32 KiB is what an SSH packet surely holds (RFC 4253 section 6.1); a plan goes with the script.
    assert max(len(one.command()) for one in in_vm) < 28_000
    for one in (*on_host.values(), *in_vm):
        compile(one.source, "script", "exec")
