"""TCP from the port to a VM (placeholder)."""
