"""Message ports over shared memory, for Python: one file, the standard library, and libringport.

    import ringport

    here, there = ringport.channel()
    here.post(b"hello")
    with there.recv() as message:
        print(bytes(message.data))

A port, and the messages that came from it, are for one thread at a time. Should two threads meet all the same, nothing
breaks: every call that touches a port is short and keeps the interpreter's lock (`ctypes.PyDLL`), whereas waiting is done
here, on the port's descriptor and without the lock, so that signals are handled, with whatever their handlers do to the port,
and other threads run. Timeouts are in seconds; None is as long as it takes.

A forked child has no ports: each of its parent's is Forked there. `multiprocessing` moves ports with the start methods spawn
and forkserver, and in messages with any. What a signal handler raises (KeyboardInterrupt) ends the call that it comes into:
a message that this has just received is lost then, and what it has just posted is posted.
"""
from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import ctypes.util
import enum
import functools
import itertools
import math
import multiprocessing.context
import multiprocessing.reduction
import operator
import os
import pathlib
import select
import socket
import struct
import sys
import threading
import time
import weakref
from ctypes import (
    POINTER, byref, c_bool, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint16, c_uint32, c_uint64, c_void_p)
from typing import Any, AsyncIterator, Callable, Iterable, Iterator, NamedTuple, Sequence, TypeVar

_T = TypeVar("_T")

# -- the library ------------------------------------------------------------------------------------------------------

_WRITTEN_FOR = (0, 1)


class _ChannelOptions(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("capacity_1_to_2", c_size_t), ("capacity_2_to_1", c_size_t),
                ("prefault", c_bool), ("lock_memory", c_bool)]


class _Stats(ctypes.Structure):
    _fields_ = [("size", c_size_t)] + [(name, c_uint64) for name in (
        "messages_posted", "bytes_posted", "messages_received", "bytes_received",
        "sleeps", "wakeups", "room_waits", "ports_posted", "ports_received")]


class _SpawnOptions(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("environment", POINTER(c_char_p)), ("directory", c_char_p),
                ("standard_streams", POINTER(c_int))]


class _ListenerOptions(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("users", POINTER(c_uint32)), ("user_count", c_size_t), ("any_user", c_bool),
                ("largest_capacity", c_size_t), ("backlog", c_uint16)]


class _ConnectOptions(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("channel", _ChannelOptions), ("timeout_ns", c_int64)]


class _Credentials(ctypes.Structure):
    _fields_ = [("process_id", c_uint32), ("user_id", c_uint32), ("group_id", c_uint32)]


class _Buffer(ctypes.Structure):
    """The interpreter's own Py_buffer."""
    _fields_ = [("buf", c_void_p), ("obj", c_void_p), ("len", ctypes.c_ssize_t), ("itemsize", ctypes.c_ssize_t),
                ("readonly", c_int), ("ndim", c_int), ("format", c_void_p), ("shape", c_void_p), ("strides", c_void_p),
                ("suboffsets", c_void_p), ("internal", c_void_p)]


_p, _i, _n = c_void_p, c_int32, c_size_t
_out, _ints, _texts_in = POINTER(c_void_p), POINTER(c_int), POINTER(c_char_p)
# What they return and take, and which (without the prefix) do. An enum is an int here.
_SIGNATURES = {
    (c_uint32,): "version",
    (c_char_p,): "last_error",
    (c_int,): "last_errno",
    (c_char_p, _i): "status_name",
    (c_char_p, _p): "listener_path",
    (None, _p): "port_free message_free child_free listener_free",
    (_i, _p): "port_close abort batch_begin message_make_owned port_trust_peer child_id child_kill",
    (_i, _p, _n): "commit",
    (_i, _p, _i, _n): "port_arm",
    (_n, _p): "port_capacity port_max_message_len port_pending message_len message_port_count",
    (c_bool, _p): "message_is_in_place",
    (c_void_p, _p): "message_data",
    (_i, _p, _p, _n): "batch_post",
    (_i, _p, _p, _n, c_int64): "post",
    (_i, _p, _p, _n, _out, _n, c_int64): "post_with_ports",
    (_i, _p, _n, c_int64, _out): "reserve",
    (_i, _p, POINTER(_n)): "batch_publish",
    (_i, _p, c_int64, _out): "recv",
    (_i, _p, _n, _out): "message_take_port",
    (_i, _p, _n, _p, _out, POINTER(_n)): "archived_string",
    (_i, _p, _n, _p, _n, _n, _out, POINTER(_n)): "archived_slice",
    (_i, _p, _ints): "port_fd listener_fd child_try_wait port_close_reason",
    (_i, _p, _ints, _ints): "port_into_fds",
    (_i, c_int, c_int, _out): "port_from_fds",
    (_i, _p, c_int): "port_send port_set_wait_strategy",
    (_i, c_int, c_int64, _out): "port_receive",
    (_i, _p, POINTER(_Stats)): "port_stats",
    (_i, _out): "parent_port",
    (_i, _texts_in, POINTER(_SpawnOptions), _out, _out): "spawn",
    (_i, POINTER(_ChannelOptions), _out, _out): "channel_new",
    (_i, c_char_p, POINTER(_ListenerOptions), _out): "listen",
    (_i, _p, c_int64, _out, POINTER(_Credentials)): "accept",
    (_i, c_char_p, POINTER(_ConnectOptions), _out): "connect",
}


