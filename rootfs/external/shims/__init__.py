"""What stands in for programs that Buildroot would build for the build machine."""
