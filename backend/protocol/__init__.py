"""The protocol of the link between the front-end VM and the backend: the same files on both of its ends.

The host imports this package as ``backend.protocol``, the VM as ``frontend_vm.protocol`` (a symbolic link that the
image builds follow); so its modules import one another by relative names only, and nothing else of either side.

Wire format: one JSON object per line (RFC 8259, JSON Lines), UTF-8, at most `codec.MAX_LINE` bytes with the newline,
inside TLS 1.3 with both ends authenticated. The front-end sends a `codec.Request`; the backend answers each with one
`codec.Reply` that carries the request's ``seq``, in order. Unknown fields are errors: a message can hold nothing that
the schema does not name.

* `instructions` lists every instruction; the types are in a module per group (`session`, `system`, `port`, `vm`), each
  with its `policy.Policy`. `base` has what all instructions and results have in common, `fields` the types of fields.
* `codec` frames messages, `refusal` turns requests down.
* `link_plan` has the link's addresses, names and ports; `peers` groups the addresses of operators, and `rate_limit` is
  the token bucket that both ends use.
"""