class _Calls:
    """The library's functions; each call keeps the interpreter's lock, or gives it up meanwhile."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for (result, *arguments), names in _SIGNATURES.items():
            for name in names.split():
                function = getattr(library, "ringport_" + name)
                function.restype, function.argtypes = result, arguments
                setattr(self, name, function)


def _places() -> list[str]:
    """Where the library may be, the best first."""
    chosen = os.environ.get("RINGPORT_LIBRARY")
    if chosen:
        return [chosen]
    target = pathlib.Path(__file__).resolve().parents[2] / "target"
    built = [str(target / profile / "libringport.so") for profile in ("release", "debug")]
    return [ctypes.util.find_library("ringport") or "libringport.so.0.1", *built]


def _load() -> tuple[_Calls, _Calls]:
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise ImportError("ringport relies on the interpreter's lock, and this interpreter runs without one")
    tried = []
    for place in _places():
        try:
            short, long = ctypes.PyDLL(place), ctypes.CDLL(place)
            version = short.ringport_version()
        except (OSError, AttributeError) as error:
            tried.append(f"{place}: {error}")
            continue
        found = version >> 16, version >> 8 & 0xFF
        if found != _WRITTEN_FOR:
            raise ImportError("{} is ringport {}.{}; this file is written for {}.{}".format(place, *found, *_WRITTEN_FOR))
        return _Calls(short), _Calls(long)
    raise ImportError("no libringport; looked for it here (RINGPORT_LIBRARY names another place):\n  " + "\n  ".join(tried))


_lib, _lib_unlocked = _load()
_get_buffer, _release_buffer = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
_get_buffer.argtypes, _get_buffer.restype = [ctypes.py_object, POINTER(_Buffer), c_int], c_int
_release_buffer.argtypes, _release_buffer.restype = [POINTER(_Buffer)], None
_untrack = ctypes.pythonapi.PyObject_GC_UnTrack
_untrack.argtypes, _untrack.restype = [ctypes.py_object], None

# -- words ------------------------------------------------------------------------------------------------------------

Status = enum.IntEnum("Status", [(name, -number) for number, name in enumerate(
    """OK NOT_YET NULL INVALID BAD_SIZE DETACHED CLOSED FULL TRANSFERS_FULL TOO_LARGE BUSY SELF_TRANSFER DUPLICATE_PORT
    CLOSED_PORT OWN_PEER TOO_MANY_PORTS TOO_MANY_IN_FLIGHT ALIGNMENT FORKED SYSTEM NO_MEMORY CAPACITY MEMORY_LOCK
    NOT_A_PORT NO_PARENT SPAWN ADDRESS IN_USE NOBODY_LISTENS NOT_ALLOWED REFUSED VERSION_MISMATCH TIMED_OUT BAD_ARCHIVE
    NOT_IN_LOOP PANIC""".split())])
_OK, _NOT_YET = int(Status.OK), int(Status.NOT_YET)
_NO_ROOM = (int(Status.FULL), int(Status.TRANSFERS_FULL))


class CloseReason(enum.IntEnum):
    """Why a channel has ended."""
    CLOSED_HERE = 1
    CLOSED_BY_PEER = 2
    PEER_GONE = 3
    CORRUPT = 4


class Interest(enum.IntFlag):
    """What to be told of: a message, room for one, room for one with ports. The first goes with either other."""
    MESSAGE = 1
    ROOM = 2
    TRANSFER = 4


class WaitStrategy(enum.IntEnum):
    """How a port waits: it spins up to 50 µs and then sleeps, or spins until it comes, or sleeps at once."""
    ADAPTIVE = 0
    SPIN = 1
    BLOCK = 2


class Error(Exception):
    """What the library answers: `status` (a Status), its `name`, and `errno` if a system call was the cause, else 0."""

    def __init__(self, status: int, text: str, errno: int = 0) -> None:
        super().__init__(status, text, errno)
        self.status, self.errno = Status(status), errno

    @property
    def name(self) -> str:
        return _lib.status_name(self.status).decode()

    def __str__(self) -> str:
        return self.args[1]


class Closed(Error):
    """The channel has ended; `reason` says why."""
    reason = CloseReason.CLOSED_HERE


class Full(Error):
    """No room, or too many messages with ports under way, and not in time either."""


class TooLarge(Error):
    """More than max_message_len, or with ports than what they leave of it; the text says how much that is."""


class Detached(Error):
    """The port has moved away."""


class Busy(Error):
    """A reservation or a batch is open, or messages are shown in place."""


class Forked(Error):
    """The port belongs to the process that this one was forked from."""


class TransferError(Error):
    """The ports cannot be sent like this; nothing has moved."""


_KINDS = {Status.CLOSED: Closed, Status.FULL: Full, Status.TRANSFERS_FULL: Full, Status.TOO_LARGE: TooLarge,
          Status.DETACHED: Detached, Status.BUSY: Busy, Status.FORKED: Forked, Status.SELF_TRANSFER: TransferError,
          Status.DUPLICATE_PORT: TransferError, Status.CLOSED_PORT: TransferError, Status.OWN_PEER: TransferError,
          Status.TOO_MANY_PORTS: TransferError, Status.TOO_MANY_IN_FLIGHT: TransferError}


def _error(status: int, text: str | None = None) -> Error:
    kind = _KINDS.get(status, Error)
    if text is not None:
        return kind(status, text)
    return kind(status, _lib.last_error().decode(errors="replace"), _lib.last_errno())


def _check(status: int) -> None:
    if status != _OK:
        raise _error(status)


# -- what is owned ----------------------------------------------------------------------------------------------------

def _at_last(free: Callable[[Any], Any]) -> property:
    """A `__del__` that is `free(self)` and no more. Nothing of it is Python code, on entering which a signal handler could
    raise, and all that Python says then is that it has ignored it."""
    return property(functools.partial(functools.partial, free))


def _handles(free: Callable[[Any], None]) -> Callable[[], c_void_p]:
    """What makes places for one of the library's pointers. A place owns what is written to it: it is freed once, when nothing
    refers to the place any more. So calls are given the place itself."""
    kind = type("_Handle", (c_void_p,), {"__slots__": (), "__del__": _at_last(free)})

    def place() -> c_void_p:
        handle = kind()
        # What the collector finds is finalized in any order, and finalizers yet to come may read what this keeps. It does not
        # find this, which goes when what refers to it is taken apart, after all finalizers.
        _untrack(handle)
        return handle

    return place


_new_port, _new_message = _handles(_lib.port_free), _handles(_lib.message_free)
_new_child, _new_listener = _handles(_lib.child_free), _handles(_lib.listener_free)


class _Fd(int):
    """A descriptor that is closed when nothing refers to this any more."""
    __slots__ = ()
    __del__ = _at_last(os.close)


class _Single:
    """What there is once, and cannot be copied or pickled."""
    __slots__ = ()

    def __reduce__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} can be neither copied nor pickled")


@functools.lru_cache(maxsize=1024)
def _array_of(length: int) -> type:
    return ctypes.c_char * length


class _Nothing(bytearray):
    """What an empty message shows."""


class _Loan:
    """The library's memory, shown by a memoryview. Whatever looks into it, parts of it too, keeps its owner alive."""
    __slots__ = ("address", "length", "owner", "_readonly", "_exporter", "_view")

    def __init__(self, address: int, length: int, owner: c_void_p, readonly: bool) -> None:
        self.address, self.length, self.owner, self._readonly = address, length, owner, readonly
        # All that look into the memory hold this one, and there is no second one ever.
        exporter = _array_of(length).from_address(address) if length else _Nothing()
        exporter.owner = owner
        self._exporter = weakref.ref(exporter)
        self._view: memoryview | None = self._look(exporter)

    def _look(self, exporter: Any) -> memoryview:
        view = memoryview(exporter)
        if self.length:
            view = view.cast("B")
        return view.toreadonly() if self._readonly else view

    def view(self) -> memoryview:
        view = self._view
        if view is None:
            raise ValueError("it was released")
        return view

    def end(self) -> None:
        """Releases the view. BufferError if it, or a part of it, is in use elsewhere: there is another view then."""
        view, self._view = self._view, None
        try:
            if view is not None:
                view.release()
        except BufferError:
            # Looked into by others, who hold it and the exporter.
            pass
        del view
        exporter = self._exporter()
        if exporter is not None:
            self._view = self._look(exporter)
            raise BufferError("parts of the memory are still in use")

    def when_ended(self, call: Callable[[], Any]) -> None:
        """Calls now, or when nobody looks any more."""
        try:
            self.end()
        except BufferError:
            exporter, self._view = self._exporter(), None
            if exporter is not None:
                weakref.finalize(exporter, call).atexit = False
                return
        call()


