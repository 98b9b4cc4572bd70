/* Gives up what the process no longer needs, in two stages:
 *
 * 1. lockdown_drop_capabilities(), when sockets, rings and programs are open and before any thread starts (capabilities
 *    are a thread's own): no capability in any set, none to be had by an execve(2).
 * 2. lockdown_confine(), when all threads are there and before the data path's has looked at a frame: a seccomp(2)
 * filter for all of them. What is not on the list kills the process; the service manager starts a new one. No new
 * program or thread, no new executable memory, no network socket but those that are open, each bound and set up as it
 * is, no other ioctl(2) or socket option than those named.
 */
#ifndef SALLYPORT_LOCKDOWN_H
#define SALLYPORT_LOCKDOWN_H

#include "python.h"

PyObject *lockdown_drop_capabilities(PyObject *module, PyObject *ignored);
PyObject *lockdown_confine(PyObject *module, PyObject *ignored);

#endif
