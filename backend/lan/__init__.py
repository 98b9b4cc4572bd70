"""The guest LAN."""
