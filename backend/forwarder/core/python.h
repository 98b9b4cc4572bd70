/* What every file of an extension module needs of Python (stable ABI of 3.11: one binary for the tests and the image).
 */
#ifndef SALLYPORT_PYTHON_H
#define SALLYPORT_PYTHON_H

#include <Python.h>
#include <errno.h>

#include "bytes.h"

/* Slots and methods are object pointers to functions, which ISO C does not know and POSIX demands (dlsym(3)). */
#pragma GCC diagnostic ignored "-Wpedantic"

/* Raise OSError with errno and `what`, which says what could not be done. Returns NULL. */
static inline PyObject *raise_errno(const char *what) {
    int number = errno;
    PyObject *arguments = Py_BuildValue("(is)", number, what);

    if (arguments != NULL) {
        PyErr_SetObject(PyExc_OSError, arguments);
        Py_DECREF(arguments);
    }
    return NULL;
}

#endif
