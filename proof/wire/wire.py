"""A raw Ethernet segment as the tester sees it.

Framing on the stream is QEMU's (``-netdev stream``, net/stream.c): four bytes of length, big endian, then the frame.
The far end is hostile or may die at any moment: every length is checked, every wait has a deadline, and whatever goes
wrong becomes a `WireError`, which callers report as "could not test".
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, Self

from proof.wire.frame import Frame, parse
from proof.wire.frame_log import FrameLog
from proof.wire.pcapng import INBOUND, OUTBOUND, Capture
from rootfs.base.scratch import socket_path

MAX_FRAME = 4096 + 65536
"""NET_BUFSIZE of QEMU's include/net/net.h: the longest frame that a peer may announce."""
TAP_FRAMES = 65536
"""Frames that a tap holds; what arrives beyond them is lost, and `Tap.take` raises."""
SEND_TIMEOUT = 20.0
"""Seconds that a full socket may refuse data; a guest that is booting reads nothing for a while."""


class WireError(Exception):
    """The wire cannot be used, so silence on it proves nothing."""


class ByteStream(Protocol):
    """The operations of a socket or SSH channel that a wire uses."""

    def recv(self, size: int, /) -> bytes:
        """Block for at most ``size`` bytes; empty at the end."""

    def send_all(self, data: bytes, timeout: float) -> None:
        """Send everything within ``timeout`` seconds or raise `OSError`."""

    def writable(self) -> bool:
        """Tell whether a small send would not block now."""

    def close(self) -> None:
        """End both directions, waking a blocked `recv`."""


class SocketStream:
    """A `ByteStream` over a connected stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)

    def recv(self, size: int, /) -> bytes:
        """Block for at most ``size`` bytes."""
        return self._sock.recv(size)

    def send_all(self, data: bytes, timeout: float) -> None:
        """Send everything, waiting for room at most ``timeout`` seconds in all."""
        view, deadline = memoryview(data), time.monotonic() + timeout
        while view:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([], [self._sock], [], left)[1]:
                raise TimeoutError(f"the peer took no data for {timeout:.0f} s")
            with suppress(BlockingIOError):
                view = view[self._sock.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) :]

    def writable(self) -> bool:
        """Tell whether a small send would not block now."""
        return bool(select.select([], [self._sock], [], 0)[1])

    def close(self) -> None:
        """Shut down and close."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


class Tap:
    """One probe's bounded queue of received frames."""

    def __init__(self, wire: Wire, wanted: Callable[[Frame], bool] | None = None) -> None:
        self._wire = wire
        self._wanted = wanted
        self._queue: deque[Frame] = deque()
        self._ready = threading.Condition()
        self._lost = 0

    def put(self, frames: Sequence[Frame]) -> None:
        """Add what is wanted of frames that came together (reader's thread). Wakes the waiter once for all of them."""
        if self._wanted is not None:
            frames = [frame for frame in frames if self._wanted(frame)]
        if not frames:
            return
        with self._ready:
            room = TAP_FRAMES - len(self._queue)
            self._queue.extend(frames[:room])
            self._lost += max(0, len(frames) - room)
            self._ready.notify()

    def wake(self) -> None:
        """Wake the thread in `take`, so that it sees that the wire died."""
        with self._ready:
            self._ready.notify()

    def lose(self, count: int) -> None:
        """Record that ``count`` frames were lost before they could be read (reader's thread)."""
        with self._ready:
            self._lost += count
            self._ready.notify()

    def take(self, timeout: float = 0.0) -> list[Frame]:
        """Return all waiting frames, after at most ``timeout`` seconds; empty if there was none.

        `WireError` when the wire died or frames had to be dropped: from then on silence means nothing.
        """
        with self._ready:
            if not self._queue and timeout > 0 and self._wire.error is None:
                self._ready.wait(timeout)
            frames = list(self._queue)
            self._queue.clear()
            lost, self._lost = self._lost, 0
        if lost:
            raise WireError(f"the peer sent faster than the probe could read ({lost} frames dropped)")
        if not frames and self._wire.error is not None:
            raise WireError(self._wire.error)
        return frames


