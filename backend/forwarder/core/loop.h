/* How a data path sleeps: until one of its endpoints has something to do, or it is told to stop. */
#ifndef SALLYPORT_LOOP_H
#define SALLYPORT_LOOP_H

#include "frame.h"

#define LOOP_ENDPOINTS 64
#define LOOP_SLEEP_MS 250 /* most that a data path sleeps without looking at its endpoints */

/* Under load a data path looks again after a nap rather than being woken for each frame: frames gather to batches, and
 * who sends them does not pay for waking us.
 */
#define LOOP_NAP_NS 40000
#define LOOP_NAP_FRAMES 4 /* in one nap's time are worth a nap: 100,000 frames/s */

/* Called by the data path's thread before its first round: naps are to be no longer than LOOP_NAP_NS. */
void loop_begin(void);

/* Sleep for LOOP_NAP_NS. */
void loop_nap(void);

/* Arm `n` endpoints (at most LOOP_ENDPOINTS), sleep for `timeout_ms` at most (-1: without limit), wake those that were
 * armed. Bit i of `want_frames` and `want_room` says what endpoint i shall wake us for; all may wake us for their
 * control traffic. If one of them has something to do already nobody sleeps, but the others' control traffic is still
 * looked after. A signal ends the sleep. With a timeout of 0 and nothing wanted it is what a data path under load calls
 * now and then, so that no flood keeps it from control traffic or from being stopped.
 *
 * Returns 1 if `stop_fd` (an eventfd, which is not read here) is readable, 0 otherwise, -1 with errno when poll(2)
 * failed for lack of memory.
 */
int loop_wait_for(struct endpoint *const *endpoints, unsigned n, uint64_t want_frames, uint64_t want_room, int stop_fd,
                  int timeout_ms);

/* The same for two endpoints that feed each other and do not drop for lack of room: frames are wanted of the one if the
 * other has room for them, room of an endpoint that has none. With a timeout of 0 nothing is wanted. `n` is 2.
 */
int loop_wait(struct endpoint *const *endpoints, unsigned n, int stop_fd, int timeout_ms);

#endif