def _with_bytes(data: Any, call: Callable[[Any, int], int]) -> int:
    """Calls with where the bytes of `data` are, and how many. They are not copied."""
    if type(data) is bytes:
        return call(data, len(data))
    buffer = _Buffer()
    try:
        _get_buffer(data, buffer, 0)
        return call(buffer.buf, buffer.len)
    finally:
        _release_buffer(buffer)


# -- waiting ----------------------------------------------------------------------------------------------------------

_LONGEST_SPIN, _SHORTEST_SPIN = 50e-6, 2e-6
_CAN_SPIN = os.cpu_count() != 1
_TURN = 64


def _deadline(timeout: float | None) -> float:
    if timeout is None:
        return math.inf
    if math.isnan(timeout):
        raise ValueError("a timeout is seconds or None, and this one is not a number")
    return time.monotonic() + timeout


def _poll(fds: Iterable[int], deadline: float, event: int = select.POLLIN) -> bool:
    """Waits for one of the descriptors; False when the time is over. Signals are handled meanwhile."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, event)
    while True:
        left = max(0, deadline - time.monotonic())
        # poll counts in milliseconds, with 31 bits.
        if poller.poll(math.ceil(min(left * 1e3, 2**31 - 1)) if left < math.inf else None):
            return True
        if left == 0:
            return False


class _Bell:
    """Wakes one call that sleeps, from another thread or a signal handler."""
    __slots__ = ("told", "fd", "_far")

    def __init__(self) -> None:
        # Whether it was rung: who was waits no more, and looks for himself.
        self.told = False
        try:
            # By iterators, so that no signal handler raises before they have an owner. They are closed not before who rings
            # in another thread is gone, who must not write to whoever has the same number next.
            pipes = map(os.pipe2, [os.O_CLOEXEC | os.O_NONBLOCK])
            self.fd, self._far = map(_Fd, itertools.chain.from_iterable(pipes))
        except OSError:
            # Without descriptors it waits alone.
            self.fd = self._far = -1

    def ring(self) -> None:
        self.told = True
        try:
            os.write(self._far, b"!")
        except OSError:
            pass

    def reset(self) -> None:
        self.told = False
        try:
            os.read(self.fd, 1 << 16)
        except OSError:
            pass

    def sleep(self, fds: Iterable[int], deadline: float) -> bool:
        """Until it is rung or one of the descriptors is readable; False when the time is over."""
        return self.told or _poll([*fds, self.fd] if self.fd != -1 else fds, deadline)


class _Watch:
    """Tasks of an asyncio loop that wait for one port: one to receive and one to post, each holding its lock."""

    def __init__(self, port: Port, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.receiving, self.posting = loop, asyncio.Lock(), asyncio.Lock()
        # A descriptor of its own, which stays as long as the loop knows it: the port's may be gone before, in another thread.
        self._fd, = map(_Fd, map(os.dup, [port.fileno()]))
        self._port, self._process = weakref.ref(port), os.getpid()
        self._waiting: dict[Interest, tuple[asyncio.Future, int]] = {}
        self._listening = self._due = False
        self._calls = 0

    def is_busy(self) -> bool:
        return bool(self._waiting) or self.receiving.locked() or self.posting.locked()

    async def turn(self) -> None:
        """Lets others run now and then, also if nothing has to be waited for."""
        self._calls += 1
        if self._calls % _TURN == 0:
            await asyncio.sleep(0)

    async def wait(self, interest: Interest, length: int) -> None:
        """Until it may be there. Nothing is lost if this is cancelled."""
        future = self.loop.create_future()
        self._waiting[interest] = future, length
        try:
            status = self._arm()
            if status not in (_OK, _NOT_YET):
                raise _error(status)
            self._update()
            port = self._port()
            # Else it went before this waited, and all who did were told.
            if port is not None and port._handle is not None:
                await future
        finally:
            if self._waiting.get(interest, (None,))[0] is future:
                del self._waiting[interest]
            self._update()

    def wanted(self) -> list[tuple[Interest, int]]:
        return [(interest, length) for interest, (_, length) in list(self._waiting.items())]

    def again(self) -> None:
        """Arms anew after a call on the port, in whatever thread."""
        if self._waiting and not self._due:
            # Said before: the loop's thread may be quicker than this one.
            self._due = True
            try:
                self._soon(self._arm)
            except BaseException:
                self._due = False
                raise

    def _arm(self) -> int:
        self._due = False
        port = self._port()
        return port._arm_for_all() if self._waiting and port is not None else _OK

    def listen(self) -> None:
        """From whatever thread."""
        if self._waiting and not self._listening:
            self._soon(self._update)

    def tell(self) -> None:
        """Has all who wait look for themselves, from whatever thread."""
        waiting, self._waiting = self._waiting, {}
        if waiting:
            self._soon(self._resolve, [future for future, _ in waiting.values()])

    def leave(self) -> None:
        """The port goes, from whatever thread."""
        self.tell()
        try:
            is_here = not self.loop.is_running() or asyncio.get_running_loop() is self.loop
        except RuntimeError:
            is_here = False
        if is_here:
            self._listen(False)
        elif self._listening:
            self._soon(self._listen, False)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, {}
        self._resolve([future for future, _ in waiting.values()])

    def _resolve(self, futures: list[asyncio.Future]) -> None:
        for future in futures:
            if not future.done():
                future.set_result(None)
        self._update()

    def _soon(self, call: Callable[..., Any], *arguments: Any) -> None:
        if not self._is_at_home():
            return
        try:
            self.loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            # The loop was closed: its tasks will never run.
            self._waiting.clear()
            self._due = False

    def _is_at_home(self) -> bool:
        """Not in a forked child: what its copy of the loop watches by is the parent's."""
        return os.getpid() == self._process

    def _update(self) -> None:
        self._listen(bool(self._waiting))

    def _listen(self, listening: bool) -> None:
        if listening == self._listening or self.loop.is_closed() or not self._is_at_home():
            return
        self._listening = listening
        if listening:
            self.loop.add_reader(self._fd, self._wake)
        else:
            self.loop.remove_reader(self._fd)


# -- messages ---------------------------------------------------------------------------------------------------------

