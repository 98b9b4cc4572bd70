/* An endpoint over a tap device: at its other end is a network interface of this host's kernel. */
#ifndef SALLYPORT_TAP_H
#define SALLYPORT_TAP_H

#include "../../forwarder/core/frame.h"

/* `fd` is a tap queue opened with IFF_NO_PI and IFF_VNET_HDR; it is duplicated, its file description becomes
 * non-blocking. Whether the kernel may leave checksums and segmentation to the receiver is what the opener set by
 * TUNSETOFFLOAD (nothing, by default). NULL on failure, with errno: EBADF, ENOTTY or EINVAL if it is no such thing.
 */
struct endpoint *tap_open(int fd, enum direction from);

#endif
