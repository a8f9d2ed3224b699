"""The HTTP door: probes, Prometheus, and a page for people."""
