"""The protocol's scripts: small, and no numbers go in or out of them. EVALSHA; EVAL where Redis does not know them (any more)."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from redis.exceptions import NoScriptError

from sfm_grpc.storage import statements
from sfm_grpc.storage.redis.line import Caller


class Script:
    """One script; its one key is a namespace's control hash."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = statements.text(__package__, f"lua/{name}.lua")
        self.sha1 = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, caller: Caller, timeout_s: float, key: bytes, *arguments: object) -> Any:
        """What it answers. Raises redis.RedisError; its TimeoutError where it does not, in time."""
        try:
            return await caller.call(timeout_s, "EVALSHA", self.sha1, 1, key, *arguments)
        except NoScriptError:
            return await caller.call(timeout_s, "EVAL", self.text, 1, key, *arguments)


READ: Final = Script("read")
PLANT: Final = Script("plant")
FILL: Final = Script("fill")
PUBLISH: Final = Script("publish")
