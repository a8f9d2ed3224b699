"""One manager as a process of its own: `python -m examples.cognitive_manager --target HOST:PORT`.

It writes a line of JSON for each commit that was acknowledged, and a last one with what it counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from examples.cognitive_manager.ledger import Share
from examples.cognitive_manager.manager import Manager
from examples.cognitive_manager.state import ForeignNamespaceError
from examples.cognitive_manager.stream import Stream
from examples.cognitive_manager.tally import Acknowledged
from sfm_grpc.client import Client, SfmError


def main() -> int:
    """Runs the manager; 0 when its share is in the store."""
    given = _arguments()
    stream = Stream.load()
    with Client(given.target, tenant=given.tenant, name=given.name) as client:
        manager = Manager(
            client.namespace(given.namespace),
            stream,
            name=given.name,
            share=given.share,
            batches=min(given.batches or stream.batches, stream.batches),
            recalls=given.recalls,
            seed=given.seed,
            pause_s=given.pause,
            on_commit=_tell,
        )
        try:
            if given.hold and not _told_to_go():
                return 1
            manager.run()
        except (SfmError, ForeignNamespaceError) as error:
            print(f"{given.name}: {error}", file=sys.stderr)
            return 1
        finally:
            print(json.dumps({"tally": manager.tally.to_json()}), flush=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.cognitive_manager", description=__doc__)
    parser.add_argument(
        "--target",
        default="127.0.0.1:50051",
        metavar="HOST:PORT",
        help="or ipv4:ADDRESS:PORT,ADDRESS:PORT: servers of one store, the first that answers",
    )
    parser.add_argument("--tenant", default="default", help="whose namespace")
    parser.add_argument("--namespace", default="cognitive-manager")
    parser.add_argument("--name", default="manager", help="who commits")
    parser.add_argument(
        "--share", type=Share.parse, default=Share(0, 1), metavar="K/N", help="every n-th batch, from the k-th on"
    )
    parser.add_argument("--batches", type=int, default=0, metavar="N", help="the first N of the stream's; 0: all")
    parser.add_argument("--recalls", type=int, default=3, metavar="N", help="recalls after each commit")
    parser.add_argument("--seed", type=int, default=0, help="of what is recalled")
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS", help="to do nothing after each batch")
    parser.add_argument("--hold", action="store_true", help="say when ready, and wait for a line on standard input")
    return parser.parse_args()


def _told_to_go() -> bool:
    """False: whoever should have said so is gone."""
    print(json.dumps({"ready": True}), flush=True)
    return bool(sys.stdin.readline())


def _tell(done: Acknowledged) -> None:
    print(json.dumps({"acknowledged": asdict(done)}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
