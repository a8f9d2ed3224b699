"""What can be said to the demo on its command line."""

from __future__ import annotations

import argparse
import contextlib

from examples.cognitive_manager.stream import Stream

_SHOW = "The show: two managers follow the standard library's vectors into one namespace, and nothing is lost, doubled or bent."


def arguments(stream: Stream) -> argparse.Namespace:
    """What the command line says; ends the program where that makes no sense."""
    parser = argparse.ArgumentParser(prog="demo", description=_SHOW)
    parser.add_argument("--target", metavar="HOST:PORT", help="a server that runs already, instead of fresh ones")
    parser.add_argument(
        "--servers",
        type=_positive,
        default=1,
        metavar="N",
        help="fresh servers on one store (default: 1); each manager calls another one first",
    )
    parser.add_argument(
        "--tenant", help="whose namespace (default: 'default'; on Postgres one that nobody has had yet, printed at the start)"
    )
    parser.add_argument("--namespace", default="cognitive-manager", help="where to write; what is there already is resumed")
    parser.add_argument(
        "--batches",
        type=_positive,
        default=stream.batches,
        metavar="N",
        help="the first N of the stream's (default: all %(default)s)",
    )
    parser.add_argument(
        "--kill-server-every",
        type=_seconds,
        metavar="SECONDS",
        help="SIGKILL a server so long after both managers could commit, again and again; of several each in its turn",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what the managers recall")
    parser.add_argument("--pause", type=_seconds, metavar="SECONDS", help="to do nothing after each batch (default: none)")
    given = parser.parse_args()
    if given.batches > stream.batches:
        parser.error(f"--batches: the stream has {stream.batches}")
    if given.kill_server_every and given.target:
        parser.error("--kill-server-every: only a server that the demo starts is the demo's to kill")
    if given.servers > 1 and given.target:
        parser.error("--servers: how many answer at --target is not the demo's to say")
    return given


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < float("inf"):
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
