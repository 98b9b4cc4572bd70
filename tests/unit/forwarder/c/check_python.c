#include "check_python.h"

#include <string.h>

#include "../../../../backend/forwarder/core/frame.h"

PyObject *check_python(PyObject *Py_UNUSED(module), PyObject *args) {
    struct bytes packed, frame;
    int from;
    unsigned outer_tag;
    uint8_t head[POLICY_HEAD] = {0};
    uint32_t have;
    struct policy policy;
    struct parsed parsed;

    if (!PyArg_ParseTuple(args, "O&iO&I", bytes_convert, &packed, &from, bytes_convert, &frame, &outer_tag)) {
        return NULL;
    }
    if (packed.len != sizeof policy || from < 0 || from >= DIRECTIONS || frame.len > FRAME_MAX) {
        PyErr_SetString(PyExc_ValueError, "want a policy, direction 0 or 1, a frame, the tag beside it or 0");
        return NULL;
    }
    memcpy(&policy, packed.data, sizeof policy);
    have = frame.len < POLICY_HEAD ? (uint32_t)frame.len : POLICY_HEAD;
    memcpy(head, frame.data, have);
    return PyLong_FromLong(
        (long)policy_check(&policy, (enum direction)from, head, have, outer_tag, (uint32_t)frame.len, &parsed));
}
