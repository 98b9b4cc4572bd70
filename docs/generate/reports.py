"""What `invoke verify` writes, from the types of its report."""

from __future__ import annotations

import dataclasses
from typing import Any

from docs.generate.markdown import code, table, text
from docs.generate.source import notes
from proof.report import report
from proof.result import Verdict


def verdicts() -> str:
    """Every verdict, how it is shown, and what it means."""
    said = notes(Verdict)
    return table(
        ["`verdict`", "shown as", "meaning"],
        [[code(one.value), report.WORDS[one], text(said.get(one.name))] for one in Verdict],
    )


def fields(kind: Any) -> str:
    """Every field of a dataclass."""
    said = notes(kind)
    rows = [[code(field.name), code(field.type), text(said.get(field.name))] for field in dataclasses.fields(kind)]
    return table(["field", "type", "meaning"], rows)


def groups() -> str:
    """Every group of probes and what it promises."""
    return table(["`group`", "title", "what it promises"], [[code(n), *words] for n, words in report.GROUPS.items()])
