/* The Python module `backend.forwarder._kernel`: loads the BPF programs of kernel.bpf.c and reads their counters.
 *
 * Theory of operation. Everything that needs a capability happens in Programs() (CAP_BPF, CAP_NET_ADMIN) and attach()
 * (CAP_NET_ADMIN). After that the process may drop all of them: the counters are a read-only mapping of the programs'
 * memory, and the links are file descriptors, so that the kernel detaches the programs when the process is gone,
 * however it went.
 *
 * Links at the tc hook ("tcx") came with Linux 6.6. Headers and libbpf of Debian 12 do not know them, but both pass
 * the attach type on, so the number is given here.
 */
#include <Python.h>

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "../core/bytes.h"
#include "kernel.h"

/* Python's slots are function pointers in `void *`. */
#pragma GCC diagnostic ignored "-Wpedantic"

#define TCX_INGRESS ((enum bpf_attach_type)46) /* BPF_TCX_INGRESS, linux/bpf.h since 6.6 */
#define LOG_BYTES 2048
#define NO_PROGRAM (-1)

static const char *const program_names[DIRECTIONS] = {[FROM_PORT] = "from_port", [FROM_VM] = "from_vm"};

/* The last that libbpf had to say. It wants one function for the whole process; all calls hold the GIL. */
static char said[LOG_BYTES];
static size_t said_bytes;

struct programs_object {
    PyObject_HEAD struct bpf_object *object;
    const struct memory *memory; /* NULL: closed */
    int program[DIRECTIONS];     /* file descriptors, owned by `object` */
    int link[DIRECTIONS];        /* file descriptors, or NO_PROGRAM */
    int target[DIRECTIONS];      /* interface indices */
    int cpus;
};

__attribute__((format(printf, 2, 0))) static int keep_said(enum libbpf_print_level level, const char *format,
                                                           va_list arguments) {
    static char text[64 * LOG_BYTES]; /* the verifier's reasoning comes as one; its end says what is wrong */
    const char *end = text;
    size_t bytes, kept;
    int written;

    if (level == LIBBPF_DEBUG) {
        return 0;
    }
    written = vsnprintf(text, sizeof text, format, arguments);
    if (written <= 0) {
        return 0;
    }
    bytes = (size_t)written < sizeof text ? (size_t)written : sizeof text - 1;
    end += bytes;
    if (bytes > LOG_BYTES / 2) {
        bytes = LOG_BYTES / 2;
    }
    kept = said_bytes < sizeof said - bytes ? said_bytes : sizeof said - bytes;
    memmove(said, said + said_bytes - kept, kept);
    memcpy(said + kept, end - bytes, bytes);
    said_bytes = kept + bytes;
    for (size_t i = kept; i < said_bytes; i++) {
        if (said[i] == '\n') {
            said[i] = ' '; /* exceptions are one line of the journal */
        }
    }
    return written;
}

/* Raise OSError with an errno and a sentence, followed by what libbpf said. Returns NULL. */
static PyObject *raise_with_log(int number, const char *what) {
    PyObject *text = PyUnicode_DecodeUTF8(said, (Py_ssize_t)said_bytes, "replace");
    PyObject *message = text == NULL      ? NULL
                        : said_bytes == 0 ? PyUnicode_FromFormat("%s: %s", what, strerror(number))
                                          : PyUnicode_FromFormat("%s: %s; libbpf: %U", what, strerror(number), text);
    PyObject *arguments = message == NULL ? NULL : Py_BuildValue("(iO)", number, message);

    if (arguments != NULL) {
        PyErr_SetObject(PyExc_OSError, arguments);
    }
    Py_XDECREF(arguments);
    Py_XDECREF(message);
    Py_XDECREF(text);
    return NULL;
}

static void programs_release(struct programs_object *self) {
    for (int i = 0; i < DIRECTIONS; i++) {
        if (self->link[i] != NO_PROGRAM) {
            close(self->link[i]);
            self->link[i] = NO_PROGRAM;
        }
    }
    if (self->memory != NULL) {
        munmap((void *)(uintptr_t)self->memory, sizeof *self->memory);
        self->memory = NULL;
    }
    bpf_object__close(self->object);
    self->object = NULL;
}

/* The map of a section: libbpf names it by the object's name, cut short, and the section's. */
static struct bpf_map *section_map(const struct bpf_object *object, const char *section, size_t bytes) {
    struct bpf_map *map;

    bpf_object__for_each_map(map, object) {
        const char *dot = strrchr(bpf_map__name(map), '.');

        if (dot != NULL && strcmp(dot, section) == 0 && bpf_map__value_size(map) == bytes) {
            return map;
        }
    }
    return NULL;
}

