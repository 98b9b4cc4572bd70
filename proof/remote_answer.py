"""Prints the answer of a remote script: `remote_script.assemble` sends this file in front of every script."""

import base64
import json
import zlib
from typing import Any


def framed(value: Any) -> str:
    """Return a JSON value as one line: ``SALLYPORT-ANSWER <CRC-32, 8 hex digits> <base64 of zlib of the JSON>``.

    The line survives a serial console, which echoes and may lose bytes: the receiver finds it among other output and
    checks the CRC.
    """
    packed = zlib.compress(json.dumps(value).encode(), 9)
    return f"SALLYPORT-ANSWER {zlib.crc32(packed):08x} {base64.b64encode(packed).decode()}"


def answer(value: Any) -> None:
    """Print the script's answer. A script calls this once, at its end."""
    print(framed(value), flush=True)
