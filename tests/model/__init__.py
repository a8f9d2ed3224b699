"""The cache protocol as a model: every interleaving of two writers, a filling reader and a few faults."""
