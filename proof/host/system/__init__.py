"""The running host, as its root sees it: mounts, processes, kernel settings, networks, rules, programs, sockets, files.

Theory of operation. `script` only tells; everything is judged here, against tables of what is declared, which stand
in `declaration` as plain data. What is there and not declared is a hole. A check is believed only if it saw what must
be there (its ``wanted``): the services under their own users, the port in its namespace, a writable file that the
script planted. The packet rules are compared with the image's own files, which the script loads in empty namespaces of
the same kernel, so that both texts come from one printer; `tree` says what those files must be.

The script's answer is hostile like everything else from there: it is decoded into types, bounded, and never trusted to
be whole. (A kernel that lies to its root cannot be caught from within; the probes at the port and on the link can.)
"""

from proof.host.system.run import run_system

__all__ = ["run_system"]
