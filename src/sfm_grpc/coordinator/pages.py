"""Pages of lists: how long one is, and the token that the next goes on by.

A token is opaque: which list it continues, and after what. Another list, or the same asked otherwise, does not take it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

import orjson

from sfm_grpc.errors import InvalidRequest

SIZE_DEFAULT = 50
_DIGEST_BYTES = 16


def size(asked: int, limit: int) -> int:
    """How many are on a page; 0 asks for the default. Raises InvalidRequest."""
    if not 0 <= asked <= limit:
        raise InvalidRequest(field="page_size", problem=f"is {asked}; it must be 1 to {limit}, or 0 for {SIZE_DEFAULT}")
    return asked or min(SIZE_DEFAULT, limit)


class PageTokens:
    """The tokens of one list."""

    def __init__(self, *about: object) -> None:
        """`about`: what the list is of, and everything that changes what is on it."""
        self._digest = hashlib.sha256(repr(about).encode()).digest()[:_DIGEST_BYTES]

    def after(self, place: object) -> str:
        """The token of what comes after a place, which can be said in JSON."""
        return base64.urlsafe_b64encode(self._digest + orjson.dumps(place)).decode()

    def place(self, token: str) -> object:
        """The place that a token was made of; None of an empty one. Callers see to its form. Raises InvalidRequest."""
        if not token:
            return None
        try:
            raw = base64.urlsafe_b64decode(token.encode())
            # What is behind a padding is passed over in decoding.
            if raw[:_DIGEST_BYTES] == self._digest and base64.urlsafe_b64encode(raw).decode() == token:
                place: object = orjson.loads(raw[_DIGEST_BYTES:])
                if place is not None:
                    return place
        except (ValueError, binascii.Error):
            pass
        raise not_of_this_list()

    def name(self, token: str) -> str:
        """The place of a list of names; "" before the first. Raises InvalidRequest."""
        place = self.place(token)
        if place is None:
            return ""
        if not isinstance(place, str):
            raise not_of_this_list()
        return place


def not_of_this_list() -> InvalidRequest:
    """What a token is refused with."""
    problem = "is not a token of this list, asked as it is now; send next_page_token unchanged, or none to start over"
    return InvalidRequest(field="page_token", problem=problem)
