/* The Python type `Endpoint`. Each extension module has its own: an endpoint of one module is none of another's. */
#ifndef SALLYPORT_ENDPOINT_PYTHON_H
#define SALLYPORT_ENDPOINT_PYTHON_H

#include "frame.h"
#include "python.h"

/* Make the type, once per module, before any other function of this file. `name` is its full name with the module's,
 * for example "backend.forwarder._core.Endpoint". Returns 0, or -1 with an exception set.
 */
int endpoint_python_set_up(const char *name);

/* A Python object that owns `endpoint`. On failure the endpoint is closed and NULL returned with an exception set. */
PyObject *endpoint_python_wrap(struct endpoint *endpoint);

/* The endpoint of an `Endpoint` that nobody uses yet, marked as used from now on. NULL with TypeError or ValueError set
 * otherwise.
 */
struct endpoint *endpoint_python_take(PyObject *object);

/* The endpoint of an `Endpoint`, used or not. NULL with TypeError set if `object` is none. */
struct endpoint *endpoint_python_of(PyObject *object);

#endif
