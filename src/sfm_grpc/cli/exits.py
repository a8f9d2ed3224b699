"""How a command ends: its exit code, and the error that carries one with its sentence."""

from __future__ import annotations

import enum

from sfm_grpc.errors import Code, SfmError


class Exit(enum.IntEnum):
    """The exit codes, for scripts. `sfm --help` lists them."""

    OK = 0
    WRONG = 1
    """The question was answered, and the answer is no: not healthy, not valid, not what it should be, lines refused."""
    USAGE = 2
    """The command line, the configuration or a local file is wrong; nothing was sent."""
    UNREACHABLE = 3
    """No server, no store, no time: the same command may succeed later."""
    REFUSED = 4
    """The server refused: a conflict, something invalid, something absent. The same command will not succeed later."""


LIST = (
    (Exit.OK, "done; the answer is yes"),
    (Exit.WRONG, "the answer is no: not healthy, not valid, not what it should be, lines refused"),
    (Exit.USAGE, "the command line, the configuration or a local file is wrong"),
    (Exit.UNREACHABLE, "the server or its store cannot be reached just now"),
    (Exit.REFUSED, "the server refused: a conflict, something invalid or absent"),
)


class CommandError(Exception):
    """A command cannot go on; `str()` is the sentence for stderr."""

    def __init__(self, sentence: str, code: Exit = Exit.USAGE) -> None:
        super().__init__(sentence)
        self.code = code


_CODES = {
    Code.UNAVAILABLE: Exit.UNREACHABLE,
    Code.DEADLINE_EXCEEDED: Exit.UNREACHABLE,
    Code.DATA_LOSS: Exit.WRONG,
}


def exit_of(error: SfmError) -> Exit:
    """The exit code of an error the server or the client raised."""
    if error.retry_delay_s is not None:
        return Exit.UNREACHABLE
    if error.code is Code.INVALID_ARGUMENT and not error.request_id:
        # Every answer of a server has its id of the call: the client itself found this, before it sent anything.
        return Exit.USAGE
    return _CODES.get(error.code, Exit.REFUSED)
