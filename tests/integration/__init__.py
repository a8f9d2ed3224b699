"""The server as callers meet it: over gRPC and HTTP, with bad input, in bad times."""