class Message(_Single):
    """A message that has arrived. In a `with` block it ends with the block.

    One that is dropped is freed with the last memoryview that looks into it, and the ports that came with it and that
    nobody holds are closed.
    """
    __slots__ = ("_loan", "_ports")

    def __init__(self, handle: c_void_p) -> None:
        self._ports: dict[int, Port] = {}
        self._lend(handle)

    def _lend(self, handle: c_void_p) -> None:
        address, length = _lib.message_data(handle), _lib.message_len(handle)
        self._loan: _Loan | None = _Loan(address, length, handle, readonly=True)

    def _live(self) -> _Loan:
        if self._loan is None:
            raise ValueError("the message was released")
        return self._loan

    @property
    def data(self) -> memoryview:
        """The message itself, read-only and not copied; released with the message."""
        return self._live().view()

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    def __len__(self) -> int:
        return self._live().length

    def __bool__(self) -> bool:
        """True: an empty message is a message."""
        return True

    @property
    def in_place(self) -> bool:
        """Whether this shows the ring itself and not a copy."""
        return _lib.message_is_in_place(self._live().owner)

    @property
    def ports(self) -> list[Port]:
        """The ports that came with the message, in a new list each time. They are the taker's: they outlive the message."""
        message = self._live().owner
        for index in range(_lib.message_port_count(message)):
            if index not in self._ports:
                handle = _new_port()
                status = _lib.message_take_port(message, index, byref(handle))
                # Gone is one at which a signal handler has raised.
                if status != Status.DETACHED:
                    _check(status)
                    self._ports[index] = Port(handle)
        return [port for _, port in sorted(self._ports.items())]

    def make_owned(self) -> None:
        """Takes the message out of the ring if it lies there, so that others have the room. BufferError as for release."""
        loan = self._live()
        loan.end()
        try:
            _check(_lib.message_make_owned(loan.owner))
        finally:
            self._lend(loan.owner)

    def release(self) -> None:
        """Ends the message and its memoryview, which raises ValueError from then on.

        BufferError while slices of it, or arrays that share it, are in use elsewhere: the message then stays, with a new
        memoryview. Releasing it twice does nothing more.
        """
        if self._loan is not None:
            self._loan.end()
            self._loan, self._ports = None, {}

    def __enter__(self) -> Message:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            self.release()
        except BufferError:
            # It goes with the last who looks. An error that is on its way matters more.
            if kind is None:
                raise

    def archived_string(self, offset: int) -> str:
        """The rkyv String archived at `offset`; from the end if that is negative: a message that is one has it at -8."""
        text, length = self._archived(offset, _lib.archived_string)
        return ctypes.string_at(text, length).decode()

    def archived_slice(self, offset: int, format: str) -> memoryview:
        """The elements of the rkyv Vec archived at `offset`, not copied. `format` is theirs, as for `memoryview.cast`: one
        character of struct's. If there are none, what is returned is empty, with the format "B"."""
        size = memoryview(bytes(struct.calcsize(format))).cast(format).itemsize
        start, count = self._archived(offset, _lib.archived_slice, size, size)
        first = start - self._live().address if count else 0
        elements = self.data[first:first + count * size]
        return elements.cast(format) if count else elements

    def _archived(self, offset: int, read: Callable[..., int], *layout: int) -> tuple[int, int]:
        loan, start, count = self._live(), c_void_p(), c_size_t()
        if not -loan.length <= offset <= loan.length:
            raise _error(Status.BAD_ARCHIVE, f"byte {offset} does not lie in {loan.length} bytes")
        at = loan.address + offset + (loan.length if offset < 0 else 0)
        _check(read(loan.address, loan.length, at, *layout, byref(start), byref(count)))
        return start.value or 0, count.value

    def __repr__(self) -> str:
        return "<ringport.Message, released>" if self._loan is None else f"<ringport.Message of {len(self)} bytes>"


# -- ports ------------------------------------------------------------------------------------------------------------

Stats = NamedTuple("Stats", [(name, int) for name, _ in _Stats._fields_[1:]])


