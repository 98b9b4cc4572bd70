# Buildroot's package override file (BR2_PACKAGE_OVERRIDE_FILE): what is built from another version, from another file of
# the same version, or not at all, because the release's own source cannot be had from the archives that we build from.
# It is read before the packages' own makefiles; `override` wins over what they say. Hashes: rootfs/external/patches.

# Debian packages for the image's architecture (rootfs/engines/buildroot/sandbox.py)
PREBUILT = /prebuilt

# --- Another version, or a distribution's copy of the same one

# Buildroot's own patches do not apply to these versions; they correct parts that this build does not use.
UNPATCHED = $(BR2_EXTERNAL_SALLYPORT_PATH)/patches

override AUTOCONF_ARCHIVE_VERSION = 20241016
override AUTOCONF_ARCHIVE_SOURCE = autoconf-archive_20241016.orig.tar.xz
override E2FSPROGS_VERSION = 1.47.2
override E2FSPROGS_SOURCE = e2fsprogs_1.47.2.orig.tar.gz
override EXPAT_VERSION = 2.8.3
override EXPAT_PKGDIR = $(UNPATCHED)/expat/
override HOST_EXPAT_PKGDIR = $(UNPATCHED)/expat/
override EXPAT_SOURCE = expat_2.8.3.orig.tar.gz
override EXPAT_SUBDIR = expat
override HOST_EXPAT_SUBDIR = expat
override EXPAT_AUTORECONF = YES
override HOST_EXPAT_AUTORECONF = YES
override LIBFFI_SOURCE = libffi_3.4.8.orig.tar.gz
override LIBOPENSSL_VERSION = 3.6.3
override LIBOPENSSL_SOURCE = openssl-3.6.3.tar.gz
# This version has what one of Buildroot's patches brings: taken out, it can be put in again.
define LIBOPENSSL_TAKE_OUT
	patch -d $(@D) -p1 -R <$(LIBOPENSSL_PKGDIR)/0004-aes-gcm-ppc.pl-Removed-.localentry-directive.patch
endef
LIBOPENSSL_PRE_PATCH_HOOKS += LIBOPENSSL_TAKE_OUT
override LIBTOOL_VERSION = 2.4.7
override LIBTOOL_SOURCE = libtool_2.4.7.orig.tar.xz
override LIBZLIB_SOURCE = zlib_1.3.dfsg+really1.3.2.orig.tar.gz
override LINUX_VERSION = 6.12.107
override LINUX_SOURCE = linux_6.12.107.orig.tar.xz
# Buildroot has the hash of another version's text of the GPL; COPYING names what holds.
override LINUX_LICENSE_FILES = COPYING
override PYTHON3_VERSION = 3.13.15
override PYTHON3_SOURCE = python3.13_3.13.15.orig.tar.xz

override ELFUTILS_VERSION = 0.192
override ELFUTILS_SOURCE = elfutils_0.192.orig.tar.bz2
override ELFUTILS_PKGDIR = $(UNPATCHED)/elfutils/
override IPROUTE2_VERSION = 7.2.0
override IPROUTE2_SOURCE = iproute2_7.2.0.orig.tar.xz
override IPROUTE2_PKGDIR = $(UNPATCHED)/iproute2/
override KMOD_VERSION = 34.2
override KMOD_SOURCE = kmod_34.2.orig.tar.xz
override KMOD_PKGDIR = $(UNPATCHED)/kmod/
override KMOD_AUTORECONF = YES
# What gtkdocize(1) would write for a build without documentation.
define KMOD_NO_DOCUMENTATION
	printf 'EXTRA_DIST =\nCLEANFILES =\n' >$(@D)/libkmod/docs/gtk-doc.make
