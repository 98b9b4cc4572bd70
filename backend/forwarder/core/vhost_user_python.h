/* vhost_user() and vhost_user_state(), for Python. */
#ifndef SALLYPORT_VHOST_USER_PYTHON_H
#define SALLYPORT_VHOST_USER_PYTHON_H

#include "python.h"

/* METH_VARARGS: vhost_user(listener: int, max_memory: int, offload: bool, direction_from: int) -> Endpoint
 *
 * `listener` is the file descriptor of a listening unix stream socket; it is duplicated. `max_memory`: bytes of guest
 * memory at most.
 */
PyObject *vhost_user_python_open(PyObject *module, PyObject *args);

/* METH_VARARGS: vhost_user_state(endpoint: Endpoint) -> dict[str, object]
 *
 * connections, disconnections, refused, signals, features: int; faults: dict[str, int] without those that never
 * happened; last_fault: str | None, a sentence.
 */
PyObject *vhost_user_python_state(PyObject *module, PyObject *args);

#endif
