/* The policy alone, for tests: what the process says of a frame must be what the BPF program says of it. */
#include <string.h>

#include "python.h"

PyObject *python_check(PyObject *Py_UNUSED(module), PyObject *args) {
    const char *packed, *frame;
    Py_ssize_t packed_len, len;
    int from, outer_tags;
    uint8_t head[POLICY_HEAD] = {0};
    uint32_t have;
    struct policy policy;
    struct parsed parsed;

    if (!PyArg_ParseTuple(args, "y#iy#i", &packed, &packed_len, &from, &frame, &len, &outer_tags)) {
        return NULL;
    }
    if (packed_len != sizeof policy || from < 0 || from >= DIRECTIONS || len > FRAME_MAX || outer_tags < 0 ||
        outer_tags > 1) {
        PyErr_SetString(PyExc_ValueError, "want a policy, direction 0 or 1, a frame, 0 or 1 tags beside it");
        return NULL;
    }
    memcpy(&policy, packed, sizeof policy);
    have = len < POLICY_HEAD ? (uint32_t)len : POLICY_HEAD;
    memcpy(head, frame, have);
    return PyLong_FromLong((long)policy_check(&policy, (enum direction)from, head, have, (uint8_t)outer_tags,
                                              (uint32_t)len, &parsed));
}
