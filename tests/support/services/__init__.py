"""Real services for tests and for development: found on the machine, started without root or Docker, and unplugged at will."""
