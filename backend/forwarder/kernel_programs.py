"""Datapath ``kernel``: policy, counters and limits as tc-BPF programs between the port and the VM's tap.

The process only loads them. They are attached by links that it holds ("tcx", Linux 6.6), so however the process ends
the programs end with it, and nothing forwards a frame: the port is closed. Loading needs CAP_BPF and CAP_NET_ADMIN,
both in the first user namespace. With CAP_PERFMON, too, the kernel leaves out fences against speculation that cost more
than the programs themselves. What comes after needs no privilege and makes no system call.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from backend.forwarder import errors
from backend.forwarder.counters import Counts

try:
    from backend.forwarder import _kernel
except ImportError as error:
    raise errors.FeatureMissingError(f"this build has no datapath `kernel`: {error}") from error

MARK: Final = _kernel.MARK
"""``skb->mark`` of every frame that passed; an egress chain may let out these alone."""
BPF_CAPABILITIES: Final = ("CAP_BPF", "CAP_NET_ADMIN")
"""Needed to open the datapath, not after that."""
FAST_CAPABILITIES: Final = ("CAP_PERFMON",)
"""Not needed, but worth having while the programs are loaded: without it the kernel makes them slower."""


class KernelPrograms:
    """Frames go between two interfaces of this network namespace from here on, until `close` or the end of the process.

    Args:
        port: interface index of the management port. ``port-setup`` made it promiscuous: frames for the VM's address,
            which is not its own, arrive.
        vm: interface index of the VM's tap.
        policy: ``struct policy`` of ``core/policy.h``.
        program: the object file of ``kernel/kernel.bpf.c``.

    Raises:
        InterfaceMissingError: there is no interface of an index.
        AlreadyRunningError: another process forwards at one of them, or filters.
        NotPermittedError: CAP_BPF or CAP_NET_ADMIN is missing.
        FeatureMissingError: the kernel has no tcx or refuses the programs; the object file is missing, or of another
            build.
    """

    def __init__(self, port: int, vm: int, policy: bytes, program: Path) -> None:
        ends = {"the port": port, "the VM's tap": vm}
        self._expect(ends, 0)
        try:
            self._programs = _kernel.Programs(str(program), policy, port, vm)
        except OSError as error:
            raise self._refused(f"{program}: {error.strerror}", error) from error
        except RuntimeError as error:
            raise errors.FeatureMissingError(str(error)) from error
        try:
            try:
                self._programs.attach()
            except OSError as error:
                raise self._refused(error.strerror or "cannot attach", error) from error
            # A process that attached in the meantime finds our program beside its own now; both give up.
            self._expect(ends, 1)
        except errors.ForwarderError:
            self.close()
            raise

    @staticmethod
    def _refused(sentence: str, error: OSError) -> errors.ForwarderError:
        match error.errno:
            case errno.EPERM:  # not EACCES: with that the verifier rejects a program
                return errors.NotPermittedError(
                    sentence,
                    f"the process needs {' and '.join(BPF_CAPABILITIES)} of the first user namespace at its start",
                )
            case errno.ENODEV:
                return errors.InterfaceMissingError(sentence)
            case errno.ENOENT | errno.ENOEXEC:
                return errors.FeatureMissingError(sentence, "build the image again, or choose another datapath")
        return errors.FeatureMissingError(sentence)

    @classmethod
    def _expect(cls, ends: dict[str, int], programs: int) -> None:
        """Raise unless each interface has so many programs: none before attaching, ours alone after it."""
        for name, interface in ends.items():
            try:
                found = _kernel.attached(interface)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    raise errors.FeatureMissingError(
                        f"Linux {os.uname().release} cannot attach programs by links (tcx, since 6.6)"
                    ) from error
                raise cls._refused(f"{name}, interface {interface}: {error.strerror}", error) from error
            if found != programs:
                raise errors.AlreadyRunningError(
                    f"{name}, interface {interface}, has {found} programs at its ingress, not {programs}",
                    "stop what filters there: `bpftool net` names it",
                )

    def counters(self) -> Counts:
        """Frames and bytes of every verdict; no privilege, no system call."""
        return self._programs.counters()

    def close(self) -> None:
        """Detach the programs: the port is closed."""
        self._programs.close()
