"""Density matrices as bytes, as proofs and as envelopes: pure functions, no I/O.

`matrix` builds records from untrusted parts, `admission` proves that they are density matrices, `envelope` writes them into
files and text. `matrix` and `envelope` need numpy only: the client uses them too.
"""
