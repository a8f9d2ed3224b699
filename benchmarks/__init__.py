"""Side-by-side measurements. Speed is always a ratio to a peer of the same run: `python -m benchmarks --help`."""
