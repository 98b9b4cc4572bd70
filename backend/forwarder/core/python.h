/* Glue between the C core and Python (stable ABI of 3.11, so that one binary serves the tests and the image). */
#ifndef SALLYPORT_PYTHON_H
#define SALLYPORT_PYTHON_H

#include <Python.h>

#include "bytes.h"
#include "frame.h"

/* Slots and methods are object pointers to functions, which ISO C does not know and POSIX demands (dlsym(3)). */
#pragma GCC diagnostic ignored "-Wpedantic"

/* A Python object `Endpoint` that owns `endpoint`; on failure the endpoint is closed and NULL returned. */
PyObject *endpoint_wrap(PyObject *module, struct endpoint *endpoint);

/* The endpoint of an `Endpoint` that nobody uses yet, marked as used from now on; NULL with an exception set otherwise.
 */
struct endpoint *endpoint_take(PyObject *object);

/* The endpoint of an `Endpoint`, used or not. */
struct endpoint *endpoint_of(PyObject *object);

/* Raise OSError with the errno and a sentence: what could not be done. Returns NULL. */
PyObject *raise_errno(const char *what);

/* Functions and types that other files add to the module. Each is called once, returns 0, or -1 with an exception set.
 */
int path_add_to(PyObject *module);
int lan_add_to(PyObject *module);

/* Functions of the module, METH_VARARGS. */
PyObject *python_ring(PyObject *module, PyObject *args);
PyObject *python_vhost_user(PyObject *module, PyObject *args);
PyObject *python_vhost_user_state(PyObject *module, PyObject *args);
PyObject *python_tap(PyObject *module, PyObject *args);
PyObject *python_check(PyObject *module, PyObject *args);
PyObject *python_memory(PyObject *module, PyObject *args);
PyObject *python_memory_inject(PyObject *module, PyObject *args);
PyObject *python_memory_collect(PyObject *module, PyObject *args);
PyObject *python_memory_collect_offload(PyObject *module, PyObject *args);
PyObject *python_memory_set_up(PyObject *module, PyObject *args);

#endif
