"""Services to develop with: `make up`, `make down`.

`python -m tests.support.services up|down|status [--only NAME] [--dir DIR]`
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.support.services.development import HOME, DevelopmentService, UnusableError
from tests.support.services.development_postgres import DevelopmentPostgres
from tests.support.services.development_redis import DevelopmentRedis

SERVICES: dict[str, type[DevelopmentService]] = {kind.name: kind for kind in (DevelopmentPostgres, DevelopmentRedis)}
MIGRATE = ".venv/bin/sfm migrate    # once, and after each update"
RUN = "make run"


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m tests.support.services", description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("order", choices=["up", "down", "status"])
    arguments.add_argument("--only", choices=SERVICES, help="one of them (default: all)")
    arguments.add_argument("--dir", type=Path, default=HOME, help="where what is theirs lies (default: var/services)")
    told = arguments.parse_args()
    kinds = [SERVICES[told.only]] if told.only else SERVICES.values()
    try:
        {"up": up, "down": down, "status": status}[told.order]([kind(told.dir.absolute()) for kind in kinds])
    except UnusableError as error:
        sys.exit(str(error))


def up(services: list[DevelopmentService]) -> None:
    """Starts what is down, and says what to type next."""
    exports = [f"export {service.variable}={service.up()}" for service in services]
    for service in services:
        print(f"{service.title} is up; `make down` stops it, and {service.keeps} {service.where}")
    migrates = [MIGRATE] if any(isinstance(service, DevelopmentPostgres) for service in services) else []
    print("Next:", *exports, *migrates, RUN, sep="\n  ")


def down(services: list[DevelopmentService]) -> None:
    """Stops what is up."""
    for service in services:
        print(f"{service.title} {'is stopped' if service.down() else 'was down'}; {service.keeps} {service.where}")


def status(services: list[DevelopmentService]) -> None:
    """What is up, and where; ends with 3 where something is down, as service commands do."""
    urls = {service.name: service.url for service in services}
    print(*(f"{name}: {url or 'down'}" for name, url in urls.items()), sep="\n")
    sys.exit(0 if all(urls.values()) else 3)


if __name__ == "__main__":
    main()
