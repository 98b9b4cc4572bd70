"""The commands of the SSH command line, from the table that carries them out."""

from __future__ import annotations

from docs.generate.markdown import code, sentence, table
from frontend_vm import cli


def commands() -> str:
    """Every command with its arguments."""
    rows = [
        [code(f"{name} {command.usage}".rstrip()), sentence(command.run.__doc__)]
        for name, command in cli.COMMANDS.items()
    ]
    return table(["command", "what it does"], rows)
