"""Part of the script that attacks the instruction protocol: one class of attacks between two controls.

Usage: argument 1 is the plan, JSON of `proof.inside.misuse.plan`: one class of attacks, its seed, where the backend is,
and the limits that it declares. The answer is a `proof.inside.misuse.Report`. What must not be accepted has a ``seq``
above a mark; the backend, asked for the largest ``seq`` that it has seen, thereby tells whether it accepted something
without a reply.
"""

import random
import time
from collections import Counter
from typing import Any

from proof.inside.misuse_script.connection import BUDGET, PLAN, Tally
from proof.inside.misuse_script.controls import AHEAD, control, last_seq
from proof.inside.misuse_script.endings import cut, slow
from proof.inside.misuse_script.handshake import records, tls
from proof.inside.misuse_script.limits import approval, connections, pipelined, sequence
from proof.inside.misuse_script.lines import malformed, mutants, oversized

ATTACKS = (malformed, oversized, slow, tls, records, cut, sequence, connections, approval, mutants, pipelined)


def main() -> dict[str, Any]:
    """Run one class of attacks between two controls and return the report."""
    tally, rng, budget = Tally(), random.Random(PLAN["seed"]), BUDGET.end
    attack = {one.__name__: one for one in ATTACKS}[PLAN["attack"]]
    before, trouble = control(tally)
    after, moved, counts = None, False, Counter[str]()
    if before is not None:
        BUDGET.end = budget
        tally.counts.clear()
        try:
            tally.mark = last_seq(tally) + AHEAD
            attack(tally, rng)
        except Exception as error:
            trouble = f"{type(error).__name__} {error}"
        counts = Counter(tally.counts)
        after, why = control(tally)
        trouble = trouble or why
        if after is not None and attack not in (mutants, pipelined):
            BUDGET.end = time.monotonic() + PLAN["recovery"]
            moved = last_seq(tally) >= tally.mark
    if moved:
        tally.wrong.append("a request that was refused or never complete moved the backend's sequence")
    answer = {"before": before, "after": after, "tried": sum(counts.values()), "counts": dict(counts)}
    return answer | {"wrong": tally.wrong, "notes": tally.notes[:20], "trouble": trouble[:300]}
