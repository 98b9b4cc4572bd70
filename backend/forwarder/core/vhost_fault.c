#include "vhost_fault.h"

#define VHOST_FAULT_NAME(number, name, sentence) [number] = name,
#define VHOST_FAULT_SENTENCE(number, name, sentence) [number] = sentence,

const char *vhost_fault_name(enum fault fault) {
    static const char *const names[FAULTS] = {VHOST_FAULTS(VHOST_FAULT_NAME)};

    return names[fault];
}

const char *vhost_fault_sentence(enum fault fault) {
    static const char *const sentences[FAULTS] = {VHOST_FAULTS(VHOST_FAULT_SENTENCE)};

    return sentences[fault];
}
