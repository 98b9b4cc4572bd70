#include "memory_python.h"

#include <string.h>

#include "../../../../backend/forwarder/core/endpoint_python.h"
#include "memory.h"

PyObject *memory_python_open(PyObject *Py_UNUSED(module), PyObject *args) {
    struct endpoint *endpoint;
    int slots;
    int slot_bytes;
    int from;

    if (!PyArg_ParseTuple(args, "iii:memory", &slots, &slot_bytes, &from)) {
        return NULL;
    }
    if (slots < 1 || slots > MEMORY_MAX_SLOTS) {
        return PyErr_Format(PyExc_ValueError, "slots must be 1 to %d, not %d", MEMORY_MAX_SLOTS, slots);
    }
    if (slot_bytes < 1 || slot_bytes > FRAME_MAX) {
        return PyErr_Format(PyExc_ValueError, "slot_bytes must be 1 to %d, not %d", FRAME_MAX, slot_bytes);
    }
    if (from < 0 || from >= DIRECTIONS) {
        return PyErr_Format(PyExc_ValueError, "direction_from must be 0 (port) or 1 (VM), not %d", from);
    }
    endpoint = memory_open((unsigned)slots, (unsigned)slot_bytes, (enum direction)from);
    if (endpoint == NULL) {
        return raise_errno("cannot make an endpoint in memory");
    }
    return endpoint_python_wrap(endpoint);
}

static struct endpoint *memory_argument(PyObject *object) {
    struct endpoint *endpoint = endpoint_python_of(object);

    if (endpoint != NULL && !memory_is(endpoint)) {
        PyErr_SetString(PyExc_TypeError, "want an Endpoint that memory() made");
        return NULL;
    }
    return endpoint;
}

/* `count` numbers of a tuple, or zeros for None; -1 with an exception set. */
static int numbers(PyObject *object, const char *name, const long *limits, Py_ssize_t count, uint16_t *values) {
    memset(values, 0, (size_t)count * sizeof(*values));
    if (object == NULL || object == Py_None) {
        return 0;
    }
    if (!PyTuple_Check(object) || PyTuple_Size(object) != count) {
        PyErr_Format(PyExc_TypeError, "%s must be None or a tuple of %zd numbers", name, count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        long value = PyLong_AsLong(PyTuple_GetItem(object, i));

        if (value == -1 && PyErr_Occurred() != NULL) {
            return -1;
        }
        if (value < 0 || value > limits[i]) {
            PyErr_Format(PyExc_ValueError, "%s[%zd] must be 0 to %ld, not %ld", name, i, limits[i], value);
            return -1;
        }
        values[i] = (uint16_t)value;
    }
    return 0;
}

static PyObject *inject(struct endpoint *endpoint, const Py_buffer *bytes, const uint16_t *offload,
                        const uint16_t *tag) {
    struct memory_slot *slot;

    if ((size_t)bytes->len > memory_slot_bytes(endpoint)) {
        return PyErr_Format(PyExc_ValueError, "a frame of %zd bytes is longer than a slot (%u)", bytes->len,
                            memory_slot_bytes(endpoint));
    }
    slot = memory_next(endpoint);
    if (slot == NULL) {
        return PyBool_FromLong(0);
    }
    memcpy(slot->bytes, bytes->buf, (size_t)bytes->len);
    slot->len = (uint32_t)bytes->len;
    slot->tag_tpid = tag[0];
    slot->tag_tci = tag[1];
    slot->offload = (struct offload){.flags = (uint8_t)offload[0],
                                     .gso_type = (uint8_t)offload[1],
                                     .hdr_len = offload[2],
                                     .gso_size = offload[3],
                                     .csum_start = offload[4],
                                     .csum_offset = offload[5]};
    memory_put(endpoint);
    memory_publish(endpoint);
    return PyBool_FromLong(1);
}

PyObject *memory_python_inject(PyObject *Py_UNUSED(module), PyObject *args) {
    static const long offload_limits[6] = {0xff, 0xff, 0xffff, 0xffff, 0xffff, 0xffff};
    static const long tag_limits[2] = {0xffff, 0xffff};
    struct endpoint *endpoint;
    PyObject *object;
    PyObject *offload_object = NULL;
    PyObject *tag_object = NULL;
    PyObject *result = NULL;
    Py_buffer bytes;
    uint16_t offload[6];
    uint16_t tag[2];

    if (!PyArg_ParseTuple(args, "Oy*|OO:memory_inject", &object, &bytes, &offload_object, &tag_object)) {
        return NULL;
    }
    endpoint = memory_argument(object);
    if (endpoint != NULL && numbers(offload_object, "offload", offload_limits, 6, offload) == 0 &&
        numbers(tag_object, "tag", tag_limits, 2, tag) == 0) {
        result = inject(endpoint, &bytes, offload, tag);
    }
    PyBuffer_Release(&bytes);
    return result;
}

static PyObject *collected(const struct memory_slot *slot, bool with_offload) {
    const struct offload *offload = &slot->offload;

    PyObject *bytes = PyBytes_FromStringAndSize((const char *)slot->bytes, (Py_ssize_t)slot->len);

    if (bytes == NULL || !with_offload) {
        return bytes;
    }
    return Py_BuildValue("N(iiiiii)", bytes, (int)offload->flags, (int)offload->gso_type, (int)offload->hdr_len,
                         (int)offload->gso_size, (int)offload->csum_start, (int)offload->csum_offset);
}

static PyObject *collect(PyObject *args, const char *format, bool with_offload) {
    struct endpoint *endpoint;
    PyObject *object;
    PyObject *list;
    int max;
    int timeout_ms = 0;

    if (!PyArg_ParseTuple(args, format, &object, &max, &timeout_ms)) {
        return NULL;
    }
    endpoint = memory_argument(object);
    list = endpoint == NULL ? NULL : PyList_New(0);
    if (list == NULL) {
        return NULL;
    }
    if (timeout_ms != 0 && memory_peek(endpoint) == NULL) {
        Py_BEGIN_ALLOW_THREADS memory_wait(endpoint, timeout_ms);
        Py_END_ALLOW_THREADS
    }
    while (PyList_Size(list) < max) {
        const struct memory_slot *slot = memory_peek(endpoint);
        PyObject *item = slot == NULL ? NULL : collected(slot, with_offload);

        if (slot == NULL) {
            break;
        }
        if (item == NULL || PyList_Append(list, item) != 0) {
            Py_XDECREF(item);
            Py_CLEAR(list);
            break;
        }
        Py_DECREF(item);
        memory_take(endpoint);
    }
    memory_return(endpoint);
    return list;
}

PyObject *memory_python_collect(PyObject *Py_UNUSED(module), PyObject *args) {
    return collect(args, "Oi|i:memory_collect", false);
}

PyObject *memory_python_collect_offload(PyObject *Py_UNUSED(module), PyObject *args) {
    return collect(args, "Oi|i:memory_collect_offload", true);
}

PyObject *memory_python_set_up(PyObject *Py_UNUSED(module), PyObject *args) {
    struct endpoint *endpoint;
    PyObject *object;
    int up;

    if (!PyArg_ParseTuple(args, "Op:memory_set_up", &object, &up)) {
        return NULL;
    }
    endpoint = memory_argument(object);
    if (endpoint == NULL) {
        return NULL;
    }
    memory_set_up(endpoint, up != 0);
    Py_RETURN_NONE;
}
