# What QEMU of the host can be (engine `buildroot`): the machine that backend/guests/vm.py asks for, and its devices.
CONFIG_MICROVM=y
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_NET=y
CONFIG_VIRTIO_RNG=y
CONFIG_FW_CFG_DMA=y
