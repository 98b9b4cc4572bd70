"""The outside probes on a place of a labgrid lab: a real device, or `simulated` to try the lab's set-up."""
