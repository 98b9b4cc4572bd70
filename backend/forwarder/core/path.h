/* A path: the management port at one end, the front-end VM's NIC at the other, the policy between them. */
#ifndef SALLYPORT_PATH_H
#define SALLYPORT_PATH_H

#include "capture.h"
#include "frame.h"

struct path {
    struct endpoint *end[DIRECTIONS]; /* [FROM_PORT]: the port; [FROM_VM]: the VM's NIC */
    struct policy policy;
    struct counters counters;
    uint64_t full_at[DIRECTIONS][2]; /* token buckets (policy.h): all frames, group frames */
    struct capture capture;
    int stop_fd;     /* an eventfd: readable when the path is to end */
    uint64_t rounds; /* that moved frames */
    uint64_t sleeps; /* in poll(2) */
    uint64_t naps;   /* short waits for a batch, under load */
    struct frame frames[FRAME_BATCH];
};

void path_init(struct path *path, struct endpoint *port, struct endpoint *vm, const struct policy *policy, int stop_fd);

/* Move frames until `stop_fd` is readable. Call without the GIL. Returns 0, or -1 with errno set when poll(2) fails. */
int path_run(struct path *path);

/* One batch in one direction; returns how many frames were taken from the source. */
unsigned path_move(struct path *path, enum direction from, uint64_t now_ns);

#endif
