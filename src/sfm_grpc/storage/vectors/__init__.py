"""Vector indexes: projections of what the canonical store holds, and never the truth."""
