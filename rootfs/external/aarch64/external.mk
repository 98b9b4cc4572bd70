# Debian's cross compilers are configured with `--with-sysroot=/`, by which Buildroot takes them for one that finds the
# machine's own libraries. This one stands in a directory of its own, and each call names a sysroot in which there is the
# C library alone (rootfs/engines/buildroot/toolchain.py): what the check is there for cannot happen.
check_unusable_toolchain = true

# The ACPI tables of machine virt ask for this, and QEMU 10.2 has no stub of it for a machine without CXL: link error.
define QEMU_STUB_OF_CXL
	printf 'GSList *cxl_fmws_get_all_sorted(void)\n{\n    return NULL;\n}\n' >>$(@D)/hw/cxl/cxl-host-stubs.c
endef
QEMU_POST_PATCH_HOOKS += QEMU_STUB_OF_CXL
