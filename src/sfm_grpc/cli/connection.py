"""Where the server is: the options that every command that calls it shares."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Concatenate, ParamSpec

import typer

from sfm_grpc.cli.exits import CommandError, Exit

if TYPE_CHECKING:
    from sfm_grpc.client import Client, Tls

P = ParamSpec("P")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@dataclass(frozen=True, slots=True)
class Connection:
    """One server as this command line names it. Its fields are the shared options, in the order in which `--help` lists them."""

    target: Annotated[str, typer.Option(envvar="SFM_TARGET", metavar="HOST:PORT", help="The server's gRPC address.")] = (
        "127.0.0.1:50051"
    )
    tenant: Annotated[str, typer.Option(envvar="SFM_TENANT", help="Whose namespaces.")] = "default"
    timeout: Annotated[float, typer.Option(min=0.001, metavar="SECONDS", help="How long each call may take.")] = 10.0
    tls: Annotated[bool, typer.Option("--tls", help="Use TLS, with the system's authorities.")] = False
    tls_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM authorities to trust, instead of the system's; implies --tls.")
    ] = None
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM certificate chain of one's own, where the server asks for one.")
    ] = None
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM private key of --tls-cert.")] = None

    def open(self) -> Client:
        """A client; nothing is sent yet. Raises CommandError for certificates that cannot be read."""
        from sfm_grpc.client import Client
        from sfm_grpc.errors import InvalidRequest

        try:
            # A command reads each thing once: nothing is worth keeping.
            return Client(self.target, tenant=self.tenant, timeout_s=self.timeout, tls=self.credentials(), cache_bytes_max=0)
        except InvalidRequest as error:
            raise CommandError(f"--{error}") from None

    def words(self) -> list[str]:
        """The options that lead another command to the same server: those that are not the default, nor the environment's."""
        words: list[str] = []
        for name in ("target", "tenant", "tls", "tls_ca", "tls_cert", "tls_key"):
            said, parameter = getattr(self, name), _SHARED[name]
            option = parameter.annotation.__metadata__[0]
            if said == parameter.default or (option.envvar and os.environ.get(option.envvar) == said):
                continue
            words.append(f"--{name.replace('_', '-')}")
            if said is not True:
                words.append(str(said))
        return words

    def credentials(self) -> Tls | None:
        """TLS as the options say; None: without. Raises CommandError."""
        if bool(self.tls_cert) != bool(self.tls_key):
            raise CommandError("--tls-cert and --tls-key go together")
        if not (self.tls or self.tls_ca or self.tls_cert):
            return None
        from sfm_grpc.client import Tls

        try:
            return Tls.from_files(self.tls_ca, self.tls_key, self.tls_cert)
        except OSError as error:
            raise CommandError(f"{error.filename} cannot be read: {error.strerror}") from None


_SHARED = dict(inspect.signature(Connection, eval_str=True).parameters)


def connected(command: Callable[Concatenate[Connection, P], None]) -> Callable[P, None]:
    """The command with the shared options after its own; its first parameter becomes the Connection they describe."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        shared = {name: kwargs.pop(name) for name in _SHARED}
        return command(Connection(**shared), *args, **kwargs)  # type: ignore[arg-type]

    shared = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in _SHARED.values()]
    signature = inspect.Signature([p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared)
    # typer reads these two, and nothing else, of a function.
    wrapper.__signature__ = signature  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return wrapper


@contextmanager
def repeatable(request_id: str, done: str) -> Iterator[None]:
    """An error that leaves open whether the request was `done` says how to find out. Raises CommandError for it."""
    from sfm_grpc.client import DeadlineExceeded, StoreUnavailable, Unreachable

    try:
        yield
    except (Unreachable, StoreUnavailable, DeadlineExceeded) as error:
        told = f"; to learn whether it was {done}, repeat it with --request-id {request_id}"
        raise CommandError(str(error) + told, Exit.UNREACHABLE) from None
