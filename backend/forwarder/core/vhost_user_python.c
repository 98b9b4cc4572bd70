#include "vhost_user_python.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "endpoint_python.h"
#include "vhost_net.h"

PyObject *vhost_user_python_open(PyObject *Py_UNUSED(module), PyObject *args) {
    int listen_fd, offload, from, listener, listening = 0, flags;
    socklen_t size = sizeof listening;
    long long max_memory;
    struct endpoint *endpoint;

    if (!PyArg_ParseTuple(args, "iLpi", &listen_fd, &max_memory, &offload, &from)) {
        return NULL;
    }
    if (max_memory <= 0 || from < 0 || from >= DIRECTIONS) {
        PyErr_SetString(PyExc_ValueError, "max_memory must be 1 byte or more, direction_from 0 (port) or 1 (VM)");
        return NULL;
    }
    if (getsockopt(listen_fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0) {
        return raise_errno("cannot use the vhost-user socket");
    }
    if (!listening) {
        PyErr_SetString(PyExc_ValueError, "want a listening unix socket for vhost-user");
        return NULL;
    }
    listener = fcntl(listen_fd, F_DUPFD_CLOEXEC, 3);
    flags = listener < 0 ? -1 : fcntl(listener, F_GETFL);
    /* A connection that ends before it is accepted must not make us wait for the next one. */
    if (flags < 0 || fcntl(listener, F_SETFL, flags | O_NONBLOCK) != 0) {
        int error = errno;

        if (listener >= 0) {
            close(listener);
        }
        errno = error;
        return raise_errno("cannot duplicate the vhost-user socket");
    }
    endpoint = vhost_net_open(listener, (uint64_t)max_memory, offload != 0, (enum direction)from);
    if (endpoint == NULL) {
        close(listener);
        return PyErr_NoMemory();
    }
    return endpoint_python_wrap(endpoint);
}

static int put(PyObject *dict, const char *name, PyObject *value) {
    int result = value == NULL ? -1 : PyDict_SetItemString(dict, name, value);

    Py_XDECREF(value);
    return result;
}

static PyObject *number(const uint64_t *counter) {
    return PyLong_FromUnsignedLongLong(__atomic_load_n(counter, __ATOMIC_RELAXED));
}

PyObject *vhost_user_python_state(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *object, *state, *faults;
    struct endpoint *endpoint;
    struct vhost_user *device;
    enum fault last;

    if (!PyArg_ParseTuple(args, "O", &object)) {
        return NULL;
    }
    endpoint = endpoint_python_of(object);
    if (endpoint == NULL) {
        return NULL;
    }
    device = vhost_net_device(endpoint);
    if (device == NULL) {
        PyErr_SetString(PyExc_TypeError, "want an Endpoint made by vhost_user()");
        return NULL;
    }
    state = PyDict_New();
    faults = PyDict_New();
    if (state == NULL || faults == NULL) {
        goto failed;
    }
    for (unsigned i = FAULT_NONE + 1; i < FAULTS; i++) {
        if (__atomic_load_n(&device->faults[i], __ATOMIC_RELAXED) != 0 &&
            put(faults, vhost_fault_name((enum fault)i), number(&device->faults[i])) != 0) {
            goto failed;
        }
    }
    last = __atomic_load_n(&device->last_fault, __ATOMIC_RELAXED);
    if (put(state, "last_fault",
            last == FAULT_NONE ? Py_NewRef(Py_None) : PyUnicode_FromString(vhost_fault_sentence(last))) != 0 ||
        put(state, "connections", number(&device->connections)) != 0 ||
        put(state, "disconnections", number(&device->disconnections)) != 0 ||
        put(state, "refused", number(&device->refused)) != 0 || put(state, "signals", number(&device->signals)) != 0 ||
        put(state, "features", number(&device->features)) != 0 || PyDict_SetItemString(state, "faults", faults) != 0) {
        goto failed;
    }
    Py_DECREF(faults);
    return state;
failed:
    Py_XDECREF(state);
    Py_XDECREF(faults);
    return NULL;
}
