/* memory() and the functions of its other side, for Python. */
#ifndef SALLYPORT_MEMORY_PYTHON_H
#define SALLYPORT_MEMORY_PYTHON_H

#include "../../../../backend/forwarder/core/python.h"

/* METH_VARARGS; what they take and return is in _testing.pyi. */
PyObject *memory_python_open(PyObject *module, PyObject *args);
PyObject *memory_python_inject(PyObject *module, PyObject *args);
PyObject *memory_python_collect(PyObject *module, PyObject *args);
PyObject *memory_python_collect_offload(PyObject *module, PyObject *args);
PyObject *memory_python_set_up(PyObject *module, PyObject *args);

#endif
