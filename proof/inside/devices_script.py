"""Lists the devices, firmware and processor features that the VM's kernel shows. See `proof.remote_script`.

Usage: ``devices_script.py [io]``; with ``io`` every I/O port is read as well. Needs root and nothing but the standard
library.
"""

import glob
import os
import re
import sys

_VIRTIO = """
1 net 2 block 3 console 4 entropy 5 balloon 8 scsi 9 9p 16 gpu 17 clock 18 input 19 vsock 20 crypto 22 pstore 23 iommu
24 memory 25 sound 26 fs 27 pmem 28 rpmb 34 i2c 35 watchdog 36 can 40 bluetooth 41 gpio 42 rdma
"""
VIRTIO = {int(number): name for number, name in re.findall(r"(\d+) (\w+)", _VIRTIO)}
"""Device types (Virtio 1.3 section 5)."""
_CLASSES = """
drm graphics sound input hidraw tpm tpmrm scsi_host scsi_device ata_port usb_device usbmon nvme mmc_host mtd
i2c-adapter spi_master gpio watchdog hwmon ptp rfkill bluetooth ieee80211 virtio-ports vfio iommu dax nd remoteproc
uio udc infiniband firmware-attributes power_supply backlight hwsim dma_heap mei typec thunderbolt accel
"""
"""Classes of devices that stand for hardware (/sys/class)."""
_NODES = """
kvm vsock vhost-net vhost-vsock vfio/* vport* hvc* fb* dri/* snd/* input/* tpm* sgx* sev* tdx* uinput uhid mem kmem
port nvram rtc* ptp* watchdog* sd* sr* nvme* pmem* dax* nbd* mtd* ttyUSB* ttyACM* lp* parport* i2c-* hidraw*
"""
"""What else would be a way out of the VM, by its node in /dev."""
READ_PORT = b"\x89\xfa\x31\xc0\xec\xc3"
"""mov edx, edi; xor eax, eax; in al, dx; ret"""
MAX_ITEMS, MAX_ITEM = 400, 120
"""Items of one kind, and characters of one item; a longer list or text is cut."""

found: dict[str, list[str]] = {"unread": []}


def text(path: str) -> str:
    """Return what is in a file, empty if it cannot be read; that is noted unless there is none."""
    try:
        with open(path, errors="replace") as file:
            return file.read(1 << 16).strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        found["unread"].append(f"{path}: {error.strerror}")
        return ""


def names(path: str) -> list[str]:
    """Return the names in a directory; none if it is not there."""
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        found["unread"].append(f"{path}: {error.strerror}")
        return []


def virtio() -> list[str]:
    """Return the kinds of all virtio devices, with the driver that holds them."""
    answer = []
    for path in sorted(glob.glob("/sys/bus/virtio/devices/*")):
        number = int(text(path + "/device") or "0", 16)
        answer.append(VIRTIO.get(number, f"type {number}"))
    return answer


def fw_cfg() -> list[str]:
    """Return the names of all files that the machine hands over."""
    # Not by_name: its files are links to directories, which no walk follows.
    return sorted(text(path) for path in glob.glob("/sys/firmware/qemu_fw_cfg/by_key/*/name"))


def serial() -> list[str]:
    """Return the serial ports that are there (/proc/tty/driver/serial names all that could be)."""
    found = []
    for driver, name in (("serial", "ttyS"), ("ttyAMA", "ttyAMA")):
        lines = [line.split() for line in text(f"/proc/tty/driver/{driver}").splitlines()[1:]]
        found += [
            f"{name}{words[0].strip(':')} {words[1]}" for words in lines if words[1:] and words[1] != "uart:unknown"
        ]
    return found


def blocks() -> list[str]:
    """Return the block devices, whether they can be written, and their serial text."""
    answer = []
    for name in names("/sys/block"):
        mode = "read-only" if text(f"/sys/block/{name}/ro") == "1" else "writable"
        answer.append(f"{name} {mode} {text(f'/sys/block/{name}/serial')}".strip())
    return answer


