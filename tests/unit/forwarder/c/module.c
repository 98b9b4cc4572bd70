/* The Python module `tests.unit.forwarder._testing`: the data paths of the forwarder and of the guest LAN, compiled
 * from the product's sources with the product's flags, and endpoints in memory to feed them, which no image has.
 */
#include "../../../../backend/forwarder/core/endpoint_python.h"
#include "../../../../backend/forwarder/core/path_python.h"
#include "../../../../backend/forwarder/core/vhost_user_python.h"
#include "../../../../backend/lan/core/lan_python.h"
#include "../../../../backend/lan/core/tap_python.h"
#include "check_python.h"
#include "memory_python.h"

static PyMethodDef methods[] = {
    {"check", check_python, METH_VARARGS, NULL},
    {"memory", memory_python_open, METH_VARARGS, NULL},
    {"memory_inject", memory_python_inject, METH_VARARGS, NULL},
    {"memory_collect", memory_python_collect, METH_VARARGS, NULL},
    {"memory_collect_offload", memory_python_collect_offload, METH_VARARGS, NULL},
    {"memory_set_up", memory_python_set_up, METH_VARARGS, NULL},
    {"tap", tap_python_open, METH_VARARGS, NULL},
    {"vhost_user", vhost_user_python_open, METH_VARARGS, NULL},
    {"vhost_user_state", vhost_user_python_state, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "tests.unit.forwarder._testing",
    .m_doc = "The data paths, and endpoints in memory to feed them.",
    .m_size = -1, /* state that is not per interpreter: the type Endpoint */
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__testing(void) {
    PyObject *module = PyModule_Create(&definition);

    if (module == NULL || endpoint_python_set_up("tests.unit.forwarder._testing.Endpoint") != 0 ||
        path_python_add_to(module) != 0 || lan_python_add_to(module) != 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
