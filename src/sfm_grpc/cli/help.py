"""Words that `--help` of several commands share."""

from __future__ import annotations


def epilog(title: str, *lines: str) -> str:
    """A block at the end of a help text whose lines stay as they are."""
    # The backspace keeps the paragraph from being wrapped.
    return "\b\n" + "\n".join([f"{title}:", *(f"  {line}" for line in lines)])
