/* The Python module `backend.lan._lan`. Its vhost-user endpoints are compiled from the forwarder's sources. */
#include "../../forwarder/core/endpoint_python.h"
#include "../../forwarder/core/vhost_user_python.h"
#include "lan_python.h"
#include "tap_python.h"

static PyMethodDef methods[] = {
    {"vhost_user", vhost_user_python_open, METH_VARARGS, NULL},
    {"vhost_user_state", vhost_user_python_state, METH_VARARGS, NULL},
    {"tap", tap_python_open, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "backend.lan._lan",
    .m_doc = "The guest LAN: its endpoints, and what moves frames between them without the GIL.",
    .m_size = -1, /* state that is not per interpreter: the type Endpoint */
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__lan(void) {
    PyObject *module = PyModule_Create(&definition);

    if (module == NULL || endpoint_python_set_up("backend.lan._lan.Endpoint") != 0 || lan_python_add_to(module) != 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
