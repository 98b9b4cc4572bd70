"""The frame forwarder: moves frames between the management port and the front-end VM, and nothing else does.

``python3 -m backend.forwarder`` is the process. Its data path is C (``core/``, the module ``_core``) or a tc-BPF
program (``kernel/``); this package opens what they need, gives up the right to open more, and tells what they count.
"""
