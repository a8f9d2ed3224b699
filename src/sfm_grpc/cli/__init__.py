"""The command `sfm`: serve, and speak gRPC to a server. It never opens a store.

`root` has the commands; each module imports what it needs when its command runs, so that `sfm --help` is quick.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """The entry point: runs the command line and ends the process with one of the codes of `exits`."""
    # gRPC's own C code writes to stderr past every logger; what matters of it comes back as an error with a sentence.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from sfm_grpc.cli.root import run
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        print("sfm is not installed, only the client is: pip install 'sfm-grpc[server]'", file=sys.stderr)
        sys.exit(2)
    sys.exit(run())
