"""The embedded index: Qdrant's own engine, in a process of its own for each geometry.

Every call of the engine's Python package holds the interpreter's lock for as long as it takes: a search for a millisecond,
putting a thousand points for 60, building a graph over 25 000 for half a minute. In our process no thread would run meanwhile, so
it is not in our process. `geometry` says what happens while a graph is built.
"""