endef
KMOD_POST_PATCH_HOOKS += KMOD_NO_DOCUMENTATION
override LIBBPF_VERSION = 1.7.0
override LIBBPF_SOURCE = libbpf_1.7.0.orig.tar.gz
override LIBCAP_VERSION = 2.78
override LIBCAP_SOURCE = libcap-2.78.tar.xz
override LIBCAP_PKGDIR = $(UNPATCHED)/libcap/
override LIBGLIB2_VERSION = 2.84.4
# No program here has settings for GLib to keep.
override LIBGLIB2_COMPILE_SCHEMAS =
override LIBGLIB2_SOURCE = glib2.0_2.84.4.orig.tar.xz
override LIBSECCOMP_VERSION = 2.6.0
override LIBSECCOMP_SOURCE = libseccomp-2.6.0.tar.gz
override LIBXCRYPT_VERSION = 4.5.1
override LIBXCRYPT_SOURCE = libxcrypt_4.5.1.orig.tar.xz
override LIBXCRYPT_AUTORECONF = YES
override LVM2_SOURCE = lvm2_2.03.31.orig.tar.xz
override MPDECIMAL_VERSION = 4.0.1
override MPDECIMAL_PKGDIR = $(UNPATCHED)/mpdecimal/
override MPDECIMAL_SOURCE = mpdecimal_4.0.1.orig.tar.gz
override PCRE2_VERSION = 10.46
override PCRE2_PKGDIR = $(UNPATCHED)/pcre2/
override PCRE2_SOURCE = pcre2_10.46.orig.tar.gz
override PIXMAN_VERSION = 0.46.4
override PIXMAN_SOURCE = pixman_0.46.4.orig.tar.gz
override QEMU_VERSION = 10.2.2
override QEMU_SOURCE = qemu_10.2.2+ds.orig.tar.xz
# One machine type and its devices (the options are in external.mk): what is not in the program need not be secure. The
# one program serves hosts with KVM and without.
define QEMU_DEVICES
	cp $(BR2_EXTERNAL_SALLYPORT_PATH)/$(ARCH)/qemu.mak $(@D)/configs/devices/$(ARCH)-softmmu/sallyport.mak
	# Its own tests, a third of all that would be compiled, and what they want; tables for machines that it cannot be.
	sed -i '/^pycotap /d' $(@D)/pythondeps.toml
	sed -i -e "/^subdir('tests\/qtest\//d" -e "s/^  subdir('tests')/  message('without tests')/" $(@D)/meson.build
	sed -i 's/^if unpack_edk2_blobs$$/if false/' $(@D)/pc-bios/meson.build
	: >$(@D)/pc-bios/dtb/meson.build
endef
QEMU_POST_PATCH_HOOKS += QEMU_DEVICES
# Firmware of microvm is not in that archive's copy of the sources; virt starts a kernel without any.
ifeq ($(BR2_x86_64),y)
define QEMU_FIRMWARE
	$(INSTALL) -d $(TARGET_DIR)/usr/share/qemu $(TARGET_DIR)/usr/share/seabios
	cp $(addprefix $(PREBUILT)/usr/share/qemu/,linuxboot_dma.bin pvh.bin kvmvapic.bin) $(TARGET_DIR)/usr/share/qemu/
	cp $(PREBUILT)/usr/share/seabios/bios-microvm.bin $(TARGET_DIR)/usr/share/seabios/
	# A copy: programs are no links here. The image has its content once.
	cp $(TARGET_DIR)/usr/bin/qemu-system-x86_64 $(TARGET_DIR)/usr/bin/qemu-system-x86_64-microvm
endef
QEMU_POST_INSTALL_TARGET_HOOKS += QEMU_FIRMWARE
endif
override SYSTEMD_VERSION = 257.13
override SYSTEMD_SOURCE = systemd_257.13.orig.tar.gz
override UTIL_LINUX_VERSION = 2.41.5
override UTIL_LINUX_SOURCE = util-linux-2.41.5.tar.xz
override UTIL_LINUX_LIBS_VERSION = 2.41.5
override UTIL_LINUX_LIBS_SOURCE = util-linux-2.41.5.tar.xz

# --- Prebuilt: no archive that we build from has their sources, or they need tools that none has

# $(1): a package of which nothing is compiled
define not-built
override $(1)_SOURCE =
override $(1)_PKGDIR = $(UNPATCHED)/none/
override $(1)_AUTORECONF = NO
override $(1)_LICENSE_FILES =
override $(1)_CONFIGURE_CMDS = :
override $(1)_BUILD_CMDS = :
override $(1)_INSTALL_STAGING_CMDS = :
override $(1)_INSTALL_TARGET_CMDS = :
endef
$(eval $(call not-built,LIBMNL))
$(eval $(call not-built,LIBNFTNL))
$(eval $(call not-built,NFTABLES_PYTHON))
$(eval $(call not-built,NFTABLES))

# Its sources need a Rust compiler, and crates from a registry that is none of our archives. Debian's binary has no
# OpenSSL in it: it uses the image's own, as all else does.
$(eval $(call not-built,PYTHON_CRYPTOGRAPHY))
override PYTHON_CRYPTOGRAPHY_VERSION = 43.0.0
override PYTHON_CRYPTOGRAPHY_SETUP_TYPE = setuptools
define CRYPTOGRAPHY_INSTALL
	mkdir -p $(TARGET_DIR)/usr/lib/python$(PYTHON3_VERSION_MAJOR)/site-packages
	cp -r $(PREBUILT)/usr/lib/python3/dist-packages/cryptography $(TARGET_DIR)/usr/lib/python$(PYTHON3_VERSION_MAJOR)/site-packages/
