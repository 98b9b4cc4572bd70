#include "path.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "clock.h"
#include "loop.h"

/* Three ways to wait. Under load the data path looks again after a nap (loop.h) rather than being woken for each frame.
 * With few frames it sleeps in poll(2). Between the two it stays awake: to wake a processor takes longer than all else
 * that happens to a frame (20 us and more where the processor is itself a virtual one), so if the next frame is due
 * soon we look for it until it is here, and offer the processor to everybody else at each look. If somebody takes it
 * for long, the processor is not ours to wait on, and for a while we sleep.
 */
#define AWAKE_NS 400000    /* most that we stay awake; at 4,000 frames/s the next one is due in 250 us */
#define LONG_NS 1000000    /* longer gaps count as so long: the first frames after a silence soon count again */
#define LOST_NS 500000     /* between two looks: somebody had the processor */
#define MEEK_NS 1000000000 /* how long we only sleep after that */
#define LOOK_ROUNDS 64

static enum direction other(enum direction from) {
    return from == FROM_PORT ? FROM_VM : FROM_PORT;
}

static enum verdict judge(struct path *path, enum direction from, const struct frame *frame, uint64_t now_ns) {
    struct parsed parsed;
    uint32_t segments = frame_segments(frame);
    enum verdict verdict = policy_check(&path->policy, from, frame->part[0].iov_base, (uint32_t)frame->part[0].iov_len,
                                        frame_outer_tag(frame), frame_wire_len(frame), &parsed);

    if (verdict != VERDICT_PASSED) {
        return verdict;
    }
    if (parsed.group && !limit_spend(&path->policy.group_rate[from], &path->full_at[from][1], now_ns, segments)) {
        return VERDICT_GROUP_RATE;
    }
    if (!limit_spend(&path->policy.rate[from], &path->full_at[from][0], now_ns, segments)) {
        return VERDICT_RATE;
    }
    return VERDICT_PASSED;
}

unsigned path_move(struct path *path, enum direction from, uint64_t now_ns) {
    struct endpoint *source = path->end[from], *sink = path->end[other(from)];
    struct counter *counters = path->counters.verdict[from];
    struct frame *passed[FRAME_BATCH];
    unsigned room = sink->ops->room(sink), taken, n = 0;

    if (room == 0) {
        return 0;
    }
    taken = source->ops->receive(source, path->frames, room < FRAME_BATCH ? room : FRAME_BATCH);
    for (unsigned i = 0; i < taken; i++) {
        struct frame *frame = &path->frames[i];
        enum verdict verdict = judge(path, from, frame, now_ns);

        if (capture_is_on(&path->capture)) {
            capture_frame(&path->capture, frame, from, verdict);
        }
        if (verdict == VERDICT_PASSED) {
            passed[n++] = frame;
        } else {
            counter_add(counters, verdict, 1, frame->len);
        }
    }
    if (n > 0) {
        sink->ops->send(sink, passed, n, counters);
    }
    /* Also after a receive() that gave nothing: it may have refused frames and holds their buffers. */
    source->ops->release(source);
    return taken;
}

void path_init(struct path *path, struct endpoint *port, struct endpoint *vm, const struct policy *policy,
               int stop_fd) {
    memset(path, 0, sizeof *path);
    path->end[FROM_PORT] = port;
    path->end[FROM_VM] = vm;
    path->policy = *policy;
    path->stop_fd = stop_fd;
    port->counters = path->counters.verdict[FROM_PORT];
    vm->counters = path->counters.verdict[FROM_VM];
    capture_init(&path->capture);
}

/* When frames came, and whether to stay awake for the next. */
struct pace {
    uint64_t frame_ns; /* when the last one came */
    uint64_t gap_ns;   /* between two rounds with frames, on average */
    uint64_t look_ns;  /* of the round before, if we stayed awake after it; else 0 */
    uint64_t awake_ns; /* since when we stay awake; 0: we do not */
    uint64_t meek_until_ns;
};

/* A round begins. */
static void pace_begin(struct pace *pace, uint64_t now_ns) {
    if (pace->look_ns != 0 && now_ns - pace->look_ns > LOST_NS) {
        pace->meek_until_ns = now_ns + MEEK_NS;
    }
    pace->look_ns = 0;
}

/* Frames came. */
static void pace_frames(struct pace *pace, uint64_t now_ns) {
    uint64_t gap_ns = now_ns - pace->frame_ns < LONG_NS ? now_ns - pace->frame_ns : LONG_NS;

    pace->gap_ns = (7 * pace->gap_ns + gap_ns) / 8;
    pace->frame_ns = now_ns;
    pace->awake_ns = 0;
}

/* No frame came. Returns whether to look again at once. */
static bool pace_awake(struct pace *pace, uint64_t now_ns) {
    if (pace->gap_ns > AWAKE_NS || now_ns - pace->frame_ns > AWAKE_NS || now_ns < pace->meek_until_ns) {
        return false;
    }
    pace->look_ns = now_ns;
    pace->awake_ns = pace->awake_ns != 0 ? pace->awake_ns : now_ns;
    return true;
}

int path_run(struct path *path) {
    struct pace pace = {.gap_ns = LONG_NS};
    unsigned since_wait = 0; /* frames */
    unsigned since_look = 0; /* rounds */

    loop_begin();
    for (;;) {
        uint64_t now_ns = clock_ns();
        unsigned moved = path_move(path, FROM_PORT, now_ns) + path_move(path, FROM_VM, now_ns);
        int stop = 0;

        pace_begin(&pace, now_ns);
        if (moved > 0) {
            path->end[FROM_PORT]->ops->flush(path->end[FROM_PORT]);
            path->end[FROM_VM]->ops->flush(path->end[FROM_VM]);
            path->rounds++;
            pace_frames(&pace, now_ns);
            since_wait += moved;
        }
        if (++since_look >= LOOK_ROUNDS) {
            /* A flood must keep us neither from control traffic nor from being stopped. */
            since_look = 0;
            stop = loop_wait(path->end, DIRECTIONS, path->stop_fd, 0);
        } else if (moved == 0 && since_wait >= LOOP_NAP_FRAMES) {
            since_wait = 0;
            path->naps++;
            loop_nap();
        } else if (moved == 0 && pace_awake(&pace, now_ns)) {
            if (now_ns - pace.awake_ns > LOOP_NAP_NS / LOOP_NAP_FRAMES) {
                since_wait = 0; /* what comes next is no load */
            }
            sched_yield();
        } else if (moved == 0) {
            since_wait = since_look = 0;
            pace.awake_ns = 0;
            path->sleeps++;
            if (capture_is_on(&path->capture)) {
                capture_flush(&path->capture);
            }
            stop = loop_wait(path->end, DIRECTIONS, path->stop_fd, LOOP_SLEEP_MS);
        }
        if (stop != 0) {
            return stop > 0 ? 0 : -1;
        }
    }
}