class Port:
    """One end of a channel. In a `with` block it is closed with the block, and when it is dropped as well."""
    __slots__ = ("_handle", "_ended", "_open", "_watch", "_sleepers", "_strategy", "_patience", "__weakref__")

    def __init__(self, handle: c_void_p) -> None:
        self._handle: c_void_p | None = handle
        # Without a handle: why the port was closed, or None if it has moved.
        self._ended: CloseReason | None = None
        # Whose the reservation or batch is that is open: at most one, under any key.
        self._open: dict[None, object] = {}
        # Who waits here, in tasks and in calls, for what. The port is armed once, for all of them, and any call on it ends that:
        # so it is armed anew after each, and whoever is woken looks for himself.
        self._watch: _Watch | None = None
        self._sleepers: dict[_Bell, tuple[Interest, int]] = {}
        self._strategy, self._patience = WaitStrategy.ADAPTIVE, _LONGEST_SPIN / 2

    # Posting.

    def post(self, data: Any, ports: Iterable[Port] = (), timeout: float | None = None) -> None:
        """Posts the bytes of any object that has some in one piece, and ports, which move. Waits for room; Full if not in time."""
        ports = _listed(ports)
        length, interest = _length_of(data), Interest.TRANSFER if ports else Interest.ROOM
        if self._until(lambda: self._posted(self._post(data, ports)), interest, length, timeout) is None:
            self.try_post(data, ports)

    def try_post(self, data: Any, ports: Iterable[Port] = ()) -> None:
        """Posts if there is room; Full if not. On any error nothing was sent and nothing has moved."""
        self._verify(self._post(data, _listed(ports)))

    async def post_async(self, data: Any, ports: Iterable[Port] = ()) -> None:
        """Posts from an asyncio task. One that is cancelled has posted nothing, and the ports are still here."""
        ports = _listed(ports)
        length, interest = _length_of(data), Interest.TRANSFER if ports else Interest.ROOM
        await self._until_async(lambda: self._posted(self._post(data, ports)), interest, length)

    def _post(self, data: Any, ports: Sequence[Port]) -> int:
        if not ports:
            return self._call(_with_bytes, data, lambda at, length: _lib.post(self._live(), at, length, 0))
        handles = self._handles_of(ports)
        listed, status = (c_void_p * len(handles))(*[handle.value for handle in handles]), None
        try:
            status = self._call(_with_bytes, data, lambda at, length: _lib.post_with_ports(
                self._live(), at, length, listed, len(handles), 0))
        finally:
            try:
                self._see_to(ports, status)
            except BaseException:
                # By a signal handler, and others wait.
                self._see_to(ports, status)
                raise
        return status

    @staticmethod
    def _see_to(ports: Sequence[Port], status: int | None) -> None:
        """Ports of a list, after it was posted or not."""
        for port in ports:
            if status == _OK:
                port._leave(None)
            else:
                port._called()

    def _posted(self, status: int) -> bool | None:
        if status in _NO_ROOM:
            return None
        self._verify(status)
        return True

    def _handles_of(self, ports: Sequence[Port]) -> list[c_void_p]:
        """What is to be sent. The library is not asked about closed ports any more, so its checks are here as well."""
        if self in ports:
            raise _error(Status.SELF_TRANSFER, f"port {ports.index(self)} of the list is the one that it is posted on")
        for index, port in enumerate(ports):
            if port in ports[:index]:
                raise _error(Status.DUPLICATE_PORT, f"port {index} of the list is port {ports.index(port)} as well")
        handles = [port._handle for port in ports]
        gone = [(index, port) for index, port in enumerate(ports) if handles[index] is None]
        for index, port in gone:
            if port._ended is None:
                raise _error(Status.DETACHED, f"port {index} of the list has moved away")
        for index, _ in gone:
            raise _error(Status.CLOSED_PORT, f"port {index} of the list was closed here")
        return handles

    def reserve(self, length: int, timeout: float | None = None) -> Reservation:
        """A message of `length` bytes to be filled where it will be read: a memoryview of the ring, only to be written to.

        Its `with` block posts it, and does not if it raises. BufferError, and nothing posted, if parts of the memoryview
        are in use elsewhere at the end; until they are not, the port is Busy.
        """
        return Reservation(self, length, timeout)

    def batch(self) -> Batching:
        """Messages that become visible all at once, at the end of a `with` block, which gives a Batch; none of them if it
        raises."""
        return Batching(self)

    # Receiving.

    def recv(self, timeout: float | None = None) -> Message | None:
        """The next message; waits for it. None if none came in time."""
        return self._until(self.try_recv, Interest.MESSAGE, 0, timeout)

    def try_recv(self) -> Message | None:
        """The next message if there is one."""
        handle = _new_message()
        status = self._call(_lib.recv, self._live(), 0, byref(handle))
        if status == _OK:
            return Message(handle)
        if status != _NOT_YET:
            self._verify(status)
        return None

    async def recv_async(self) -> Message:
        """The next message, for an asyncio task. One that is cancelled has taken none."""
        return await self._until_async(self.try_recv, Interest.MESSAGE, 0)

    def __iter__(self) -> Iterator[Message]:
        """Messages until the channel has ended; `close_reason` says why. A loop holds each until the next has come."""
        return self

    def __next__(self) -> Message:
        try:
            return self.recv()
        except Closed:
            raise StopIteration from None

    def __aiter__(self) -> AsyncIterator[Message]:
        """The same for an asyncio task."""
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.recv_async()
        except Closed:
            raise StopAsyncIteration from None

    # Closing.

    def close(self) -> None:
        """Ends the channel for both ends, and gives back this one's descriptors. Whoever waits here is told Closed."""
        handle, ended = self._handle, CloseReason.CLOSED_HERE
        if handle is None:
            return
        try:
            # By a call at whose end a signal handler has raised it may have moved.
            has_moved = _lib.port_close(handle) == Status.DETACHED
            ended = None if has_moved else self._reason(handle) or ended
        finally:
            self._leave(ended)

    def __enter__(self) -> Port:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @property
    def close_reason(self) -> CloseReason | None:
        """Why the channel has ended, as far as is known; None if it has not. Messages may still wait."""
        return self._ended or self._reason(self._live())

    @staticmethod
    def _reason(handle: c_void_p) -> CloseReason | None:
        reason = c_int32()
        _check(_lib.port_close_reason(handle, byref(reason)))
        return CloseReason(reason.value) if reason.value else None

    def _live(self) -> c_void_p:
        handle = self._handle
        if handle is not None:
            return handle
        if self._ended is None:
            raise _error(Status.DETACHED, "the port has moved away")
        raise _closed("the port was closed", self._ended)

    def _verify(self, status: int) -> None:
        if status == Status.CLOSED:
            error = _error(status)
            raise _closed(str(error), self.close_reason or CloseReason.CLOSED_HERE)
        _check(status)

    def _leave(self, ended: CloseReason | None) -> None:
        watch, self._handle, self._watch, self._ended = self._watch, None, None, ended
        try:
            self._tell_all(watch)
        except BaseException:
            # By a signal handler, and others wait.
            self._tell_all(watch)
            raise

    # Waiting.

    def fileno(self) -> int:
        """The descriptor to poll for reading after `arm`. It stays the port's; do not read from it."""
        fd = c_int()
        _check(_lib.port_fd(self._live(), byref(fd)))
        return fd.value

    def arm(self, interest: Interest = Interest.MESSAGE, length: int = 0) -> bool:
        """Whether it is there already. If not, `fileno` becomes readable when it is (room: for `length` bytes), sometimes
        for nothing. It works once, and any other call that posts or receives ends it."""
        status = self._call(_lib.port_arm, self._live(), _number("an interest", interest, 2**31 - 1),
                            _number("a length", length, 2**64 - 1))
        if status not in (_OK, _NOT_YET):
            self._verify(status)
        return status == _OK

    @property
    def wait_strategy(self) -> WaitStrategy:
        return self._strategy

    @wait_strategy.setter
    def wait_strategy(self, strategy: WaitStrategy) -> None:
        strategy = WaitStrategy(strategy)
        _check(_lib.port_set_wait_strategy(self._live(), strategy))
        self._strategy = strategy

    def _call(self, function: Callable[..., int], *arguments: Any) -> int:
        """A call that ends what the port was armed for, also if it fails."""
        try:
            return function(*arguments)
        finally:
            if self._sleepers or self._watch is not None:
                try:
                    self._called()
                except BaseException:
                    # By a signal handler, and others wait.
                    self._called()
                    raise

    def _called(self) -> None:
        """After such a call."""
        if self._sleepers:
            self._arm_for_all()
        elif self._watch is not None:
            self._watch.again()

    def _do(self, function: Callable[..., int], *arguments: Any) -> None:
        """The same, and raises if it has failed."""
        self._verify(self._call(function, *arguments))

    def _tell_all(self, leaves: _Watch | None = None) -> None:
        for bell in list(self._sleepers):
            bell.ring()
        if leaves is not None:
            leaves.leave()
        elif self._watch is not None:
            self._watch.tell()

    def _arm_for_all(self) -> int:
        """Arms for all who wait here and were not told since. If it is there for one of them, all are told."""
        while True:
            handle, wanted = self._handle, self._wanted()
            if handle is None or not wanted:
                return _OK
            interest = functools.reduce(operator.or_, (interest for interest, _ in wanted))
            if interest & Interest.TRANSFER:
                # The library knows one or the other. Where ports can be posted, there is room as well.
                interest &= ~Interest.ROOM
            status = _lib.port_arm(handle, interest, max(length for _, length in wanted))
            if status != _NOT_YET:
                self._tell_all()
                return status
            # Another thread may have begun to wait meanwhile, and armed for more before this one did.
            if self._wanted() == wanted:
                break
        watch = self._watch
        if watch is not None:
            watch.listen()
        return status

    def _wanted(self) -> list[tuple[Interest, int]]:
        watch = self._watch
        wanted = [wanted for bell, wanted in list(self._sleepers.items()) if not bell.told]
        return wanted + (watch.wanted() if watch is not None else [])

    def _sleep(self, interest: Interest, length: int, deadline: float) -> bool:
        """Until it may be there; False when the time is over."""
        if time.monotonic() >= deadline:
            return False
        bell = _Bell()
        try:
            self._sleepers[bell] = interest, length
            status = self._arm_for_all()
            if status not in (_OK, _NOT_YET):
                self._verify(status)
            return bell.sleep([self.fileno()], deadline)
        finally:
            self._sleepers.pop(bell, None)

    def _until(self, attempt: Callable[[], _T | None], interest: Interest, length: int,
               timeout: float | None) -> _T | None:
        """What the attempt gives; None when the time is over. Check, arm, check again, wait."""
        done = attempt()
        if done is not None or timeout is not None and timeout <= 0:
            return done
        start, deadline = time.monotonic(), _deadline(timeout)
        tired = start + {WaitStrategy.SPIN: math.inf, WaitStrategy.ADAPTIVE: self._patience}.get(self._strategy, 0)
        while _CAN_SPIN and done is None and time.monotonic() < min(tired, deadline):
            done = attempt()
        if done is not None:
            return done
        while done is None and self._sleep(interest, length, deadline):
            done = attempt()
        if done is None:
            done = attempt()
        # A little more patience would have saved the sleep, or less have cost nothing.
        waited = time.monotonic() - start
        self._patience = _LONGEST_SPIN if waited < _LONGEST_SPIN else max(self._patience / 2, _SHORTEST_SPIN)
        return done

    async def _until_async(self, attempt: Callable[[], _T | None], interest: Interest, length: int) -> _T:
        watch = self._watched()
        async with watch.receiving if interest == Interest.MESSAGE else watch.posting:
            await watch.turn()
            while True:
                done = attempt()
                if done is not None:
                    return done
                await watch.wait(interest, length)

    def _watched(self) -> _Watch:
        loop = asyncio.get_running_loop()
        if self._watch is None or self._watch.loop is not loop:
            if self._watch is not None and self._watch.is_busy() and not self._watch.loop.is_closed():
                raise RuntimeError("tasks of another loop wait for the port")
            self._watch = _Watch(self, loop)
        return self._watch

    # Passing it on.

    def into_fds(self) -> tuple[int, int]:
        """Takes the port apart into its descriptors, segment and doorbell, which are the caller's; it has moved then."""
        segment, doorbell = c_int(), c_int()
        self._do(_lib.port_into_fds, self._live(), byref(segment), byref(doorbell))
        self._leave(None)
        return segment.value, doorbell.value

    @classmethod
    def from_fds(cls, segment: int, doorbell: int) -> Port:
        """Makes a port of its descriptors. They are its own from then on, and on an error still the caller's."""
        handle = _new_port()
        fds = _number("segment", segment, 2**31 - 1), _number("doorbell", doorbell, 2**31 - 1)
        _check(_lib.port_from_fds(*fds, byref(handle)))
        return cls(handle)

    def send_over(self, sock: socket.socket | int, timeout: float | None = None) -> None:
        """Moves the port to whoever calls `receive_over` on the other end of a connected Unix socket. TimeoutError."""
        self._live()
        fd = _fd_of(sock)
        if not _poll([fd], _deadline(timeout), select.POLLOUT):
            raise TimeoutError("the socket takes nothing")
        self._do(_lib.port_send, self._live(), fd)
        self._leave(None)

    @classmethod
    def receive_over(cls, sock: socket.socket | int, timeout: float | None = None) -> Port:
        """Receives a port that was sent over a Unix socket; waits for it. TimeoutError if none came."""
        fd, handle, deadline = _fd_of(sock), _new_port(), _deadline(timeout)
        while True:
            if not _poll([fd], deadline):
                raise TimeoutError("nothing came")
            status = _lib.port_receive(fd, 0, byref(handle))
            if status == Status.CLOSED:
                raise _closed(str(_error(status)), CloseReason.CLOSED_BY_PEER)
            if status != _NOT_YET:
                _check(status)
                return cls(handle)
            # Somebody else was quicker, maybe again and again.
            if time.monotonic() >= deadline:
                raise TimeoutError("nothing came")

    def __reduce__(self) -> Any:
        raise TypeError("a port is pickled by multiprocessing only, which moves it, and one of a subclass not even so")

    # The port's own.

    def trust_peer(self) -> None:
        """Reads messages in place from now on.

        A promise: nobody who has or had either end of this channel writes to it but through this library, nor keeps copies
        of its descriptors. Else what a message shows can change while it is read.
        """
        _check(_lib.port_trust_peer(self._live()))

    @property
    def capacity(self) -> int:
        """Bytes of the ring in which this port posts."""
        return _lib.port_capacity(self._live())

    @property
    def max_message_len(self) -> int:
        """The longest message that can be posted, in bytes. Ports that go with it take some of that: 16 and up."""
        return _lib.port_max_message_len(self._live())

    @property
    def pending(self) -> int:
        """Bytes of records that wait to be received, headers and padding included."""
        return _lib.port_pending(self._live())

    def stats(self) -> Stats:
        """What went through this port since this process has it."""
        stats = _Stats(size=ctypes.sizeof(_Stats))
        _check(_lib.port_stats(self._live(), byref(stats)))
        return Stats(*(getattr(stats, name) for name in Stats._fields))

    def __repr__(self) -> str:
        if self._handle is None:
            return f"<ringport.Port, {'moved' if self._ended is None else self._ended.name}>"
        return f"<ringport.Port, capacity {self.capacity}, pending {self.pending}>"


