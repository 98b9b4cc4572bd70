/* What must hold. */
#ifndef SALLYPORT_FUZZ_MUST_H
#define SALLYPORT_FUZZ_MUST_H

#include <stdio.h>
#include <stdlib.h>

/* Say what did not hold, and abort, so that the input is kept. */
#define must(held) ((held) ? (void)0 : must_have(#held, __FILE__, __LINE__))

static inline _Noreturn void must_have(const char *what, const char *file, int line) {
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
    abort();
}

#endif
