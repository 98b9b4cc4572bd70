"""What leaves the house: disk, image file, bill of materials, comparison."""