static int programs_load(struct programs_object *self, const char *path, const struct settings *settings) {
    struct bpf_map *rodata, *bss;
    void *mapped;
    int error;

    self->object = bpf_object__open_file(path, NULL);
    if (self->object == NULL) {
        raise_with_log(errno, "cannot read the BPF programs");
        return -1;
    }
    rodata = section_map(self->object, ".rodata", sizeof *settings);
    bss = section_map(self->object, ".bss", sizeof(struct memory));
    if (rodata == NULL || bss == NULL) {
        raise_with_log(ENOEXEC, "the BPF programs are not of this build");
        return -1;
    }
    error = bpf_map__set_initial_value(rodata, settings, sizeof *settings);
    if (error == 0) {
        error = bpf_object__load(self->object);
    }
    if (error != 0) {
        raise_with_log(-error, "the kernel does not take the BPF programs");
        return -1;
    }
    for (int i = 0; i < DIRECTIONS; i++) {
        const struct bpf_program *program = bpf_object__find_program_by_name(self->object, program_names[i]);

        self->program[i] = program == NULL ? NO_PROGRAM : bpf_program__fd(program);
        if (self->program[i] < 0) {
            raise_with_log(ENOEXEC, "the BPF programs are not of this build");
            return -1;
        }
    }
    mapped = mmap(NULL, sizeof(struct memory), PROT_READ, MAP_SHARED, bpf_map__fd(bss), 0);
    if (mapped == MAP_FAILED) {
        raise_with_log(errno, "cannot map the counters");
        return -1;
    }
    self->memory = mapped;
    return 0;
}

/* Programs(path: str, policy: bytes, port: int, vm: int) */
static PyObject *programs_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"path", "policy", "port", "vm", NULL};
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct programs_object *self;
    struct settings settings;
    PyObject *path;
    struct bytes policy;
    int port, vm, cpus, result;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&O&ii", names, PyUnicode_FSConverter, &path, bytes_convert,
                                     &policy, &port, &vm)) {
        return NULL;
    }
    if (policy.len != sizeof settings.policy || port <= 0 || vm <= 0 || port == vm) {
        Py_DECREF(path);
        PyErr_Format(PyExc_ValueError, "want a policy of %zu bytes and two interface indices, not %zd bytes, %d and %d",
                     sizeof settings.policy, policy.len, port, vm);
        return NULL;
    }
    memcpy(&settings.policy, policy.data, sizeof settings.policy);
    settings.target[FROM_PORT] = (uint32_t)vm;
    settings.target[FROM_VM] = (uint32_t)port;
    said_bytes = 0;
    cpus = libbpf_num_possible_cpus();
    if (cpus <= 0 || cpus > KERNEL_CPUS) {
        Py_DECREF(path);
        PyErr_Format(PyExc_RuntimeError, "this machine may have %d CPUs, the BPF programs count for %d", cpus,
                     KERNEL_CPUS);
        return NULL;
    }
    self = (struct programs_object *)allocate(type, 0);
    if (self == NULL) {
        Py_DECREF(path);
        return NULL;
    }
    self->link[FROM_PORT] = self->link[FROM_VM] = NO_PROGRAM;
    self->target[FROM_PORT] = vm;
    self->target[FROM_VM] = port;
    self->cpus = cpus;
    result = programs_load(self, PyBytes_AsString(path), &settings);
    Py_DECREF(path);
    if (result != 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void programs_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    programs_release((struct programs_object *)object);
    release(object);
    Py_DECREF(type);
}

static struct programs_object *programs_open(PyObject *object) {
    struct programs_object *self = (struct programs_object *)object;

    if (self->memory == NULL) {
        PyErr_SetString(PyExc_ValueError, "these Programs are closed");
        return NULL;
    }
    return self;
}

static PyObject *programs_attach(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    struct programs_object *self = programs_open(object);

    if (self == NULL) {
        return NULL;
    }
    said_bytes = 0;
    for (int i = 0; i < DIRECTIONS; i++) {
        /* A program is attached to the interface that the other one's frames go to. */
        int interface = self->target[i == FROM_PORT ? FROM_VM : FROM_PORT];

        if (self->link[i] != NO_PROGRAM) {
            continue;
        }
        self->link[i] = bpf_link_create(self->program[i], interface, TCX_INGRESS, NULL);
        if (self->link[i] < 0) {
            int number = -self->link[i];

            self->link[i] = NO_PROGRAM;
            return raise_with_log(number, "cannot attach to the interface");
        }
    }
    Py_RETURN_NONE;
}

static PyObject *programs_close(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    programs_release((struct programs_object *)object);
    Py_RETURN_NONE;
}

