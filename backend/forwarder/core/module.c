/* The Python module `backend.forwarder._core`. */
#include "endpoint_python.h"
#include "lockdown.h"
#include "path_python.h"
#include "ring_python.h"
#include "vhost_user_python.h"

static PyMethodDef methods[] = {
    {"ring", ring_python_open, METH_VARARGS, NULL},
    {"vhost_user", vhost_user_python_open, METH_VARARGS, NULL},
    {"vhost_user_state", vhost_user_python_state, METH_VARARGS, NULL},
    {"drop_capabilities", lockdown_drop_capabilities, METH_NOARGS, "Give up every capability, for good."},
    {"confine", lockdown_confine, METH_NOARGS, "Allow only the system calls that moving frames needs, in all threads."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "backend.forwarder._core",
    .m_doc = "The data path: endpoints, and what moves frames between them without the GIL.",
    .m_size = -1, /* state that is not per interpreter: the type Endpoint */
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__core(void) {
    PyObject *module = PyModule_Create(&definition);

    if (module == NULL || endpoint_python_set_up("backend.forwarder._core.Endpoint") != 0 ||
        path_python_add_to(module) != 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
