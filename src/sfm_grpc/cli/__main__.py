"""`python -m sfm_grpc.cli`, for where scripts are not on the path."""

from sfm_grpc.cli import main

main()
