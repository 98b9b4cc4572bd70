"""The running host, as its root sees it: mounts, processes, kernel settings, networks, rules, programs, sockets, files.

Theory of operation. `script` only reads; everything is judged here, against the tables of `declaration`. What is there
and not declared is a hole. A check counts only if it saw what must be there (`Finding.wanted`): the services under
their own users, the port in its namespace, a writable file that the script planted. The packet rules are compared with
the image's own rule files, which the script loads in empty namespaces of the same kernel, so that nft(8) prints both;
`proof.image.tree` checks what those files contain.

The script's answer is hostile input: it is bounded, decoded into types, and may be incomplete. (A kernel that lies to
its own root user cannot be detected from within; the probes at the port and on the link detect what it does there.)
"""

from proof.host.system.run import run_system

__all__ = ["run_system"]