def owners(path: str) -> list[str]:
    """Return the owners of /proc/ioports or /proc/iomem, each once."""
    lines = (line.partition(" : ")[2].strip() for line in text(path).splitlines())
    # The fourth serial port is "serial" like the first: their places are told apart by `serial`.
    return sorted({re.sub(r"^0000:[0-9a-f:.]+$", "pci function", line) for line in lines if line})


def shares() -> list[str]:
    """Return shared folders: mounted ones, and tags that could be."""
    kinds = [line.split() for line in text("/proc/mounts").splitlines()]
    mounted = [
        f"mounted {words[2]} on {words[1]}" for words in kinds if words[2] in ("9p", "virtiofs", "nfs", "nfs4", "cifs")
    ]
    tags = glob.glob("/sys/bus/virtio/devices/*/mount_tag") + glob.glob("/sys/fs/virtiofs/*/tag")
    return mounted + [f"tag {text(path)}" for path in tags]


def io_blocks() -> list[str]:
    """Return the blocks of eight I/O ports in which one answers: no device leaves all bits set.

    Reading may have effects on hardware; it is for virtual machines.
    """
    import ctypes
    import mmap

    if ctypes.CDLL(None, use_errno=True).ioperm(0, 65536, 1):
        found["unread"].append(f"I/O ports: {os.strerror(ctypes.get_errno())}")
        return []
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(READ_PORT)
    read = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return [f"{base:#x}" for base in range(0, 65536, 8) if any(read(base + at) != 0xFF for at in range(8))]


def cpu() -> list[str]:
    """Return the processor's flags (all processors' together)."""
    lines = [
        line.partition(":")[2] for line in text("/proc/cpuinfo").splitlines() if line.startswith(("flags", "Features"))
    ]
    return sorted({word for line in lines for word in line.split()})


def dmi() -> list[str]:
    """Return what the firmware's tables say of the machine, as ``name=text``."""
    paths = [path for path in sorted(glob.glob("/sys/class/dmi/id/*")) if os.path.isfile(path)]
    values = {os.path.basename(path): text(path) for path in paths}
    return [f"{name}={value}" for name, value in values.items() if value and name not in ("uevent", "modalias")]


def listing() -> dict[str, list[str]]:
    """Return lists of text, one for each kind of `proof.inside.devices`, and ``unread`` for what could not be read."""
    found["pci"] = [
        f"{name} {text(f'/sys/bus/pci/devices/{name}/vendor')} {text(f'/sys/bus/pci/devices/{name}/class')}"
        for name in names("/sys/bus/pci/devices")
    ] + [line.split()[1] for line in text("/proc/bus/pci/devices").splitlines()]
    found["virtio"] = virtio()
    found["fw_cfg"] = fw_cfg()
    found["acpi"] = names("/sys/bus/acpi/devices")
    found["pnp"] = [
        f"{name} {' '.join(text(f'/sys/bus/pnp/devices/{name}/id').split())}" for name in names("/sys/bus/pnp/devices")
    ]
    found["amba"] = names("/sys/bus/amba/devices")
    found["platform"] = names("/sys/bus/platform/devices")
    found["buses"] = [bus for bus in names("/sys/bus") if names(f"/sys/bus/{bus}/devices")]
    found["serial"] = serial()
    found["block"] = blocks()
    found["ioports"] = owners("/proc/ioports")
    found["io"] = io_blocks() if sys.argv[1:] == ["io"] else []
    found["interfaces"] = names("/sys/class/net")
    found["shares"] = shares()
    found["classes"] = [f"{kind}/{name}" for kind in _CLASSES.split() for name in names("/sys/class/" + kind)]
    nodes = {path.removeprefix("/dev/") for mask in _NODES.split() for path in glob.glob("/dev/" + mask)}
    found["nodes"] = sorted(nodes)
    found["dmi"] = dmi()
    found["cpu"] = cpu()
    # A kernel that loads nothing has them all the same.
    found["modules"] = sorted(
        {line.split()[0] for line in text("/proc/modules").splitlines()}
        | set(names("/sys/bus/virtio/drivers"))
        | {line.strip() for line in text("/proc/filesystems").splitlines() if not line.startswith("nodev")}
    )
    found["cmdline"] = text("/proc/cmdline").split()
    return {kind: [item[:MAX_ITEM] for item in items[:MAX_ITEMS]] for kind, items in found.items()}
