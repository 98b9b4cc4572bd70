"""Why an instruction was not carried out, as the front-end's parts tell one another."""

from __future__ import annotations

from frontend_vm.protocol.instructions import Error


class Unreachable(Exception):
    """The backend gave no answer; the text is a sentence for the operator."""


class Refused(Exception):
    """The backend answered with an error, or would have: a request outside of the schema is not sent at all."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.message)
        self.error = error
