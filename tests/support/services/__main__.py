"""Services to develop with: `make up`, `make down`. `python -m tests.support.services up|down|status [--dir DIR]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.support.services.development import HOME, DevelopmentPostgres, UnusableError

SERVICES = [DevelopmentPostgres]
NEXT = ".venv/bin/sfm migrate    # once, and after each update\nmake run"


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m tests.support.services", description=__doc__)
    arguments.add_argument("order", choices=["up", "down", "status"])
    arguments.add_argument("--dir", type=Path, default=HOME, help="where their data lies (default: var/services)")
    told = arguments.parse_args()
    try:
        {"up": up, "down": down, "status": status}[told.order]([service(told.dir.absolute()) for service in SERVICES])
    except UnusableError as error:
        sys.exit(str(error))


def up(services: list[DevelopmentPostgres]) -> None:
    """Starts what is down, and says what to type next."""
    exports = [f"export {service.variable}={service.up()}" for service in services]
    print(
        *(f"{service.name} is up, its data in {service.where}; `make down` stops it and keeps them" for service in services),
        sep="\n",
    )
    print("Next:", *exports, *NEXT.splitlines(), sep="\n  ")


def down(services: list[DevelopmentPostgres]) -> None:
    """Stops what is up."""
    for service in services:
        print(f"{service.name} {'is stopped' if service.down() else 'was down'}; its data stay in {service.where}")


def status(services: list[DevelopmentPostgres]) -> None:
    """What is up, and where; ends with 3 where something is down, as service commands do."""
    urls = {service.name: service.url for service in services}
    print(*(f"{name}: {url or 'down'}" for name, url in urls.items()), sep="\n")
    sys.exit(0 if all(urls.values()) else 3)


if __name__ == "__main__":
    main()
