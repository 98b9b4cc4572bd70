# Debian's cross compilers are configured with `--with-sysroot=/`, by which Buildroot takes them for one that finds the
# machine's own libraries. This one stands in a directory of its own, and each call names a sysroot in which there is the
# C library alone (rootfs/buildroot/toolchain.py): what the check is there for cannot happen.
check_unusable_toolchain = true
