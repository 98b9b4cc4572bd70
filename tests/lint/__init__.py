"""What `invoke lint` runs: style, types and hazards of Python, shell, JavaScript and C."""
