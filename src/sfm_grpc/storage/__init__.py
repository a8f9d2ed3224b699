"""Engines that execute what the coordinator decides: `contract` is what each of them promises."""