class _Open(_Single):
    """A `with` block in which a reservation or a batch is open. What is left otherwise, by a signal handler that raises on
    entering `__exit__`, or never entered, gives up when it is dropped, and posts nothing."""
    __slots__ = ("_port", "_handle", "__del__")

    def __init__(self, port: Port) -> None:
        self._port, self._handle = port, None
        # Nothing.
        self.__del__: Callable[[], Any] = bool

    def _begin(self) -> c_void_p:
        """To be called before the library is: if a signal handler raises in its call, nobody is told whether that went well."""
        port, token = self._port, object()
        handle = port._live()
        if not port._open:
            self._handle, self.__del__ = handle, functools.partial(_give_up, port, handle, token)
            if port._open.setdefault(None, token) is token:
                return handle
        raise _error(Status.BUSY, "a reservation or a batch is open on this port")

    def _check_open(self) -> None:
        if self.__del__ is bool:
            raise _error(Status.INVALID, "nothing is open here any more")

    def _end(self) -> None:
        """Gives up what this has opened, if it is open still."""
        self.__del__()
        self.__del__ = bool


def _give_up(port: Port, handle: c_void_p, token: object) -> None:
    if port._open.get(None) is token:
        try:
            _lib.abort(handle)
        finally:
            port._open.pop(None, None)


