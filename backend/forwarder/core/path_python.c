#include "path_python.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "endpoint_python.h"
#include "path.h"

struct path_object {
    PyObject_HEAD struct path *path;
    PyObject *ends[DIRECTIONS];
    int stop_fd;
    bool running;
};

static int as_policy(const char *bytes, Py_ssize_t len, struct policy *policy) {
    if (len != sizeof *policy) {
        PyErr_Format(PyExc_ValueError, "want a policy of %zu bytes, not %zd", sizeof *policy, len);
        return -1;
    }
    memcpy(policy, bytes, sizeof *policy);
    if (policy->tags > POLICY_TAGS || policy->ethertypes > POLICY_ETHERTYPES) {
        PyErr_SetString(PyExc_ValueError, "policy: tags or ethertypes out of range");
        return -1;
    }
    return 0;
}

/* Path(port: Endpoint, vm: Endpoint, policy: bytes) */
static PyObject *path_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"port", "vm", "policy", NULL};
    PyObject *ends[DIRECTIONS];
    struct endpoint *endpoint[DIRECTIONS];
    struct bytes packed;
    struct policy policy;
    struct path_object *self;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO&", names, &ends[FROM_PORT], &ends[FROM_VM], bytes_convert,
                                     &packed) ||
        as_policy(packed.data, packed.len, &policy) != 0) {
        return NULL;
    }
    for (int i = 0; i < DIRECTIONS; i++) {
        endpoint[i] = endpoint_python_of(ends[i]);
        if (endpoint[i] == NULL) {
            return NULL;
        }
        if (endpoint[i]->from != (enum direction)i) {
            PyErr_SetString(PyExc_ValueError, "port must be an Endpoint of direction 0, vm one of direction 1");
            return NULL;
        }
    }
    self = (struct path_object *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    self->path = aligned_alloc(64, (sizeof(struct path) + 63) / 64 * 64);
    if (self->stop_fd < 0 || self->path == NULL) {
        Py_DECREF(self);
        return raise_errno("cannot make a path");
    }
    for (int i = 0; i < DIRECTIONS; i++) {
        if (endpoint_python_take(ends[i]) == NULL) {
            Py_DECREF(self);
            return NULL;
        }
        Py_INCREF(ends[i]);
        self->ends[i] = ends[i];
    }
    path_init(self->path, endpoint[FROM_PORT], endpoint[FROM_VM], &policy, self->stop_fd);
    return (PyObject *)self;
}

static void path_dealloc(PyObject *object) {
    struct path_object *self = (struct path_object *)object;
    PyTypeObject *type = Py_TYPE(object);

    if (self->path != NULL && self->ends[FROM_VM] != NULL) {
        capture_stop(&self->path->capture);
    }
    for (int i = 0; i < DIRECTIONS; i++) {
        Py_XDECREF(self->ends[i]);
    }
    free(self->path);
    if (self->stop_fd > 0) {
        close(self->stop_fd);
    }
    PyObject_Free(object);
    Py_DECREF(type);
}

static PyObject *path_run_python(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    struct path_object *self = (struct path_object *)object;
    uint64_t count;
    int result;

    if (self->running) {
        PyErr_SetString(PyExc_ValueError, "this Path is running already");
        return NULL;
    }
    self->running = true;
    Py_BEGIN_ALLOW_THREADS result = path_run(self->path);
    Py_END_ALLOW_THREADS self->running = false;
    if (result != 0) {
        return raise_errno("poll(2) failed while frames were moved");
    }
    if (read(self->stop_fd, &count, sizeof count) < 0 && errno != EAGAIN) {
        return raise_errno("cannot read the eventfd that stops the path");
    }
    Py_RETURN_NONE;
}

static PyObject *path_stop(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    struct path_object *self = (struct path_object *)object;
    const uint64_t one = 1;

    if (write(self->stop_fd, &one, sizeof one) != sizeof one) {
        return raise_errno("cannot stop the path");
    }
    Py_RETURN_NONE;
}

