#include "lockdown.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Beside each group stands the code that needs it. */
static const int CALLS[] = {
    /* data path: path.c, loop.c, ring.c, tap.c, vhost_user.c, virtqueue.c, guest_memory.c */
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmmsg),
    SCMP_SYS(sendmsg),
    SCMP_SYS(sendto),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(accept4),
    SCMP_SYS(fstat),
    SCMP_SYS(fstatfs),
    SCMP_SYS(newfstatat),
    SCMP_SYS(preadv2),
    SCMP_SYS(pwritev2),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(nanosleep),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(shutdown),
    /* capture.c, Python's files */
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(close),
    SCMP_SYS(dup),
    SCMP_SYS(openat),
    SCMP_SYS(lseek),
    SCMP_SYS(ftruncate),
    SCMP_SYS(unlink),
    SCMP_SYS(unlinkat),
    SCMP_SYS(rename),
    SCMP_SYS(fcntl),
    SCMP_SYS(getdents64),
    SCMP_SYS(pread64),
    /* asyncio */
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(getsockname),
    SCMP_SYS(getpeername),
    SCMP_SYS(socketpair),
    SCMP_SYS(gettid),
    SCMP_SYS(getpid),
    SCMP_SYS(getrandom),
    /* memory and threads of the interpreter and libc */
    SCMP_SYS(brk),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(futex),
    SCMP_SYS(sched_yield),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(tgkill),
};

static const unsigned long IOCTLS[] = {
    SIOCGIFINDEX, SIOCGIFFLAGS, SIOCGIFHWADDR, /* ring.c, interface.py */
    TUNSETIFF, /* tap.py: the VM's tap, opened anew for each VM; the kernel checks its owner */
    FIONBIO,      FIOCLEX,      FIONREAD,      TCGETS, /* Python's sockets and files */
};

/* No option that gives a socket to somebody else's frames, a filter or a mark: those were set before. */
static const struct {
    int call;
    int level;
    int name;
} OPTIONS[] = {
    {SCMP_SYS(getsockopt), SOL_SOCKET, SO_ERROR},          /* ring.c: reading it clears it */
    {SCMP_SYS(getsockopt), SOL_PACKET, PACKET_STATISTICS}, /* ring.c: frames that were lost */
    {SCMP_SYS(setsockopt), SOL_SOCKET, SO_LINGER},         /* vhost_message.c: before closing what the VM handed over */
};

static const unsigned long PRCTLS[] = {PR_SET_TIMERSLACK, PR_SET_NAME};

PyObject *lockdown_drop_capabilities(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};

    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0UL, 0UL, 0UL) != 0 ||
        syscall(SYS_capset, &header, none) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1UL, 0UL, 0UL, 0UL) != 0) {
        return raise_errno("cannot drop capabilities");
    }
    Py_RETURN_NONE;
}

static int allow_all(scmp_filter_ctx filter) {
    int result = 0;

    for (size_t i = 0; result == 0 && i < sizeof CALLS / sizeof *CALLS; i++) {
        result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALLS[i], 0);
    }
    for (size_t i = 0; result == 0 && i < sizeof IOCTLS / sizeof *IOCTLS; i++) {
        result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                                  SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffU, IOCTLS[i]));
    }
    for (size_t i = 0; result == 0 && i < sizeof OPTIONS / sizeof *OPTIONS; i++) {
        result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, OPTIONS[i].call, 2,
                                  SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffU, (scmp_datum_t)OPTIONS[i].level),
                                  SCMP_A2(SCMP_CMP_MASKED_EQ, 0xffffffffU, (scmp_datum_t)OPTIONS[i].name));
    }
    for (size_t i = 0; result == 0 && i < sizeof PRCTLS / sizeof *PRCTLS; i++) {
        result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PRCTLS[i], 0));
    }
    if (result == 0) {
        result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    }
    if (result == 0) {
        result =
            seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    }
    if (result == 0) {
        result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_UNIX, 0));
    }
    return result;
}

PyObject *lockdown_confine(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int result;

    if (filter == NULL) {
        return PyErr_NoMemory();
    }
    result = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (result == 0) {
        result = allow_all(filter);
    }
    if (result == 0) {
        result = seccomp_load(filter);
    }
    seccomp_release(filter);
    if (result != 0) {
        errno = -result;
        return raise_errno("cannot load the system-call filter");
    }
    Py_RETURN_NONE;
}
