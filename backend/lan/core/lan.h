/* The guest LAN: virtual NICs that exchange IP datagrams in memory, and no physical port. */
#ifndef SALLYPORT_LAN_H
#define SALLYPORT_LAN_H

#include <pthread.h>

#include "../../forwarder/core/frame.h"
#include "../../forwarder/core/loop.h"
#include "lan_frame.h"
#include "table.h"

#define LAN_PORTS LOOP_ENDPOINTS

struct lan_port {
    struct endpoint *endpoint;
    struct limit rate;       /* of frames from here */
    struct limit group_rate; /* of those with a group address as destination */
    uint64_t full_at[2];
    struct counter counters[VERDICTS]; /* of frames from here */
};

struct lan {
    unsigned ports;
    uint32_t max_frame;   /* bytes on the wire, Ethernet header included */
    int wake_fd;          /* eventfd: a new table, or the end */
    unsigned first;       /* the port that the next round begins with */
    struct table *table;  /* the data path's own while it runs */
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    struct table *next; /* waits for the end of the round */
    bool next_waits;    /* read by the data path without the lock */
    bool running;
    bool stopped;
    struct lan_port port[LAN_PORTS];
    struct frame frames[FRAME_BATCH];
    struct lan_look looks[FRAME_BATCH];
    struct frame *to[LAN_PORTS][FRAME_BATCH];
};

/* A LAN without ports and without table. NULL and errno on failure. */
struct lan *lan_new(uint32_t max_frame);

/* Before lan_run(), at most LAN_PORTS times. The endpoint stays the caller's. */
void lan_add(struct lan *lan, struct endpoint *endpoint, const struct limit *rate, const struct limit *group_rate);

/* Put a table, which is then the LAN's, in the place of the present one. When this returns, no frame will be moved by
 * the old one any more. From any thread.
 */
void lan_provision(struct lan *lan, struct table *table);

/* Move frames until lan_stop(). Returns 0, or -1 and errno: EBUSY, it is running already, or what poll(2) gives. Once
 * stopped it remains so.
 */
int lan_run(struct lan *lan);
void lan_stop(struct lan *lan);

/* One batch from each port; returns how many frames were taken. For lan_run(), tests and benchmarks. */
unsigned lan_round(struct lan *lan, uint64_t now_ns);

void lan_free(struct lan *lan);

#endif
