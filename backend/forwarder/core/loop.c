#include "loop.h"

#include <errno.h>
#include <sys/prctl.h>
#include <time.h>

void loop_begin(void) {
    /* The default slack of 50 us would double the nap (prctl(2), PR_SET_TIMERSLACK). */
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
}

void loop_nap(void) {
    static const struct timespec nap = {.tv_nsec = LOOP_NAP_NS};

    nanosleep(&nap, NULL);
}

int loop_wait_for(struct endpoint *const *endpoints, unsigned n, uint64_t want_frames, uint64_t want_room, int stop_fd,
                  int timeout_ms) {
    struct pollfd fds[1 + LOOP_ENDPOINTS * FRAME_POLLS];
    int armed[LOOP_ENDPOINTS]; /* file descriptors of each, ENDPOINT_BUSY: had something to do */
    nfds_t count = 1;
    struct pollfd *mine;
    int ready;

    fds[0] = (struct pollfd){.fd = stop_fd, .events = POLLIN};
    for (unsigned i = 0; i < n; i++) {
        armed[i] =
            endpoints[i]->ops->arm(endpoints[i], fds + count, (want_frames >> i & 1) != 0, (want_room >> i & 1) != 0);
        if (armed[i] == ENDPOINT_LOST) {
            errno = ENODEV;
            return -1;
        }
        if (armed[i] < 0) {
            timeout_ms = 0;
        } else {
            count += (nfds_t)armed[i];
        }
    }
    ready = poll(fds, count, timeout_ms);
    if (ready < 0) {
        if (errno != EINTR && errno != EAGAIN) {
            return -1;
        }
        /* poll(2) left revents as they were, which is not said to be zero. */
        for (nfds_t i = 0; i < count; i++) {
            fds[i].revents = 0;
        }
    }
    mine = fds + 1;
    for (unsigned i = 0; i < n; i++) {
        if (armed[i] >= 0) {
            endpoints[i]->ops->wake(endpoints[i], mine, (unsigned)armed[i]);
            mine += armed[i];
        }
    }
    return (fds[0].revents & POLLIN) != 0;
}

int loop_wait(struct endpoint *const *endpoints, unsigned n, int stop_fd, int timeout_ms) {
    uint64_t want_room = 0;
    uint64_t want_frames = 0;

    for (unsigned i = 0; timeout_ms != 0 && i < n; i++) {
        if (endpoints[i]->ops->room(endpoints[i]) == 0) {
            want_room |= (uint64_t)1 << i;
        } else {
            want_frames |= (uint64_t)1 << (n - 1 - i);
        }
    }
    return loop_wait_for(endpoints, n, want_frames, want_room, stop_fd, timeout_ms);
}
