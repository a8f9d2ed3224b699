"""An external cognitive manager: it thinks, the data plane keeps its state. See README.md beside this file."""
