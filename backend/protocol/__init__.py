"""The protocol of the link: instruction types, refusals, peers. The VM has the same files."""
