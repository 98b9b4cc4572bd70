#include "ring_python.h"

#include "endpoint_python.h"
#include "ring.h"

PyObject *ring_python_open(PyObject *Py_UNUSED(module), PyObject *args) {
    const char *interface, *step;
    struct bytes mac;
    int from;
    struct endpoint *endpoint;

    if (!PyArg_ParseTuple(args, "sO&i", &interface, bytes_convert_optional, &mac, &from)) {
        return NULL;
    }
    if ((mac.data != NULL && mac.len != 6) || from < 0 || from >= DIRECTIONS) {
        PyErr_SetString(PyExc_ValueError, "mac must be None or 6 bytes, direction_from 0 (port) or 1 (VM)");
        return NULL;
    }
    endpoint = ring_open(interface, (const uint8_t *)mac.data, (enum direction)from, &step);
    return endpoint == NULL ? raise_errno(step) : endpoint_python_wrap(endpoint);
}
