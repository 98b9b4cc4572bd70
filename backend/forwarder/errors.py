"""What can keep the forwarder from its work. Each error has a sentence that names the thing, and a remedy.

Whatever is raised, the port stays closed: nothing moves frames but a data path that runs.
"""

from __future__ import annotations

import errno


class ForwarderError(Exception):
    """Base of all; ``remedy`` says what to do."""

    remedy = "see the log of sallyport-port.service"

    def __init__(self, sentence: str, remedy: str = "") -> None:
        super().__init__(sentence)
        self.remedy = remedy or self.remedy

    def __str__(self) -> str:
        return f"{self.args[0]} ({self.remedy})"


class ConfigError(ForwarderError):
    """The configuration that was made of the device profile is wrong; names file and field."""

    remedy = "mend the device profile and build the image again"


class InterfaceMissingError(ForwarderError):
    """There is no network interface of that name in this network namespace."""

    remedy = (
        "is it another namespace? sallyport-network.service makes them; management.match of the profile names the port"
    )


class NotPermittedError(ForwarderError):
    """The kernel refused, for want of a capability or of the device's ownership."""

    remedy = "the process needs CAP_NET_RAW and CAP_NET_ADMIN at its start; datapath `kernel` CAP_BPF, too"


class FeatureMissingError(ForwarderError):
    """This kernel, or this build of ours, lacks something that the datapath needs."""

    remedy = "choose another datapath in the device profile: [forwarder] port"


class AlreadyRunningError(ForwarderError):
    """Another forwarder holds this port."""

    remedy = "stop the other one first; it keeps its port"


def from_os(error: OSError, subject: str) -> ForwarderError:
    """The typed error for what the C core raised about ``subject`` (an interface, a socket)."""
    what = f"{subject}: {error.strerror}"
    reason = f"{what}: {errno.errorcode.get(error.errno or 0, 'unknown error')}"
    match error.errno:
        case errno.ENODEV | errno.ENXIO:
            return InterfaceMissingError(reason)
        case errno.EPERM | errno.EACCES:
            return NotPermittedError(reason)
        case errno.EBUSY | errno.EEXIST | errno.EADDRINUSE:
            return AlreadyRunningError(reason)
        case errno.ENOPROTOOPT | errno.EOPNOTSUPP | errno.ENOSYS | errno.EAFNOSUPPORT | errno.EPROTONOSUPPORT:
            return FeatureMissingError(reason)
    return ForwarderError(reason)
