"""Declared: lines of the host's services that grant or drop a right, and the exposure that each service may have."""

from __future__ import annotations

from collections.abc import Mapping

from proof.declared.words import words

_SEALED_OFF = words(
    """
NoNewPrivileges=yes PrivateTmp=disconnected PrivateMounts=yes ProtectSystem=strict ProtectHome=yes ProtectClock=yes
ProtectControlGroups=yes ProtectKernelLogs=yes ProtectKernelModules=yes ProtectProc=invisible RestrictNamespaces=yes
RestrictRealtime=yes RestrictSUIDSGID=yes LockPersonality=yes SystemCallArchitectures=native UMask=0077
"""
)
FREE_KEYS = words(
    "Type NotifyAccess Restart RestartSec RestartSteps RestartMaxDelaySec RestartMode WatchdogSec TimeoutStartSec "
    "TimeoutStopSec KillMode MemoryMax CPUWeight TasksMax RemainAfterExit LimitCORE StandardError "
    "LogRateLimitIntervalSec LogRateLimitBurst"
)
"""Keys of a service's section that may have any value, as none grants a right. All other lines are declared."""


def services(port: str, vm: str) -> Mapping[str, tuple[str, ...]]:
    """Return the lines of ``[Service]`` of each of our units, for a datapath (`rootfs.spec.profile.Forwarder`)."""
    python = "ExecStart=/usr/bin/python3 -I -m backend."
    caps = {"ring": "CAP_NET_RAW CAP_NET_ADMIN", "kernel": "CAP_BPF CAP_PERFMON CAP_NET_ADMIN"}
    may = caps.get(port, "CAP_NET_ADMIN")
    families = {"ring": " AF_PACKET", "kernel": ""}.get(port, " AF_NETLINK AF_INET")
    return {
        "sallyport-backend.service": (
            *_SEALED_OFF,
            python + "daemon.main",
            "User=sallyport",
            "SupplementaryGroups=sallyport-beat",
            *("CapabilityBoundingSet=", "AmbientCapabilities="),
            # Write only: the first password goes there. Standard input stays /dev/null.
            *("StandardOutput=tty", "TTYPath=/dev/console"),
            *("DevicePolicy=closed", "DeviceAllow=/dev/console rw"),
            "ReadWritePaths=-/data/sallyport /run/sallyport/request",
            "InaccessiblePaths=/data/identity /run/sallyport/guest",
            "RestrictAddressFamilies=AF_UNIX AF_INET",
            *("MemoryDenyWriteExecute=yes", "ProtectKernelTunables=yes"),
            *("SystemCallFilter=@system-service", "SystemCallFilter=~@privileged @resources"),
        ),
        "sallyport-vm.service": (
            *_SEALED_OFF,
            # These run as root and allow the VM's user to use KVM.
            *("ExecStartPre=-+/usr/bin/chgrp kvm /dev/kvm", "ExecStartPre=-+/usr/bin/chmod 0660 /dev/kvm"),
            python + "guests.supervisor",
            "User=sallyport-vm",
            "SupplementaryGroups=kvm sallyport-beat",
            *("CapabilityBoundingSet=", "AmbientCapabilities="),
            *("DevicePolicy=closed", "DeviceAllow=/dev/kvm rw", "DeviceAllow=/dev/net/tun rw"),
            # A network of its own, empty; the one thing of the host's in it is the way to the link's tap.
            *("PrivateNetwork=yes", "OpenFile=/dev/net/tun:tun"),
            "ReadWritePaths=/run/sallyport/vm",
            "InaccessiblePaths=/data /run/sallyport/link /run/sallyport/request",
            *("RestrictAddressFamilies=AF_UNIX", "IPAddressDeny=any", "ProtectHostname=yes"),
            *("SystemCallFilter=@system-service", "SystemCallFilter=~@privileged @resources @keyring @memlock"),
            "SystemCallFilter=chown fchownat seccomp",
        ),
        "sallyport-port.service": (
            *_SEALED_OFF,
            python + "forwarder",
            "User=sallyport-port",
            "SupplementaryGroups=sallyport sallyport-vm",
            "NetworkNamespacePath=/run/netns/mgmt",
            *(f"AmbientCapabilities={may}", f"CapabilityBoundingSet={may}"),
            *("DevicePolicy=closed", *(["DeviceAllow=/dev/net/tun rw"] if vm == "tap" else [])),
            "ReadWritePaths=/run/sallyport/port",
            "InaccessiblePaths=/data /run/sallyport/link /run/sallyport/guest /run/sallyport/vm",
            f"RestrictAddressFamilies=AF_UNIX{families}",
            *("MemoryDenyWriteExecute=yes", "ProtectHostname=yes", "ProtectKernelTunables=yes"),
        ),
        "sallyport-hostname.service": (
            *_SEALED_OFF,
            "ExecStart=/usr/lib/sallyport/apply-hostname",
            "CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_READ_SEARCH",
            *("PrivateNetwork=yes", "ReadOnlyPaths=/data", "RestrictAddressFamilies=none"),
            "ProtectKernelTunables=yes",
        ),
        "sallyport-keys.service": (
            "ExecStart=/usr/lib/sallyport/link-keys",
            "CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER",
            *("NoNewPrivileges=yes", "PrivateNetwork=yes", "PrivateTmp=disconnected", "ProtectSystem=strict"),
            "ReadWritePaths=/run/sallyport/link /run/sallyport/guest",
            *("ProtectKernelTunables=yes", "ProtectKernelModules=yes", "RestrictAddressFamilies=none"),
            "SystemCallArchitectures=native",
        ),
        "sallyport-identity.service": (
            *_SEALED_OFF,
            python + "daemon.identity",
            "CapabilityBoundingSet=CAP_CHOWN",
            "ReadWritePaths=-/data/identity /run/sallyport/link /run/sallyport/guest",
            *("PrivateNetwork=yes", "RestrictAddressFamilies=none", "MemoryDenyWriteExecute=yes"),
            *("ProtectKernelTunables=yes", "SystemCallFilter=@system-service"),
        ),
        "sallyport-network.service": (
            "ExecStart=/usr/lib/sallyport/port-setup",
            "CapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_ADMIN CAP_NET_RAW CAP_CHOWN CAP_DAC_OVERRIDE",
            "NoNewPrivileges=yes",
        ),
        "sallyport-modules.service": (
            "ExecStart=/usr/lib/sallyport/load-modules",
            *("CapabilityBoundingSet=CAP_SYS_MODULE", "NoNewPrivileges=yes"),
        ),
        "sallyport-modules-lock.service": ("ExecStart=/usr/bin/sysctl -q -w kernel.modules_disabled=1",),
        "sallyport-reboot.service": ("ExecStart=/usr/bin/systemctl --no-block reboot",),
    }


