#include "tap_python.h"

#include "../../forwarder/core/endpoint_python.h"
#include "tap.h"

PyObject *tap_python_open(PyObject *Py_UNUSED(module), PyObject *args) {
    struct endpoint *endpoint;
    int fd;
    int from;

    if (!PyArg_ParseTuple(args, "ii:tap", &fd, &from)) {
        return NULL;
    }
    if (from < 0 || from >= DIRECTIONS) {
        return PyErr_Format(PyExc_ValueError, "direction_from must be 0 (port) or 1 (VM), not %d", from);
    }
    endpoint = tap_open(fd, (enum direction)from);
    if (endpoint == NULL) {
        return raise_errno("the file descriptor is not a tap opened with IFF_NO_PI and IFF_VNET_HDR");
    }
    return endpoint_python_wrap(endpoint);
}
