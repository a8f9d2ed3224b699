"""The scripts of the cache protocol, on real Redis: one by one, and with concurrent writers. `make test-lua`."""