class Reservation(_Open):
    """A message that is being written; see Port.reserve."""
    __slots__ = ("_length", "_timeout", "_loan")

    def __init__(self, port: Port, length: int, timeout: float | None) -> None:
        super().__init__(port)
        self._length, self._timeout = operator.index(length), timeout

    def __enter__(self) -> memoryview:
        port, most = self._port, self._port.max_message_len
        if self._length < 0:
            raise ValueError(f"a message cannot have {self._length} bytes")
        if self._length > most:
            raise _error(Status.TOO_LARGE, f"a message of {self._length} bytes is longer than {most}")

        def attempt() -> _Loan | None:
            handle, where, loan = self._begin(), c_void_p(), None
            try:
                if port._posted(port._call(_lib.reserve, handle, self._length, 0, byref(where))):
                    loan = _Loan(where.value, self._length, handle, readonly=False)
            finally:
                if loan is None:
                    self._end()
            return loan

        loan = port._until(attempt, Interest.ROOM, self._length, self._timeout)
        if loan is None:
            raise _error(Status.FULL, f"no room for {self._length} bytes in time")
        self._loan, self.__del__ = loan, functools.partial(loan.when_ended, self.__del__)
        return loan.view()

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._check_open()
        try:
            if kind is None:
                self._loan.end()
                self._port._do(_lib.commit, self._handle, self._length)
        finally:
            self._end()


class Batching(_Open):
    """Messages that are posted together; see Port.batch."""
    __slots__ = ()

    def __enter__(self) -> Batch:
        handle = self._begin()
        try:
            self._port._do(_lib.batch_begin, handle)
        except BaseException:
            self._end()
            raise
        return Batch(self._port, self._port._open.get(None))

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._check_open()
        try:
            if kind is None:
                self._port._do(_lib.batch_publish, self._handle, None)
        finally:
            self._end()


class Batch:
    """The batch that is open on a port."""
    __slots__ = ("_port", "_token")

    def __init__(self, port: Port, token: object) -> None:
        self._port, self._token = port, token

    def post(self, data: Any) -> None:
        """Adds a message. Full if there is no room beside the rest: that can be posted, and another batch be begun."""
        port = self._port
        port._live()
        if port._open.get(None) is not self._token:
            raise _error(Status.INVALID, "the batch has ended")
        port._do(_with_bytes, data, lambda at, length: _lib.batch_post(port._live(), at, length))


def _closed(text: str, reason: CloseReason) -> Closed:
    error = Closed(Status.CLOSED, text)
    error.reason = reason
    return error


def _number(name: str, value: Any, most: int) -> int:
    """A number that fits where it goes: ctypes would cut it."""
    value = operator.index(value)
    if not 0 <= value <= most:
        raise ValueError(f"{name} is {value}, and has to be from 0 to {most}")
    return value


def _listed(ports: Iterable[Port]) -> tuple[Port, ...]:
    """A list of ports, and nothing else. A port gives messages when it is iterated over."""
    if isinstance(ports, Port):
        raise TypeError("a single port was given where a list of ports has to be")
    ports = tuple(ports)
    for port in ports:
        if not isinstance(port, Port):
            raise TypeError(f"{port!r} was given where a port has to be")
    return ports


def _text(value: Any) -> bytes:
    text = os.fsencode(value)
    if b"\0" in text:
        raise ValueError(f"{value!r} has a null character in it")
    return text


def _fd_of(sock: socket.socket | int) -> int:
    return sock if isinstance(sock, int) else sock.fileno()


def _length_of(data: Any) -> int:
    return len(data) if type(data) is bytes else memoryview(data).nbytes


def _channel_options(capacity: int, capacity_1_to_2: int, capacity_2_to_1: int, prefault: bool,
                     lock_memory: bool) -> _ChannelOptions:
    one, two = (_number("a capacity", own or capacity, 2**64 - 1) for own in (capacity_1_to_2, capacity_2_to_1))
    return _ChannelOptions(ctypes.sizeof(_ChannelOptions), one, two, prefault, lock_memory)


def channel(capacity: int = 0, *, capacity_1_to_2: int = 0, capacity_2_to_1: int = 0, prefault: bool = False,
            lock_memory: bool = False) -> tuple[Port, Port]:
    """Two entangled ports. A capacity is that of a ring in bytes, a power of two; 0 is 64 KiB."""
    options = _channel_options(capacity, capacity_1_to_2, capacity_2_to_1, prefault, lock_memory)
    first, second = _new_port(), _new_port()
    _check(_lib.channel_new(byref(options), byref(first), byref(second)))
    return Port(first), Port(second)


_turns = itertools.count()


def wait_any(ports: Iterable[Port], timeout: float | None = None) -> Port | None:
    """One of a handful of ports that has a message or whose channel has ended, in turns; None if none in time. Closed,
    Detached or Forked if it is so with one of them in this process."""
    ports = _listed(ports)
    if not ports:
        return None
    deadline, first = _deadline(timeout), next(_turns) % len(ports)
    bell = _Bell()
    try:
        for port in ports:
            port._sleepers[bell] = Interest.MESSAGE, 0
        while True:
            bell.reset()
            for port in itertools.chain(ports[first:], ports[:first]):
                # As any call, that arms it anew, also for this one.
                if port.arm(Interest.MESSAGE):
                    return port
            if time.monotonic() >= deadline or not bell.sleep([port.fileno() for port in ports], deadline):
                return None
    finally:
        for port in ports:
            port._sleepers.pop(bell, None)


# -- processes --------------------------------------------------------------------------------------------------------

def _reduce_port(port: Port) -> tuple:
    # The port waits in a socket whose other end is passed on. So what this process keeps of it until the other is ready is
    # no end of the channel, and whoever unpickles it is its only holder. If nobody does, it is closed with the socket.
    near, far = socket.socketpair()
    with near, far:
        port.send_over(near)
        passed = multiprocessing.reduction.DupFd(far.fileno())
        starting = multiprocessing.context.get_spawning_popen()
        if starting is not None:
            # This very descriptor is inherited.
            weakref.finalize(starting, os.close, far.detach())
    return _rebuild_port, (passed,)


