/* Bytes among a function's arguments. Not by "y#": what that stands for differs between the versions of Python that one
 * binary must serve (https://docs.python.org/3.13/whatsnew/3.13.html, PY_SSIZE_T_CLEAN). */
#ifndef SALLYPORT_BYTES_H
#define SALLYPORT_BYTES_H

#include <Python.h>

/* Borrowed from a bytes object, which the caller's argument tuple keeps alive. */
struct bytes {
    const char *data;
    Py_ssize_t len;
};

/* Converter for "O&" into struct bytes. */
static inline int bytes_convert(PyObject *object, void *to) {
    struct bytes *bytes = to;
    char *data;

    if (PyBytes_AsStringAndSize(object, &data, &bytes->len) != 0) {
        return 0;
    }
    bytes->data = data;
    return 1;
}

/* The same, None allowed: data is NULL. */
static inline int bytes_convert_optional(PyObject *object, void *to) {
    if (object == Py_None) {
        *(struct bytes *)to = (struct bytes){NULL, 0};
        return 1;
    }
    return bytes_convert(object, to);
}

#endif
