"""The forwarder as BPF programs in the kernel (``kernel/kernel_module.c``)."""

MARK: int
"""``skb->mark`` of every frame that a program let through."""

class Programs:
    """The two BPF programs, loaded into the kernel but not attached yet.

    Args:
        path: the object file of ``kernel/kernel.bpf.c``.
        policy: ``struct policy`` of ``core/policy.h``.
        port: interface index of the port.
        vm: interface index of the VM's tap.

    Raises:
        ValueError: a policy of another size, no indices, or the same one twice.
        RuntimeError: more CPUs than the programs can count for.
        OSError: the file cannot be read or is of another build (ENOEXEC), or the kernel refused; with what libbpf said.
    """

    def __init__(self, path: str, policy: bytes, port: int, vm: int) -> None: ...
    def attach(self) -> None:
        """Attach to tc ingress of both interfaces, for as long as the process lives.

        Raises:
            OSError: an interface is gone (ENODEV), or the kernel has no tcx (EINVAL).
        """

    def counters(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Direction, verdict, (frames, bytes); reads memory and needs no privilege."""

    def run(self, direction: int, frame: bytes, repeat: int = 1, /) -> tuple[int, int]:
        """Run a program ``repeat`` times on a frame that goes nowhere (BPF_PROG_TEST_RUN); for tests.

        Returns:
            The program's answer (2: dropped, 7: redirected), and nanoseconds per run.
        """

    def close(self) -> None:
        """Detach and forget."""

def attached(interface: int, /) -> int:
    """How many programs are attached at tc ingress (tcx) of an interface.

    Raises:
        OSError: there is none (ENODEV), it may not be asked (EPERM), or the kernel has no tcx (EINVAL).
    """
