/* tap(), for Python. */
#ifndef SALLYPORT_TAP_PYTHON_H
#define SALLYPORT_TAP_PYTHON_H

#include "../../forwarder/core/python.h"

/* METH_VARARGS: tap(fd: int, direction_from: int) -> Endpoint */
PyObject *tap_python_open(PyObject *module, PyObject *args);

#endif
