/* The Python module `backend.forwarder._core`. */
#include "python.h"

#include <errno.h>

#include "lockdown.h"

struct endpoint_object {
    PyObject_HEAD struct endpoint *endpoint;
    bool taken;
};

struct state {
    PyObject *endpoint_type;
};

static struct PyModuleDef definition;

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
    {"up", endpoint_up, METH_NOARGS, "Whether the other side is there."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot endpoint_slots[] = {
    {Py_tp_doc, "One end of a path: the management port's ring, the VM's NIC. Made by the functions of this module."},
    {Py_tp_dealloc, (void *)endpoint_dealloc},
    {Py_tp_methods, endpoint_methods},
    {0, NULL},
};

static PyType_Spec endpoint_spec = {
    .name = "backend.forwarder._core.Endpoint",
    .basicsize = sizeof(struct endpoint_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = endpoint_slots,
};

PyObject *endpoint_wrap(PyObject *module, struct endpoint *endpoint) {
    const struct state *state = PyModule_GetState(module);
    PyTypeObject *type = (PyTypeObject *)state->endpoint_type;
    PyObject *self = PyType_GenericAlloc(type, 0);

    if (self == NULL) {
        endpoint->ops->close(endpoint);
        return NULL;
    }
    ((struct endpoint_object *)self)->endpoint = endpoint;
    return self;
}

struct endpoint *endpoint_of(PyObject *object) {
    PyObject *module = PyState_FindModule(&definition);
    const struct state *state = module == NULL ? NULL : PyModule_GetState(module);

    if (state == NULL || Py_TYPE(object) != (PyTypeObject *)state->endpoint_type) {
        PyErr_SetString(PyExc_TypeError, "want an Endpoint");
        return NULL;
    }
    return ((struct endpoint_object *)object)->endpoint;
}

struct endpoint *endpoint_take(PyObject *object) {
    struct endpoint *endpoint = endpoint_of(object);

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

PyObject *raise_errno(const char *what) {
    int number = errno;
    PyObject *arguments = Py_BuildValue("(is)", number, what);

    if (arguments != NULL) {
        PyErr_SetObject(PyExc_OSError, arguments);
        Py_DECREF(arguments);
    }
    return NULL;
}

static PyMethodDef methods[] = {
    {"ring", python_ring, METH_VARARGS, NULL},
    {"vhost_user", python_vhost_user, METH_VARARGS, NULL},
    {"vhost_user_state", python_vhost_user_state, METH_VARARGS, NULL},
    {"tap", python_tap, METH_VARARGS, NULL},
    {"check", python_check, METH_VARARGS, "check(policy, direction, frame, outer_tag) -> verdict, rates aside."},
    {"memory", python_memory, METH_VARARGS, NULL},
    {"memory_inject", python_memory_inject, METH_VARARGS, NULL},
    {"memory_collect", python_memory_collect, METH_VARARGS, NULL},
    {"memory_collect_offload", python_memory_collect_offload, METH_VARARGS, NULL},
    {"memory_set_up", python_memory_set_up, METH_VARARGS, NULL},
    {"drop_capabilities", python_drop_capabilities, METH_NOARGS, "Give up every capability, for good."},
    {"confine", python_confine, METH_NOARGS, "Allow only the system calls that moving frames needs, in all threads."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "backend.forwarder._core",
    .m_doc = "The data path: endpoints, and what moves frames between them without the GIL.",
    .m_size = sizeof(struct state),
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__core(void) {
    PyObject *module = PyModule_Create(&definition);
    struct state *state;

    if (module == NULL) {
        return NULL;
    }
    state = PyModule_GetState(module);
    state->endpoint_type = PyType_FromSpec(&endpoint_spec);
    if (state->endpoint_type == NULL || PyState_AddModule(module, &definition) != 0 || path_add_to(module) != 0 ||
        lan_add_to(module) != 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
