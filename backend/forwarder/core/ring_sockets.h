/* The packet sockets of a ring: packet(7). */
#ifndef SALLYPORT_RING_SOCKETS_H
#define SALLYPORT_RING_SOCKETS_H

#include <linux/if_ether.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

struct ring_sockets {
    char interface[IFNAMSIZ];
    uint8_t mac[ETH_ALEN]; /* an address that the interface shall take frames for, besides its own */
    bool has_mac;
    int receiver;   /* -1: not open; so are the two following */
    int sender;     /* past the queueing discipline (PACKET_QDISC_BYPASS) */
    int gso_sender; /* through it: for GSO frames, which it cuts if the card cannot, while the bypass drops them */
    int index;      /* of the interface that all three are bound to */
};

/* Open and set up the sockets; no frame arrives yet. Returns 0, or -1 with errno and the step that failed. */
int ring_sockets_open(struct ring_sockets *sockets, const char **step);

/* Bind the sockets to the interface, the receiver last, when the sender can take an answer. Returns as above. */
int ring_sockets_bind(struct ring_sockets *sockets, const char **step);

/* The index of the interface that has the name now; -1: none has. */
int ring_sockets_index(const struct ring_sockets *sockets);

/* Is the interface of that name set up (IFF_UP)? */
bool ring_sockets_up(const struct ring_sockets *sockets);

void ring_sockets_close(struct ring_sockets *sockets);

#endif
