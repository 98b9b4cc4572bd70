/* A pcapng file of the frames on a path, each with where it came in and what became of it; limited in size
 * (draft-ietf-opsawg-pcapng; Wireshark and scapy read it).
 */
#ifndef SALLYPORT_CAPTURE_H
#define SALLYPORT_CAPTURE_H

#include <pthread.h>

#include "frame.h"

#define CAPTURE_BUFFER (256 * 1024) /* bytes: what is gathered before it is written */
#define CAPTURE_MIN 4096            /* bytes: the least limit */

struct capture {
    pthread_mutex_t lock; /* of all below but `on` */
    bool on;              /* atomic: the data path looks here first */
    int file;
    uint64_t limit;   /* bytes of the whole file */
    uint64_t written; /* bytes, the buffer's included */
    uint64_t frames;
    uint64_t missed; /* frames that no longer fitted, or could not be written */
    size_t filled;
    uint8_t buffer[CAPTURE_BUFFER];
};

void capture_init(struct capture *capture);

/* Begin to write to the open file `file`, which is the capture's from now on. Returns 0, or -1 with errno set: EBUSY
 * when one is running.
 */
int capture_start(struct capture *capture, int file, uint64_t limit);

/* Write what is gathered and close the file. Returns false if none was running. */
bool capture_stop(struct capture *capture);

/* Record one frame, if a capture is running; never blocks on anything but the file. */
void capture_frame(struct capture *capture, const struct frame *frame, enum direction from, enum verdict verdict);

/* At the end of a round: let readers of the file see what was gathered. */
void capture_flush(struct capture *capture);

static inline bool capture_is_on(const struct capture *capture) {
    return __atomic_load_n(&capture->on, __ATOMIC_RELAXED);
}

#endif
