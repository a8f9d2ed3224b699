"""The gRPC door: checks, converts, calls the coordinator, converts back. No `if` about meaning lives here."""
