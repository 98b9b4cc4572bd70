/* The Python type `Path`. */
#ifndef SALLYPORT_PATH_PYTHON_H
#define SALLYPORT_PATH_PYTHON_H

#include "python.h"

/* Add the type to a module. Returns 0, or -1 with an exception set. */
int path_python_add_to(PyObject *module);

#endif
