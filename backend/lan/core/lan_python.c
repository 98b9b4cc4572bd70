#include "lan_python.h"

#include <stdlib.h>
#include <string.h>

#include "../../forwarder/core/endpoint_python.h"
#include "lan.h"

struct lan_object {
    PyObject_HEAD struct lan *lan;
    PyObject *endpoints; /* a tuple: they live as long as we do */
};

/* None, or (cost_ns, burst_ns, group_cost_ns, group_burst_ns). */
static int read_limits(PyObject *limits, Py_ssize_t i, struct limit *rate, struct limit *group_rate) {
    PyObject *item = limits == Py_None ? Py_None : PyTuple_GetItem(limits, i);
    unsigned long long numbers[4] = {0, 0, 0, 0};

    if (item == NULL || (item != Py_None &&
                         !PyArg_ParseTuple(item, "KKKK;limits", &numbers[0], &numbers[1], &numbers[2], &numbers[3]))) {
        return -1;
    }
    *rate = (struct limit){.cost_ns = numbers[0], .burst_ns = numbers[1]};
    *group_rate = (struct limit){.cost_ns = numbers[2], .burst_ns = numbers[3]};
    return 0;
}

static int add_ports(struct lan *lan, PyObject *endpoints, PyObject *limits) {
    Py_ssize_t ports = PyTuple_Size(endpoints);

    for (Py_ssize_t i = 0; i < ports; i++) {
        struct limit rate;
        struct limit group_rate;
        struct endpoint *endpoint;

        if (read_limits(limits, i, &rate, &group_rate) != 0) {
            return -1;
        }
        endpoint = endpoint_python_take(PyTuple_GetItem(endpoints, i));
        if (endpoint == NULL) {
            return -1;
        }
        lan_add(lan, endpoint, &rate, &group_rate);
    }
    return 0;
}

static int check_arguments(PyObject *endpoints, PyObject *limits, unsigned max_frame) {
    Py_ssize_t ports = PyTuple_Size(endpoints);

    if (ports < 1 || ports > LAN_PORTS) {
        PyErr_Format(PyExc_ValueError, "a LAN has 1 to %d endpoints, not %zd", LAN_PORTS, ports);
        return -1;
    }
    if (limits != Py_None && (!PyTuple_Check(limits) || PyTuple_Size(limits) != ports)) {
        PyErr_SetString(PyExc_ValueError, "limits must be None or a tuple with an item for each endpoint");
        return -1;
    }
    if (max_frame < POLICY_ETHER || max_frame > FRAME_MAX) {
        PyErr_Format(PyExc_ValueError, "max_frame must be %d to %d, not %u", POLICY_ETHER, FRAME_MAX, max_frame);
        return -1;
    }
    for (Py_ssize_t i = 0; i < ports; i++) {
        if (endpoint_python_of(PyTuple_GetItem(endpoints, i)) == NULL) {
            return -1;
        }
    }
    return 0;
}

