/* check(), for Python: the policy of the management port alone. */
#ifndef SALLYPORT_CHECK_PYTHON_H
#define SALLYPORT_CHECK_PYTHON_H

#include "../../../../backend/forwarder/core/python.h"

/* METH_VARARGS: check(policy: bytes, direction: int, frame: bytes, outer_tag: int) -> int, the verdict without rates.
 */
PyObject *check_python(PyObject *module, PyObject *args);

#endif
