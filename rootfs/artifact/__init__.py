"""What is delivered: disk, image file, manifest, bill of materials; and what reads these files."""