static PyObject *python_lan_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"endpoints", "max_frame", "limits", NULL};
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *given;
    PyObject *endpoints;
    PyObject *limits = Py_None;
    unsigned max_frame = 9014; /* a jumbo frame: 9,000 bytes and the Ethernet header */
    struct lan_object *self;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|IO:Lan", names, &given, &max_frame, &limits)) {
        return NULL;
    }
    endpoints = PySequence_Tuple(given);
    if (endpoints == NULL || check_arguments(endpoints, limits, max_frame) != 0) {
        Py_XDECREF(endpoints);
        return NULL;
    }
    self = (struct lan_object *)allocate(type, 0);
    if (self == NULL) {
        Py_DECREF(endpoints);
        return NULL;
    }
    self->endpoints = endpoints;
    self->lan = lan_new(max_frame);
    if (self->lan == NULL) {
        raise_errno("cannot make a guest LAN");
        Py_DECREF(self);
        return NULL;
    }
    if (add_ports(self->lan, endpoints, limits) != 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void python_lan_dealloc(PyObject *object) {
    struct lan_object *self = (struct lan_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    if (self->lan != NULL) {
        lan_free(self->lan);
    }
    Py_XDECREF(self->endpoints);
    release(object);
    Py_DECREF(type);
}

/* (address: bytes, port: int, mac: bytes) */
static int read_entry(PyObject *object, Py_ssize_t i, unsigned ports, struct entry *entry) {
    struct bytes bytes;
    struct bytes mac;
    int port;
    struct address address;

    if (!PyTuple_Check(object)) {
        PyErr_Format(PyExc_TypeError, "entry %zd: want a tuple (address, port, mac)", i);
        return -1;
    }
    if (!PyArg_ParseTuple(object, "O&iO&;entry: (address, port, mac)", bytes_convert, &bytes, &port, bytes_convert,
                          &mac)) {
        return -1;
    }
    if (bytes.len != 4 && bytes.len != 16) {
        PyErr_Format(PyExc_ValueError, "entry %zd: an address has 4 or 16 bytes, not %zd", i, bytes.len);
        return -1;
    }
    if (port < 0 || (unsigned)port >= ports) {
        PyErr_Format(PyExc_ValueError, "entry %zd: there is no port %d", i, port);
        return -1;
    }
    if (mac.len != 6 || (mac.data[0] & 1) != 0) {
        PyErr_Format(PyExc_ValueError, "entry %zd: want the MAC address of one station, 6 bytes", i);
        return -1;
    }
    address = bytes.len == 4 ? table_ipv4((const uint8_t *)bytes.data) : table_ipv6((const uint8_t *)bytes.data);
    *entry = (struct entry){.high = address.high, .low = address.low, .family = address.family, .port = (uint8_t)port};
    memcpy(entry->mac, mac.data, sizeof(entry->mac));
    return 0;
}

static struct table *read_table(PyObject *tuple, unsigned ports) {
    Py_ssize_t n = PyTuple_Size(tuple);
    struct entry *entries = calloc((size_t)n + 1, sizeof(*entries));
    struct table *table = NULL;
    size_t which = 0;

    if (entries == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (read_entry(PyTuple_GetItem(tuple, i), i, ports, &entries[i]) != 0) {
            free(entries);
            return NULL;
        }
    }
    table = table_build(entries, (size_t)n, &which);
    free(entries);
    if (table != NULL) {
        return table;
    }
    if (errno == EEXIST) {
        PyErr_Format(PyExc_ValueError, "entry %zu: its address has an owner already", which);
    } else if (errno == E2BIG) {
        PyErr_Format(PyExc_ValueError, "a table has %d entries at most", TABLE_ENTRIES);
    } else {
        raise_errno("cannot make the table of addresses");
    }
    return NULL;
}

static PyObject *python_lan_provision(PyObject *object, PyObject *args) {
    struct lan *lan = ((struct lan_object *)object)->lan;
    PyObject *given;
    PyObject *tuple;
    struct table *table;

    if (!PyArg_ParseTuple(args, "O:provision", &given)) {
        return NULL;
    }
    tuple = PySequence_Tuple(given);
    if (tuple == NULL) {
        return NULL;
    }
    table = read_table(tuple, lan->ports);
    Py_DECREF(tuple);
    if (table == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS lan_provision(lan, table);
    Py_END_ALLOW_THREADS Py_RETURN_NONE;
}

static PyObject *python_lan_run(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    struct lan *lan = ((struct lan_object *)object)->lan;
    int result;
    int failure;

    Py_BEGIN_ALLOW_THREADS result = lan_run(lan);
    failure = errno;
    Py_END_ALLOW_THREADS if (result == 0) {
        Py_RETURN_NONE;
    }
    if (failure == EBUSY) {
        PyErr_SetString(PyExc_ValueError, "this Lan is running already");
        return NULL;
    }
    errno = failure;
    return raise_errno("poll(2) failed while frames were moved");
}

static PyObject *python_lan_stop(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    lan_stop(((struct lan_object *)object)->lan);
    Py_RETURN_NONE;
}

static PyObject *port_counters(const struct counter *counters) {
    PyObject *result = PyTuple_New(VERDICTS);

    for (int i = 0; result != NULL && i < VERDICTS; i++) {
        unsigned long long frames = __atomic_load_n(&counters[i].frames, __ATOMIC_RELAXED);
        unsigned long long bytes = __atomic_load_n(&counters[i].bytes, __ATOMIC_RELAXED);
        PyObject *pair = Py_BuildValue("(KK)", frames, bytes);

        if (pair == NULL || PyTuple_SetItem(result, i, pair) != 0) {
            Py_CLEAR(result);
        }
    }
    return result;
}

static PyObject *python_lan_counters(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    const struct lan *lan = ((struct lan_object *)object)->lan;
    PyObject *result = PyTuple_New((Py_ssize_t)lan->ports);

    for (unsigned i = 0; result != NULL && i < lan->ports; i++) {
        PyObject *counters = port_counters(lan->port[i].counters);

        if (counters == NULL || PyTuple_SetItem(result, (Py_ssize_t)i, counters) != 0) {
            Py_CLEAR(result);
        }
    }
    return result;
}

static PyMethodDef lan_methods[] = {
    {"provision", python_lan_provision, METH_VARARGS,
     "Replace the table of addresses; the old one is then out of use."},
    {"run", python_lan_run, METH_NOARGS, "Move frames until stop() is called; releases the GIL."},
    {"stop", python_lan_stop, METH_NOARGS, "Make run() return, now and ever after; from any thread."},
    {"counters", python_lan_counters, METH_NOARGS, "Frames and bytes of each verdict, for frames from each endpoint."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lan_slots[] = {
    {Py_tp_doc,
     "Lan(endpoints, max_frame=9014, limits=None): a guest LAN; frames go to the owner of their address only."},
    {Py_tp_new, (void *)python_lan_new},
    {Py_tp_dealloc, (void *)python_lan_dealloc},
    {Py_tp_methods, lan_methods},
    {0, NULL},
};

static PyType_Spec lan_spec = {
    .name = "backend.lan._lan.Lan",
    .basicsize = sizeof(struct lan_object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = lan_slots,
};

int lan_python_add_to(PyObject *module) {
    PyObject *type = PyType_FromSpec(&lan_spec);
    int result = type == NULL ? -1 : PyModule_AddObjectRef(module, "Lan", type);

    Py_XDECREF(type);
    return result;
}