static uint64_t load(const uint64_t *number) {
    return __atomic_load_n(number, __ATOMIC_RELAXED);
}

static PyObject *path_counters(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    const struct path *path = ((struct path_object *)object)->path;
    PyObject *result = PyTuple_New(DIRECTIONS);

    for (int from = 0; result != NULL && from < DIRECTIONS; from++) {
        PyObject *direction = PyTuple_New(VERDICTS);

        for (int i = 0; direction != NULL && i < VERDICTS; i++) {
            const struct counter *counter = &path->counters.verdict[from][i];
            PyObject *pair = Py_BuildValue("(KK)", (unsigned long long)load(&counter->frames),
                                           (unsigned long long)load(&counter->bytes));

            if (pair == NULL || PyTuple_SetItem(direction, i, pair) != 0) {
                Py_CLEAR(direction);
            }
        }
        if (direction == NULL || PyTuple_SetItem(result, from, direction) != 0) {
            Py_CLEAR(result);
        }
    }
    return result;
}

static PyObject *path_pace(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    const struct path *path = ((struct path_object *)object)->path;

    return Py_BuildValue("{sKsKsK}", "rounds", (unsigned long long)load(&path->rounds), "sleeps",
                         (unsigned long long)load(&path->sleeps), "naps", (unsigned long long)load(&path->naps));
}

static PyObject *path_capture_start(PyObject *object, PyObject *args) {
    struct path *path = ((struct path_object *)object)->path;
    int file, own;
    unsigned long long limit;

    if (!PyArg_ParseTuple(args, "iK", &file, &limit)) {
        return NULL;
    }
    own = dup(file);
    if (own < 0 || capture_start(&path->capture, own, limit) != 0) {
        PyObject *raised = raise_errno("cannot start a capture");

        if (own >= 0) {
            close(own);
        }
        return raised;
    }
    Py_RETURN_NONE;
}

static PyObject *path_capture_stop(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    struct path *path = ((struct path_object *)object)->path;

    return PyBool_FromLong(capture_stop(&path->capture));
}

static PyObject *path_capture_state(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    struct capture *capture = &((struct path_object *)object)->path->capture;
    PyObject *state;

    pthread_mutex_lock(&capture->lock);
    state = Py_BuildValue("{sisKsKsKsK}", "on", (int)capture->on, "limit", (unsigned long long)capture->limit, "bytes",
                          (unsigned long long)capture->written, "frames", (unsigned long long)capture->frames, "missed",
                          (unsigned long long)capture->missed);
    pthread_mutex_unlock(&capture->lock);
    return state;
}

static PyMethodDef path_methods[] = {
    {"run", path_run_python, METH_NOARGS, "Move frames until stop() is called; releases the GIL."},
    {"stop", path_stop, METH_NOARGS, "Make run() return; from any thread."},
    {"counters", path_counters, METH_NOARGS, "Frames and bytes of each verdict, for both directions."},
    {"pace", path_pace, METH_NOARGS, "How the data path waits: rounds, sleeps, naps."},
    {"capture_start", path_capture_start, METH_VARARGS,
     "Write a pcapng file of at most so many bytes to an open file."},
    {"capture_stop", path_capture_stop, METH_NOARGS, "End the capture; False if none was running."},
    {"capture_state", path_capture_state, METH_NOARGS, "What the capture, or the last one, holds."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot path_slots[] = {
    {Py_tp_doc, "Path(port, vm, policy): moves frames between two endpoints as a policy allows."},
    {Py_tp_new, (void *)path_new},
    {Py_tp_dealloc, (void *)path_dealloc},
    {Py_tp_methods, path_methods},
    {0, NULL},
};

static PyType_Spec path_spec = {
    .name = "backend.forwarder._core.Path",
    .basicsize = sizeof(struct path_object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = path_slots,
};

int path_python_add_to(PyObject *module) {
    PyObject *type = PyType_FromSpec(&path_spec);
    int result = type == NULL ? -1 : PyModule_AddObjectRef(module, "Path", type);

    Py_XDECREF(type);
    return result;
}