def _rebuild_port(passed: Any) -> Port:
    with socket.socket(fileno=passed.detach()) as sock:
        return Port.receive_over(sock)


multiprocessing.reduction.register(Port, _reduce_port)


class Child(_Single):
    """A process that `spawn` has started. Dropping it neither kills nor waits."""
    __slots__ = ("_handle", "returncode", "pid")

    def __init__(self, handle: c_void_p) -> None:
        self._handle = handle
        self.returncode: int | None = None
        self.pid: int = _lib.child_id(handle)

    def poll(self) -> int | None:
        """How it has ended, as for subprocess; None while it runs."""
        if self.returncode is None:
            status = c_int()
            answer = _lib.child_try_wait(self._handle, byref(status))
            if answer == _NOT_YET:
                return None
            _check(answer)
            self.returncode = os.waitstatus_to_exitcode(status.value)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Waits until it has ended, and says how; None if it has not in time."""
        if self.poll() is None:
            fd, = map(_Fd, map(os.pidfd_open, [self.pid]))
            _poll([fd], _deadline(timeout))
        return self.poll()

    def kill(self) -> None:
        """SIGKILL."""
        _check(_lib.child_kill(self._handle))


def _texts(texts: Iterable[Any]) -> Any:
    encoded = [_text(text) for text in texts]
    return (c_char_p * (len(encoded) + 1))(*encoded, None)


def _variable(name: Any, value: Any) -> bytes:
    name, value = _text(name), _text(value)
    if not name or b"=" in name:
        raise ValueError(f"{name!r} cannot be the name of a variable")
    return name + b"=" + value


def spawn(argv: Sequence[Any], *, env: dict | None = None, cwd: Any = None, stdin: Any = None, stdout: Any = None,
          stderr: Any = None) -> tuple[Port, Child]:
    """Starts a program with a port to this process, which it gets from `parent_port`. Streams: a descriptor or a file."""
    if isinstance(argv, (str, bytes)):
        raise TypeError(f"argv is {argv!r}, and has to be a list")
    streams = [-1 if stream is None else _number(name, stream if isinstance(stream, int) else stream.fileno(), 2**31 - 1)
               for name, stream in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr))]
    options = _SpawnOptions(
        size=ctypes.sizeof(_SpawnOptions),
        environment=None if env is None else ctypes.cast(
            _texts(_variable(name, value) for name, value in env.items()), POINTER(c_char_p)),
        directory=None if cwd is None else _text(cwd),
        standard_streams=(c_int * 3)(*streams))
    port, child = _new_port(), _new_child()
    _check(_lib_unlocked.spawn(_texts(argv), byref(options), byref(port), byref(child)))
    return Port(port), Child(child)


def parent_port() -> Port | None:
    """The port to the process that has spawned this one. None in any other, and from the second call on."""
    handle = _new_port()
    status = _lib.parent_port(byref(handle))
    if status == Status.NO_PARENT:
        return None
    _check(status)
    return Port(handle)


# -- strangers --------------------------------------------------------------------------------------------------------

Credentials = NamedTuple("Credentials", [(name, int) for name, _ in _Credentials._fields_])


class Listener(_Single):
    """Where strangers connect. In a `with` block it is closed with the block."""
    __slots__ = ("_handle", "_sleepers")

    def __init__(self, handle: c_void_p) -> None:
        self._handle: c_void_p | None = handle
        self._sleepers: set[_Bell] = set()

    def _live(self) -> c_void_p:
        handle = self._handle
        if handle is None:
            raise ValueError("the listener was closed")
        return handle

    def accept(self, timeout: float | None = None) -> tuple[Port, Credentials] | None:
        """A client's port and who it is, by the kernel's word; waits for one. None if none came in time."""
        deadline = _deadline(timeout)
        while True:
            port, client = _new_port(), _Credentials()
            status = _lib.accept(self._live(), 0, byref(port), byref(client))
            if status == _OK:
                return Port(port), Credentials(client.process_id, client.user_id, client.group_id)
            if status != _NOT_YET:
                raise _error(status)
            if time.monotonic() >= deadline or not self._sleep(deadline):
                return None

    def _sleep(self, deadline: float) -> bool:
        bell, handle = _Bell(), self._live()
        try:
            self._sleepers.add(bell)
            # With the handle the descriptor stays.
            return handle is not self._handle or bell.sleep([self.fileno()], deadline)
        finally:
            self._sleepers.discard(bell)

    def fileno(self) -> int:
        """Readable when `accept(0)` should be called, sometimes for nothing."""
        fd = c_int()
        _check(_lib.listener_fd(self._live(), byref(fd)))
        return fd.value

    @property
    def path(self) -> str:
        return os.fsdecode(_lib.listener_path(self._live()))

    def close(self) -> None:
        """Ends the listening. Whoever accepts in another thread is told so by a ValueError."""
        self._handle = None
        for bell in list(self._sleepers):
            bell.ring()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def listen(address: Any, *, users: Sequence[int] = (), any_user: bool = False, largest_capacity: int = 0,
           backlog: int = 0) -> Listener:
    """Listens at a name, or at a path, recognised by a `/`. By default for processes of this user only."""
    # The largest is nobody's: 2**32 - 1 stands for no user at all.
    allowed = [_number("a user", user, 2**32 - 2) for user in users]
    options = _ListenerOptions(
        ctypes.sizeof(_ListenerOptions), (c_uint32 * len(allowed))(*allowed) if allowed else None, len(allowed), any_user,
        _number("largest_capacity", largest_capacity, 2**64 - 1), _number("backlog", backlog, 2**16 - 1))
    listener = _new_listener()
    _check(_lib.listen(_text(address), byref(options), byref(listener)))
    return Listener(listener)


def connect(address: Any, *, capacity: int = 0, capacity_1_to_2: int = 0, capacity_2_to_1: int = 0, prefault: bool = False,
            lock_memory: bool = False, timeout: float | None = 10.0) -> Port:
    """Connects to a listener, and waits until it has accepted. This side is the channel's first."""
    channel = _channel_options(capacity, capacity_1_to_2, capacity_2_to_1, prefault, lock_memory)
    patience = -1 if timeout is None else int(min(max(timeout, 0), 2**32) * 1e9)
    options = _ConnectOptions(ctypes.sizeof(_ConnectOptions), channel, patience)
    name, future = _text(address), concurrent.futures.Future()

    def attempt() -> None:
        handle = _new_port()
        status = _lib_unlocked.connect(name, byref(options), byref(handle))
        if status == _OK:
            future.set_result(Port(handle))
        else:
            future.set_exception(_error(status))

    # The library waits for the listener in one call. In a thread of its own that keeps no signal from being handled.
    threading.Thread(target=attempt, daemon=True).start()
    return future.result()
