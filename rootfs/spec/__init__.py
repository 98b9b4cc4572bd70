"""What is wanted: profile, defconfig, architecture."""
