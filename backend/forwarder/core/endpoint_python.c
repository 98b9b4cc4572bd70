#include "endpoint_python.h"

struct endpoint_object {
    PyObject_HEAD struct endpoint *endpoint;
    bool taken;
};

static PyTypeObject *endpoint_type; /* lives as long as the process, as the module does */

static void endpoint_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    struct endpoint_object *object = (struct endpoint_object *)self;

    object->endpoint->ops->close(object->endpoint);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *endpoint_up(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    const struct endpoint_object *object = (struct endpoint_object *)self;

    return PyBool_FromLong(object->endpoint->ops->up(object->endpoint));
}

static PyMethodDef endpoint_methods[] = {
    {"up", endpoint_up, METH_NOARGS, "Whether the other side is connected and able to receive."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot endpoint_slots[] = {
    {Py_tp_doc, "Where frames enter and leave: a packet ring, a VM's NIC. Made by the functions of this module."},
    {Py_tp_dealloc, (void *)endpoint_dealloc},
    {Py_tp_methods, endpoint_methods},
    {0, NULL},
};

int endpoint_python_set_up(const char *name) {
    PyType_Spec spec = {
        .name = name,
        .basicsize = sizeof(struct endpoint_object),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = endpoint_slots,
    };

    endpoint_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return endpoint_type == NULL ? -1 : 0;
}

PyObject *endpoint_python_wrap(struct endpoint *endpoint) {
    PyObject *self = PyType_GenericAlloc(endpoint_type, 0);

    if (self == NULL) {
        endpoint->ops->close(endpoint);
        return NULL;
    }
    ((struct endpoint_object *)self)->endpoint = endpoint;
    return self;
}

struct endpoint *endpoint_python_of(PyObject *object) {
    if (Py_TYPE(object) != endpoint_type) {
        PyErr_SetString(PyExc_TypeError, "want an Endpoint that a function of this module made");
        return NULL;
    }
    return ((struct endpoint_object *)object)->endpoint;
}

struct endpoint *endpoint_python_take(PyObject *object) {
    struct endpoint *endpoint = endpoint_python_of(object);

    if (endpoint == NULL) {
        return NULL;
    }
    if (((struct endpoint_object *)object)->taken) {
        PyErr_SetString(PyExc_ValueError, "this Endpoint is in use already");
        return NULL;
    }
    ((struct endpoint_object *)object)->taken = true;
    return endpoint;
}
