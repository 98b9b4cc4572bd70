/* The Python type `Lan`. */
#ifndef SALLYPORT_LAN_PYTHON_H
#define SALLYPORT_LAN_PYTHON_H

#include "../../forwarder/core/python.h"

/* Add the type to a module. Returns 0, or -1 with an exception set. */
int lan_python_add_to(PyObject *module);

#endif
