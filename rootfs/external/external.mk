include $(sort $(wildcard $(BR2_EXTERNAL_SALLYPORT_PATH)/package/*/*.mk))

# This file is read after the packages' own, so it can add to what they set. For why, see overrides.mk.
QEMU_OPTS += --without-default-devices --with-devices-$(ARCH)=sallyport --firmwarepath=/usr/share/qemu:/usr/share/seabios

# What is otherwise for one architecture
-include $(BR2_EXTERNAL_SALLYPORT_PATH)/$(ARCH)/external.mk