static uint64_t load(const uint64_t *number) {
    return __atomic_load_n(number, __ATOMIC_RELAXED);
}

static PyObject *programs_counters(PyObject *object, PyObject *Py_UNUSED(ignored)) {
    const struct programs_object *self = programs_open(object);
    PyObject *result = self == NULL ? NULL : PyTuple_New(DIRECTIONS);

    for (int from = 0; result != NULL && from < DIRECTIONS; from++) {
        PyObject *direction = PyTuple_New(VERDICTS);

        for (int i = 0; direction != NULL && i < VERDICTS; i++) {
            unsigned long long frames = 0, bytes = 0;
            PyObject *pair;

            for (int cpu = 0; cpu < self->cpus; cpu++) {
                const struct counter *counter = &self->memory->counters[cpu].verdict[from][i];

                frames += load(&counter->frames);
                bytes += load(&counter->bytes);
            }
            pair = Py_BuildValue("(KK)", frames, bytes);
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

/* run(direction: int, frame: bytes, repeat: int = 1) -> (action, nanoseconds per run) */
static PyObject *programs_run(PyObject *object, PyObject *args) {
    const struct programs_object *self = programs_open(object);
    LIBBPF_OPTS(bpf_test_run_opts, options);
    struct bytes frame;
    int direction, repeat = 1, error;

    if (self == NULL || !PyArg_ParseTuple(args, "iO&|i", &direction, bytes_convert, &frame, &repeat)) {
        return NULL;
    }
    if (direction < 0 || direction >= DIRECTIONS || frame.len > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "want direction 0 or 1 and a frame");
        return NULL;
    }
    options.data_in = frame.data;
    options.data_size_in = (uint32_t)frame.len;
    options.repeat = repeat;
    said_bytes = 0;
    error = bpf_prog_test_run_opts(self->program[direction], &options);
    if (error != 0) {
        return raise_with_log(-error, "cannot run the BPF program");
    }
    return Py_BuildValue("(II)", options.retval, options.duration);
}

/* attached(interface: int) -> int */
static PyObject *kernel_attached(PyObject *Py_UNUSED(module), PyObject *args) {
    int interface, error;
    uint32_t programs = 0;

    if (!PyArg_ParseTuple(args, "i", &interface)) {
        return NULL;
    }
    said_bytes = 0;
    error = bpf_prog_query(interface, TCX_INGRESS, 0, NULL, NULL, &programs);
    if (error != 0) {
        return raise_with_log(-error, "cannot ask for the programs of an interface");
    }
    return PyLong_FromUnsignedLong(programs);
}

static PyMethodDef programs_methods[] = {
    {"attach", programs_attach, METH_NOARGS, "Attach to both interfaces, for as long as the process lives."},
    {"counters", programs_counters, METH_NOARGS, "((frames, bytes) per verdict) per direction."},
    {"run", programs_run, METH_VARARGS, "Run a program on a frame that goes nowhere; for tests."},
    {"close", programs_close, METH_NOARGS, "Detach and forget."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot programs_slots[] = {
    {Py_tp_doc, "Programs(path, policy, port, vm): the two BPF programs, loaded into the kernel."},
    {Py_tp_new, (void *)programs_new},
    {Py_tp_dealloc, (void *)programs_dealloc},
    {Py_tp_methods, programs_methods},
    {0, NULL},
};

static PyType_Spec programs_spec = {
    .name = "backend.forwarder._kernel.Programs",
    .basicsize = sizeof(struct programs_object),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = programs_slots,
};

static PyMethodDef kernel_methods[] = {
    {"attached", kernel_attached, METH_VARARGS, "How many programs are attached at tc ingress (tcx) of an interface."},
    {NULL, NULL, 0, NULL},
};

static int kernel_exec(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &programs_spec, NULL);

    libbpf_set_print(keep_said);
    if (type == NULL || PyModule_AddObjectRef(module, "Programs", type) != 0 ||
        PyModule_AddIntConstant(module, "MARK", KERNEL_MARK) != 0) {
        Py_XDECREF(type);
        return -1;
    }
    Py_DECREF(type);
    return 0;
}

static PyModuleDef_Slot kernel_slots[] = {
    {Py_mod_exec, (void *)kernel_exec},
    {0, NULL},
};

static struct PyModuleDef kernel_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "backend.forwarder._kernel",
    .m_doc = "The forwarder as BPF programs in the kernel.",
    .m_methods = kernel_methods,
    .m_slots = kernel_slots,
};

PyMODINIT_FUNC PyInit__kernel(void) {
    return PyModuleDef_Init(&kernel_definition);
}
