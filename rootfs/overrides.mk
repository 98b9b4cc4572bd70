# Buildroot's package override file (BR2_PACKAGE_OVERRIDE_FILE): what is built from another version, from another file of
# the same version, or not at all, because the release's own source cannot be had from the archives that we build from.
# It is read before the packages' own makefiles; `override` wins over what they say. Hashes: rootfs/patches.

# --- Another version, or a distribution's copy of the same one

override AUTOCONF_ARCHIVE_VERSION = 20241016
override AUTOCONF_ARCHIVE_SOURCE = autoconf-archive_20241016.orig.tar.xz
override EXPAT_VERSION = 2.8.3
override EXPAT_SOURCE = expat_2.8.3.orig.tar.gz
override EXPAT_SUBDIR = expat
override HOST_EXPAT_SUBDIR = expat
override EXPAT_AUTORECONF = YES
override HOST_EXPAT_AUTORECONF = YES
override LIBFFI_SOURCE = libffi_3.4.8.orig.tar.gz
override LIBOPENSSL_VERSION = 3.6.3
override LIBOPENSSL_SOURCE = openssl-3.6.3.tar.gz
override LIBTOOL_VERSION = 2.4.7
override LIBTOOL_SOURCE = libtool_2.4.7.orig.tar.xz
override LIBZLIB_SOURCE = zlib_1.3.dfsg+really1.3.2.orig.tar.gz
override LINUX_VERSION = 6.12.107
override LINUX_SOURCE = linux_6.12.107.orig.tar.xz
override M4_VERSION = 1.4.19
override M4_SOURCE = m4_1.4.19.orig.tar.xz
override PYTHON3_VERSION = 3.13.15
override PYTHON3_SOURCE = python3.13_3.13.15.orig.tar.xz

# --- Prebuilt: its own sources need a Rust compiler and the crates of 60 projects

override PYTHON_CRYPTOGRAPHY_VERSION = 46.0.3
override PYTHON_CRYPTOGRAPHY_SOURCE = cryptography-46.0.3-cp311-abi3-manylinux_2_34_x86_64.whl
override PYTHON_CRYPTOGRAPHY_SETUP_TYPE = setuptools
override PYTHON_CRYPTOGRAPHY_LICENSE_FILES = cryptography-46.0.3.dist-info/licenses/LICENSE
define PYTHON_CRYPTOGRAPHY_EXTRACT_CMDS
	$(UNZIP) -q -d $(@D) $(PYTHON_CRYPTOGRAPHY_DL_DIR)/$(PYTHON_CRYPTOGRAPHY_SOURCE)
endef
define PYTHON_CRYPTOGRAPHY_BUILD_CMDS
	:
endef
define PYTHON_CRYPTOGRAPHY_INSTALL_TARGET_CMDS
	mkdir -p $(TARGET_DIR)/usr/lib/python$(PYTHON3_VERSION_MAJOR)/site-packages
	cp -r $(@D)/cryptography $(TARGET_DIR)/usr/lib/python$(PYTHON3_VERSION_MAJOR)/site-packages/
endef

# --- The tools tree's own program in the place of a build of one: nothing of it gets into an image

STAND_IN = $(BR2_EXTERNAL_SALLYPORT_PATH)/buildroot/stand_in
HOST_KMOD_OVERRIDE_SRCDIR = $(STAND_IN)
HOST_PATCHELF_OVERRIDE_SRCDIR = $(STAND_IN)
HOST_PKGCONF_OVERRIDE_SRCDIR = $(STAND_IN)

define HOST_KMOD_CONFIGURE_CMDS
	:
endef
define HOST_KMOD_BUILD_CMDS
	:
endef
define HOST_KMOD_INSTALL_CMDS
	ln -sf /usr/bin/kmod $(HOST_DIR)/bin/kmod
endef
define HOST_PATCHELF_CONFIGURE_CMDS
	:
endef
define HOST_PATCHELF_BUILD_CMDS
	:
endef
define HOST_PATCHELF_INSTALL_CMDS
	$(INSTALL) -m 0755 $(@D)/patchelf.py $(HOST_DIR)/bin/patchelf
endef
define HOST_PKGCONF_CONFIGURE_CMDS
	:
endef
define HOST_PKGCONF_BUILD_CMDS
	:
endef
define HOST_PKGCONF_INSTALL_CMDS
	ln -sf /usr/bin/pkgconf $(HOST_DIR)/bin/pkgconf
	$(INSTALL) -D -m 0644 /usr/share/aclocal/pkg.m4 $(HOST_DIR)/share/aclocal/pkg.m4
endef
