"""The memory data plane of SomaBrain: versioned, provably valid density matrices and memories over gRPC."""

from sfm_grpc.version import __version__

__all__ = ["__version__"]