endef
override PYTHON_CRYPTOGRAPHY_INSTALL_TARGET_CMDS = $(CRYPTOGRAPHY_INSTALL)

# systemd selects it, and nothing here reads a time zone.
$(eval $(call not-built,TZDATA))

NFT_LIBRARIES = nftables nftnl mnl gmp jansson xtables edit bsd md tinfo
define NFT_INSTALL
	cp -P $(foreach name,$(NFT_LIBRARIES),$(PREBUILT)/usr/lib/$(ARCH)-linux-gnu/lib$(name).so.*) $(TARGET_DIR)/usr/lib/
	$(INSTALL) -D -m 0755 $(PREBUILT)/usr/sbin/nft $(TARGET_DIR)/usr/sbin/nft
endef
override NFTABLES_VERSION = 1.1.3
override NFTABLES_DEPENDENCIES = skeleton toolchain
override NFTABLES_INSTALL_TARGET_CMDS = $(NFT_INSTALL)

# --- The sandbox's own program in the place of a build of one: nothing of it gets into an image

# $(1): a package for the build machine; $(2): its programs, as the sandbox has them
define from-sandbox
HOST_$(1)_OVERRIDE_SRCDIR = $(BR2_EXTERNAL_SALLYPORT_PATH)/shims
override HOST_$(1)_AUTORECONF = NO
override HOST_$(1)_LICENSE_FILES =
override HOST_$(1)_REDISTRIBUTE = NO
override HOST_$(1)_CONFIGURE_CMDS = :
override HOST_$(1)_BUILD_CMDS = :
override HOST_$(1)_INSTALL_CMDS = mkdir -p $$(HOST_DIR)/bin && $(foreach program,$(2),ln -sf $(program) $$(HOST_DIR)/bin/ &&) :
endef

$(eval $(call from-sandbox,BISON,/usr/bin/bison))
$(eval $(call from-sandbox,CCACHE,))
override HOST_CCACHE_DEPENDENCIES =
override HOST_CCACHE_INSTALL_CMDS = $(INSTALL) -D -m 0755 $(@D)/ccache $(HOST_DIR)/bin/ccache
$(eval $(call from-sandbox,CMAKE,/usr/bin/cmake))
$(eval $(call from-sandbox,FLEX,/usr/bin/flex))
$(eval $(call from-sandbox,GETTEXT_TINY,$(addprefix /usr/bin/,msgfmt msgmerge msginit xgettext msgcat)))
$(eval $(call from-sandbox,GPERF,/usr/bin/gperf))
$(eval $(call from-sandbox,KMOD,/usr/bin/kmod))
$(eval $(call from-sandbox,LIBCAP,))
$(eval $(call from-sandbox,LIBGLIB2,$(addprefix /usr/bin/,glib-genmarshal glib-mkenums glib-compile-resources gdbus-codegen)))
$(eval $(call from-sandbox,LIBOPENSSL,/usr/bin/openssl))
$(eval $(call from-sandbox,LIBXCRYPT,))
$(eval $(call from-sandbox,M4,/usr/bin/m4))
$(eval $(call from-sandbox,NINJA,/usr/bin/ninja))
$(eval $(call from-sandbox,PCRE2,))
$(eval $(call from-sandbox,SYSTEMD,/usr/bin/systemctl))
override HOST_SYSTEMD_POST_INSTALL_HOOKS =
$(eval $(call from-sandbox,TZDATA,))
$(eval $(call from-sandbox,UTIL_LINUX,))
$(eval $(call from-sandbox,ZIC,))
$(eval $(call from-sandbox,ZSTD,/usr/bin/zstd))

$(eval $(call from-sandbox,PATCHELF,))
override HOST_PATCHELF_INSTALL_CMDS = $(INSTALL) -D -m 0755 $(@D)/patchelf.py $(HOST_DIR)/bin/patchelf

$(eval $(call from-sandbox,PKGCONF,))
override HOST_PKGCONF_INSTALL_CMDS = $(INSTALL) -D -m 0755 $(@D)/pkgconf $(HOST_DIR)/bin/pkgconf
define SALLYPORT_PKG_M4
	$(INSTALL) -D -m 0644 /usr/share/aclocal/pkg.m4 $(HOST_DIR)/share/aclocal/pkg.m4
endef
HOST_PKGCONF_POST_INSTALL_HOOKS += SALLYPORT_PKG_M4
