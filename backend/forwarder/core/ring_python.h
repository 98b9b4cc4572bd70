/* ring(), for Python. */
#ifndef SALLYPORT_RING_PYTHON_H
#define SALLYPORT_RING_PYTHON_H

#include "python.h"

/* METH_VARARGS: ring(interface: str, mac: bytes | None, direction_from: int) -> Endpoint */
PyObject *ring_python_open(PyObject *module, PyObject *args);

#endif
