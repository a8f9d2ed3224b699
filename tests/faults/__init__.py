"""Real processes, killed and doubled: what was acknowledged stays, what was not can be asked again."""