VENDOR_LINES: Mapping[str, frozenset[str]] = {
    "systemd-journald.service": words(
        "LockPersonality=yes MemoryDenyWriteExecute=yes NoNewPrivileges=yes RestrictNamespaces=yes "
        "RestrictSUIDSGID=yes SystemCallFilter=@system-service"
    )
}
"""Lines that a unit of systemd's own must have, whatever else its version brings."""
EXPOSURE: Mapping[str, tuple[float, str]] = {
    "sallyport-backend.service": (2.0, "parses what the VM sends"),
    "sallyport-vm.service": (1.2, "QEMU needs two devices, and memory that it may write and run"),
    "sallyport-port.service": (3.8, "opens the port with two capabilities, which it gives up before the first frame"),
    "sallyport-hostname.service": (3.7, "root, for sethostname(2); without network"),
    "sallyport-identity.service": (2.5, "root, for the owners of keys; without network"),
    "sallyport-keys.service": (5.7, "root, for the owners of keys; without network; reads nothing from outside"),
    "systemd-journald.service": (5.2, "systemd's own"),
    "sallyport-modules.service": (7.2, "loads modules once; reads nothing from outside"),
    "sallyport-network.service": (8.1, "makes the network once; reads nothing from outside"),
}
"""Most that ``systemd-analyze security`` may say (0 to 10, less is better), and why it is not less. The one-line units
that end in a moment (reboot, lock of modules) are not rated: they read nothing."""