class Wire:
    """Sends and receives frames over a `ByteStream`; see `StreamWire.listen` and `sshwire.SshWire.open`."""

    max_frame = 65535
    """Bytes of the longest frame that can be sent, Ethernet header included, FCS not."""

    def __init__(self, *, frame_log: FrameLog | None = None, capture: Capture | None = None) -> None:
        self.frame_log = frame_log
        self.capture = capture
        self.error: str | None = None
        """Why the wire cannot be used any more; ``None`` while it can."""
        self.connected_at: float | None = None
        self.powered_on_at: float | None = None
        self.received = 0
        self.lost = 0
        """Frames that arrived but could not be read: the record has a gap, and no probe's silence means anything."""
        self.sent = 0
        self._stream: ByteStream | None = None
        self._taps: list[Tap] = []
        self._send_lock = threading.Lock()
        self._connected = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _attach(self, stream: ByteStream) -> None:
        self._stream = stream
        self.connected_at = time.monotonic()
        self._connected.set()

    def wait_connected(self, timeout: float) -> None:
        """Wait for the far end; `WireError` after ``timeout`` seconds."""
        if not self._connected.wait(timeout) or self.error is not None:
            raise WireError(self.error or f"nobody connected to the wire within {timeout:.0f} s")

    def mark_power_on(self) -> None:
        """Record that the machine starts to run now. Call it with the wire connected and the machine still paused.

        QEMU connects in the background (``qio_channel_socket_connect_async``) and drops what the guest sends before:
        only a machine that was paused until `wait_connected` cannot have sent a frame that was not received.
        """
        self.powered_on_at = time.monotonic()

    def _read(self, stream: ByteStream) -> None:
        """Receive until the end (reader's thread)."""
        data = bytearray()
        try:
            while chunk := stream.recv(1 << 16):
                data += chunk
                frames: list[bytes] = []
                start, now = 0, time.monotonic()
                while len(data) - start >= 4:
                    (length,) = struct.unpack_from("!I", data, start)
                    if not 0 < length <= MAX_FRAME:
                        self._deliver(frames, now)
                        raise WireError(f"malformed framing: a frame of {length} bytes was announced")
                    if len(data) - start - 4 < length:
                        break
                    frames.append(bytes(data[start + 4 : start + 4 + length]))
                    start += 4 + length
                del data[:start]
                self._deliver(frames, now)
            self._die("the far end closed the wire")
        except (OSError, WireError) as error:
            self._die(str(error) or type(error).__name__)

    def _deliver(self, raws: Sequence[bytes], now: float) -> None:
        frames = []
        for raw in raws:
            if self.capture is not None:
                self.capture.add(raw, INBOUND)
            frame = parse(raw, now)
            if self.frame_log is not None:
                self.frame_log.add(frame)
            frames.append(frame)
        for tap in tuple(self._taps):
            tap.put(frames)
        self.received += len(frames)

    def _lose(self, count: int) -> None:
        """Record that ``count`` frames passed unread (reader's thread)."""
        self.lost += count
        for tap in tuple(self._taps):
            tap.lose(count)

    def _die(self, reason: str) -> None:
        self.error = self.error or reason
        self._connected.set()
        for tap in tuple(self._taps):
            tap.wake()

    @contextmanager
    def tap(self, wanted: Callable[[Frame], bool] | None = None) -> Iterator[Tap]:
        """Open a queue that gets every frame received from now on, or those that are ``wanted``.

        ``wanted`` is asked in the reader's thread, so that nobody is woken for what is not.
        """
        tap = Tap(self, wanted)
        self._taps.append(tap)
        try:
            yield tap
        finally:
            self._taps.remove(tap)

    def send(self, frame: bytes) -> None:
        """Send one frame; `WireError` if the wire is dead or stuck."""
        self.send_many((frame,))

    def send_many(self, frames: Sequence[bytes]) -> None:
        """Send frames back to back in one write; `WireError` if the wire is dead or stuck."""
        stream = self._stream
        if self.error is not None or stream is None:
            raise WireError(self.error or "the far end has not connected yet")
        with self._send_lock:
            try:
                stream.send_all(encode(frames), SEND_TIMEOUT)
            except OSError as error:
                # A half-written frame would garble all that follow, so the wire ends here.
                self._die(f"cannot send: {error}")
                raise WireError(self.error) from error
            self.sent += len(frames)
        if self.capture is not None:
            for frame in frames:
                self.capture.add(frame, OUTBOUND)

    def writable(self) -> bool:
        """Tell whether the far end takes data at this moment."""
        return self._stream is not None and self.error is None and self._stream.writable()

    def close(self) -> None:
        """End the wire and its capture; safe to call twice."""
        self._die("the wire was closed by the tester")
        if self._stream is not None:
            self._stream.close()
        if self.capture is not None:
            self.capture.close()


def encode(frames: Iterable[bytes]) -> bytes:
    """Return frames in the framing of the stream."""
    return b"".join(struct.pack("!I", len(frame)) + frame for frame in frames)


class StreamWire(Wire):
    """A wire over a unix stream socket: the management port as ``-netdev stream`` hands it out."""

    def __init__(
        self, sock: socket.socket | None = None, *, frame_log: FrameLog | None = None, capture: Capture | None = None
    ) -> None:
        super().__init__(frame_log=frame_log, capture=capture)
        self._listener: socket.socket | None = None
        self._path: Path | None = None
        if sock is not None:
            self._run(SocketStream(sock))

    @classmethod
    def listen(cls, path: Path, *, frame_log: FrameLog | None = None, pcap: Path | None = None) -> Self:
        """Listen at ``path`` for QEMU's one connection, before QEMU is started; replaces a stale socket.

        `WireError` when the path cannot be bound.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            with socket_path(path) as name:
                listener.bind(name)
            path.chmod(0o600)
            listener.listen(1)
        except OSError as error:
            listener.close()
            raise WireError(f"cannot listen at {path}: {error}") from error
        wire = cls(frame_log=frame_log, capture=Capture(pcap) if pcap is not None else None)
        wire._listener, wire._path = listener, path
        threading.Thread(target=wire._accept, name="wire-accept", daemon=True).start()
        return wire

    def _accept(self) -> None:
        listener = self._listener
        assert listener is not None
        try:
            sock, _ = listener.accept()
        except OSError as error:
            self._die(f"cannot accept the far end: {error}")
            return
        finally:
            listener.close()  # one connection only: a second one would be a wire with a gap in its record
        stream = SocketStream(sock)
        self._attach(stream)
        self._read(stream)

    def _run(self, stream: ByteStream) -> None:
        self._attach(stream)
        threading.Thread(target=self._read, args=(stream,), name="wire-read", daemon=True).start()

    def close(self) -> None:
        """End the wire; removes the socket from the file system."""
        super().close()
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
        if self._path is not None:
            self._path.unlink(missing_ok=True)
