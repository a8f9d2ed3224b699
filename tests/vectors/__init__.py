"""What every vector index promises, asked of each of them; and what is each one's own."""
