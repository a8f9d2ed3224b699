"""The tests. What they share is in `support`; `contract` is what every engine must pass."""
