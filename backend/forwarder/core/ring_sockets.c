#include "ring_sockets.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "policy.h"

#define SOCKET_BUFFER (8 << 20) /* bytes: about a hundred GSO frames on their way */

int ring_sockets_index(const struct ring_sockets *sockets) {
    struct ifreq request = {0};

    memcpy(request.ifr_name, sockets->interface, IFNAMSIZ);
    return ioctl(sockets->sender, SIOCGIFINDEX, &request) == 0 ? request.ifr_ifindex : -1;
}

bool ring_sockets_up(const struct ring_sockets *sockets) {
    struct ifreq request = {0};

    memcpy(request.ifr_name, sockets->interface, IFNAMSIZ);
    return ioctl(sockets->sender, SIOCGIFFLAGS, &request) == 0 && request.ifr_flags & IFF_UP;
}

static int set(int socket, int option, int value) {
    return setsockopt(socket, SOL_PACKET, option, &value, sizeof value);
}

int ring_sockets_open(struct ring_sockets *sockets, const char **step) {
    int buffer = SOCKET_BUFFER, mark = POLICY_MARK;

    *step = "cannot open a packet socket";
    /* Protocol 0: no frame arrives before all is set. */
    sockets->receiver = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    sockets->sender = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    sockets->gso_sender = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (sockets->receiver < 0 || sockets->sender < 0 || sockets->gso_sender < 0) {
        return -1;
    }
    *step = "this kernel's packet sockets lack what the ring needs (TPACKET_V2, PACKET_VNET_HDR, Linux 4.20)";
    if (set(sockets->receiver, PACKET_VERSION, TPACKET_V2) != 0 || set(sockets->receiver, PACKET_VNET_HDR, 1) != 0 ||
        set(sockets->receiver, PACKET_COPY_THRESH, 1) != 0 || set(sockets->receiver, PACKET_IGNORE_OUTGOING, 1) != 0 ||
        set(sockets->sender, PACKET_VNET_HDR, 1) != 0 || set(sockets->sender, PACKET_QDISC_BYPASS, 1) != 0 ||
        set(sockets->gso_sender, PACKET_VNET_HDR, 1) != 0) {
        return -1;
    }
    *step = "cannot size a packet socket's buffer";
    if (setsockopt(sockets->receiver, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) != 0 ||
        setsockopt(sockets->sender, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer) != 0 ||
        setsockopt(sockets->gso_sender, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer) != 0) {
        return -1;
    }
    *step = "cannot mark what a packet socket sends";
    if (setsockopt(sockets->sender, SOL_SOCKET, SO_MARK, &mark, sizeof mark) != 0 ||
        setsockopt(sockets->gso_sender, SOL_SOCKET, SO_MARK, &mark, sizeof mark) != 0) {
        return -1;
    }
    return 0;
}

static int join(int socket, int index, unsigned short type, const uint8_t *mac) {
    struct packet_mreq request = {.mr_ifindex = index, .mr_type = type};

    if (mac != NULL) {
        request.mr_alen = ETH_ALEN;
        memcpy(request.mr_address, mac, ETH_ALEN);
    }
    return setsockopt(socket, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, sizeof request);
}

int ring_sockets_bind(struct ring_sockets *sockets, const char **step) {
    int index = ring_sockets_index(sockets);
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = index};

    *step = "no such network interface in this network namespace";
    if (index < 0) {
        return -1;
    }
    *step = "cannot bind a packet socket";
    if (bind(sockets->sender, (struct sockaddr *)&address, sizeof address) != 0 ||
        bind(sockets->gso_sender, (struct sockaddr *)&address, sizeof address) != 0) {
        return -1;
    }
    if (sockets->has_mac) {
        *step = "cannot add the VM's address to the interface";
        if (join(sockets->receiver, index, PACKET_MR_UNICAST, sockets->mac) != 0 ||
            join(sockets->receiver, index, PACKET_MR_ALLMULTI, NULL) != 0) {
            return -1;
        }
    }
    *step = "cannot bind a packet socket";
    address.sll_protocol = htons(ETH_P_ALL);
    if (bind(sockets->receiver, (struct sockaddr *)&address, sizeof address) != 0) {
        return -1;
    }
    sockets->index = index;
    return 0;
}

void ring_sockets_close(struct ring_sockets *sockets) {
    int *const all[] = {&sockets->receiver, &sockets->sender, &sockets->gso_sender};

    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        if (*all[i] >= 0) {
            close(*all[i]);
        }
        *all[i] = -1;
    }
}
