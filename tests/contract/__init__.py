"""What every engine must pass, in-process and over gRPC: the contract of RhoStore and of `storage.contract`."""
