"""Tests of ringport.py: `python3 -m unittest` in this folder, with RINGPORT_LIBRARY naming libringport.so.

S-numbers are the rules that a test is about. Started as a program, this is one of the other processes (`WORKERS`).
"""
import array
import asyncio
import contextlib
import copy
import ctypes
import faulthandler
import gc
import multiprocessing
import multiprocessing.reduction
import multiprocessing.resource_sharer
import multiprocessing.resource_tracker
import os
import pathlib
import pickle
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import unittest.mock
import weakref

import ringport
from ringport import CloseReason, Closed, Interest, Port, Status, WaitStrategy, channel

HERE = pathlib.Path(__file__).resolve().parent
# Long enough for a loaded machine: nothing waits so long unless it has failed.
BOUND = 20.0
# "At once", on a loaded machine.
SOON = 2.0

# -- the other processes ----------------------------------------------------------------------------------------------


def echo(port):
    """Sends everything back, ports too, until the channel is closed."""
    for message in port:
        port.post(message.data, message.ports)


def hold(port):
    """Says that it is there, and waits to be killed."""
    port.post(b"ready")
    port.recv(BOUND)


def hop(port):
    """Receives a port, answers on it, passes it on to a process of its own, and ends."""
    with port.recv(BOUND) as message:
        gift, = message.ports
        left = message.data[0]
    gift.post(b"%d" % left)
    if left:
        child_port, child = start("hop")
        child_port.post(bytes([left - 1]), [gift])
        with child_port.recv(BOUND) as answer:
            port.post(answer.data)
    else:
        port.post(b"arrived")
        for message in gift:
            gift.post(message.data)


def flood(port):
    """Posts a thousand messages and dies in the middle of a word."""
    for number in range(1000):
        port.post(struct.pack("<I", number))
    os.kill(os.getpid(), signal.SIGKILL)


async def echo_async(port):
    async for message in port:
        await port.post_async(message.data)


WORKERS = {"echo": echo, "hold": hold, "hop": hop, "flood": flood,
           "echo_async": lambda port: asyncio.run(echo_async(port))}


def start(worker):
    return ringport.spawn([sys.executable, __file__, worker], env=environment())


def environment():
    return dict(os.environ, PYTHONPATH=str(HERE), PYTHONDONTWRITEBYTECODE="1")


def python(code, *arguments, **settings):
    """A child that runs `code` with this folder's modules."""
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment(),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings)


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (3,)


def keep(_, port):
    port.recv(BOUND)


def take_and_echo(connection):
    echo(connection.recv())


def take_and_hold(connection):
    hold(connection.recv())


# -- the tests --------------------------------------------------------------------------------------------------------

def descriptors():
    """What is open, but for the descriptor that looks."""
    names = os.listdir("/proc/self/fd")
    return {name: os.readlink(f"/proc/self/fd/{name}") for name in names if os.path.exists(f"/proc/self/fd/{name}")}


def is_asleep(pid, tid=None):
    """Whether the thread waits in the kernel, and not just for the interpreter's lock, which it could have meanwhile."""
    for _ in range(5):
        with open(f"/proc/{pid}/task/{tid or pid}/stat") as stat:
            if stat.read().rsplit(")", 1)[1].split()[0] != "S":
                return False
        time.sleep(0)
    return True


def wait_until(condition):
    end = time.monotonic() + BOUND
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not come")
        os.sched_yield()


def fill(port, data=bytes(200)):
    """Posts until there is no room, and says how many messages that were."""
    count = 0
    while True:
        try:
            port.try_post(data)
        except ringport.Full:
            return count
        count += 1


def setUpModule():
    # These stay open for good.
    multiprocessing.resource_tracker.ensure_running()
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        pool.apply(abs, (-1,))
    pool.join()


class Case(unittest.TestCase):
    def setUp(self):
        faulthandler.dump_traceback_later(60, exit=True)
        gc.collect()
        self.open_before = descriptors()

    def tearDown(self):
        multiprocessing.resource_sharer.stop()
        gc.collect()
        left = {fd: what for fd, what in descriptors().items() if fd not in self.open_before}
        faulthandler.cancel_dump_traceback_later()
        self.assertEqual(left, {}, "descriptors were left open")

    def assertCloses(self, port, reason):
        """The channel ends for this reason, at once."""
        start = time.monotonic()
        with self.assertRaises(Closed) as caught:
            port.recv(BOUND)
        self.assertEqual(caught.exception.reason, reason)
        self.assertEqual(port.close_reason, reason)
        self.assertLess(time.monotonic() - start, SOON)

    def assertRefused(self, status, call, *arguments):
        with self.assertRaises(ringport.Error) as caught:
            call(*arguments)
        self.assertEqual(caught.exception.status, status)
        self.assertTrue(str(caught.exception))
        return caught.exception

    def ended(self, child):
        self.assertEqual(child.wait(BOUND), 0)

    @contextlib.contextmanager
    def instead(self, name, call):
        """The library's function replaced by `call(function, *arguments)`."""
        function = getattr(ringport._lib, name)
        with unittest.mock.patch.object(ringport._lib, name, lambda *arguments: call(function, *arguments)):
            yield


class Posting(Case):
    def test_s2_what_is_posted_on_one_is_received_on_the_other(self):
        one, two = channel()
        one.post(b"there")
        two.post(b"and back")
        self.assertEqual(bytes(two.recv().data), b"there")
        self.assertEqual(bytes(one.recv()), b"and back")

    def test_any_object_with_bytes_in_one_piece_can_be_posted(self):
        one, two = channel()
        numbers = array.array("d", [1.5, -2.0])
        for data in [b"a\0b", bytearray(b"abc"), memoryview(b"abcdef")[2:4], numbers, (ctypes.c_int * 2)(7, 8), bytes(1000)]:
            one.post(data)
            self.assertEqual(bytes(two.recv()), bytes(memoryview(data).cast("B")) if data is not numbers else numbers.tobytes())
        for data, refusal in [("text", TypeError), (7, TypeError), (None, TypeError), (memoryview(b"abcdef")[::2], BufferError)]:
            with self.assertRaises(refusal):
                one.try_post(data)
            with self.assertRaises((refusal, TypeError)):
                one.post(data)
        self.assertIsNone(two.try_recv())

    def test_a_buffer_is_let_go_when_the_post_returns(self):
        one, two = channel(4096)
        data = bytearray(200)
        fill(one, data)
        with self.assertRaises(ringport.Full):
            one.post(data, timeout=0.01)
        data.append(1)  # a BufferError if it were still exported

    def test_s6_changing_the_value_later_changes_nothing(self):
        one, two = channel()
        data = bytearray(b"before")
        one.post(data)
        data[:] = b"after!"
        self.assertEqual(bytes(two.recv()), b"before")

    def test_s9_an_empty_message_is_a_message(self):
        one, two = channel()
        self.assertIsNone(two.try_recv())
        one.post(b"")
        one.post(bytearray())
        with one.reserve(0):
            pass
        for _ in range(3):
            with two.try_recv() as message:
                self.assertTrue(message)
                self.assertEqual((len(message), bytes(message), message.data.nbytes), (0, b"", 0))
        self.assertIsNone(two.try_recv())

    def test_s10_a_message_beyond_the_longest_is_too_large(self):
        one, two = channel(4096)
        self.assertEqual((one.capacity, one.max_message_len), (4096, 2024))
        one.post(bytes(one.max_message_len))
        error = self.assertRefused(Status.TOO_LARGE, one.post, bytes(one.max_message_len + 1))
        self.assertIsInstance(error, ringport.TooLarge)
        self.assertEqual(error.name, "RINGPORT_TOO_LARGE")
        self.assertIn("2025", str(error))
        self.assertEqual(len(two.recv()), 2024)

    def test_s11_a_full_ring_drops_nothing(self):
        one, two = channel(4096)
        count = 0
        while True:
            try:
                one.try_post(struct.pack("<I", count) * 50)
            except ringport.Full:
                break
            count += 1
        start = time.monotonic()
        with self.assertRaises(ringport.Full):
            one.post(bytes(200), timeout=0.05)
        self.assertGreaterEqual(time.monotonic() - start, 0.05)
        for number in range(count):
            self.assertEqual(bytes(two.try_recv()), struct.pack("<I", number) * 50)
        self.assertIsNone(two.try_recv())

    def test_s11_post_waits_for_room(self):
        one, two = channel(4096)
        received = []

        def drain():
            wait_until(lambda: is_asleep(os.getpid(), main))
            received.extend(struct.unpack_from("<I", message.data)[0] for message in two)

        main = threading.get_native_id()
        one.wait_strategy = WaitStrategy.BLOCK
        thread = threading.Thread(target=drain)
        fill(one, struct.pack("<I", 0) * 50)
        thread.start()
        for number in range(1, 500):
            one.post(struct.pack("<I", number) * 50, timeout=BOUND)
        one.close()
        thread.join()
        self.assertEqual(sorted(set(received)), list(range(500)))
        self.assertEqual(received, sorted(received))

    def test_s12_a_post_that_fails_leaves_its_ports_usable(self):
        carrier, end = channel(4096)
        gift, friend = channel()
        fill(carrier)
        for call in (carrier.try_post, lambda data, ports: carrier.post(data, ports, timeout=0.01)):
            with self.assertRaises(ringport.Full):
                call(bytes(200), [gift])
        with self.assertRaises(ringport.TooLarge):
            carrier.post(bytes(4096), [gift])
        with self.assertRaises(TypeError):
            carrier.post("text", [gift])
        end.close()
        with self.assertRaises(Closed):
            carrier.post(b"", [gift])
        gift.post(b"still here")
        self.assertEqual(bytes(friend.recv()), b"still here")

    def test_s13_each_wrong_list_has_its_own_error_in_this_order(self):
        carrier, end = channel()
        gift, _friend = channel()
        closed, _ = channel()
        closed.close()
        moved, _ = channel()
        end.post(b"", [moved])
        for ports, status in [([moved, closed, gift, gift, carrier], Status.SELF_TRANSFER),
                              ([moved, closed, gift, gift], Status.DUPLICATE_PORT),
                              ([closed, end, moved], Status.DETACHED),
                              ([closed, end, gift, gift, carrier], Status.SELF_TRANSFER),
                              ([closed, end, gift, gift], Status.DUPLICATE_PORT),
                              ([end, closed], Status.CLOSED_PORT),
                              ([gift, end], Status.OWN_PEER)]:
            error = self.assertRefused(status, carrier.post, b"", ports)
            self.assertIsInstance(error, ringport.Detached if status == Status.DETACHED else ringport.TransferError)
        many = [channel()[0] for _ in range(127)]
        self.assertRefused(Status.TOO_MANY_PORTS, carrier.post, b"", many)
        carrier.close()
        self.assertRefused(Status.SELF_TRANSFER, carrier.post, b"", [carrier, closed])
        self.assertRefused(Status.CLOSED_PORT, carrier.post, b"", [closed])
        self.assertRefused(Status.CLOSED, carrier.post, b"", [gift])
        gift.post(b"usable")

    def test_s16_a_port_that_has_moved_is_detached(self):
        carrier, end = channel()
        gift, _friend = channel()
        carrier.post(b"", [gift])
        for call in (lambda: gift.post(b""), lambda: gift.try_post(b""), gift.recv, gift.try_recv, lambda: next(gift),
                     gift.fileno, gift.arm, gift.into_fds, lambda: gift.send_over(0), lambda: gift.capacity, gift.stats,
                     gift.trust_peer, lambda: gift.close_reason, lambda: gift.reserve(1).__enter__(),
                     lambda: gift.batch().__enter__(), lambda: carrier.post(b"", [gift]),
                     lambda: asyncio.run(gift.recv_async()), lambda: multiprocessing.reduction.ForkingPickler.dumps(gift)):
            with self.assertRaises(ringport.Detached):
                call()
        gift.close()
        self.assertIn("moved", repr(gift))
        self.assertEqual(len(end.recv().ports), 1)


    def test_one_port_is_no_list_of_ports(self):
        one, two = channel()
        gift, friend = channel()
        friend.post(b"kept")
        for wrong in gift, "ab", [gift, None], 5:
            for call in (lambda: one.post(b"", wrong), lambda: one.try_post(b"", wrong), lambda: ringport.wait_any(wrong, 0),
                         lambda: asyncio.run(one.post_async(b"", wrong))):
                with self.assertRaises(TypeError):
                    call()
        self.assertEqual(bytes(gift.recv(0)), b"kept")
        self.assertIsNone(two.recv(0))


class Reserving(Case):
    def test_what_is_written_in_place_arrives(self):
        one, two = channel()
        with one.reserve(5) as view:
            self.assertFalse(view.readonly)
            view[:] = b"hello"
            self.assertIsNone(two.try_recv())
        self.assertEqual(bytes(two.recv()), b"hello")
        with self.assertRaises(ValueError):
            view[0] = 1

    def test_floats_are_written_without_a_copy(self):
        one, two = channel()
        with one.reserve(16) as view, view.cast("d") as floats:
            floats[0], floats[1] = 0.5, -1.0
        with two.recv() as message, message.data.cast("d") as floats:
            self.assertEqual(floats.tolist(), [0.5, -1.0])

    def test_a_block_that_raises_posts_nothing(self):
        one, two = channel()
        with self.assertRaises(KeyError):
            with one.reserve(5) as view:
                view[:] = b"never"
                raise KeyError
        one.post(b"next")
        self.assertEqual(bytes(two.recv()), b"next")

    def test_memory_that_is_still_in_use_is_not_posted(self):
        one, two = channel()
        for part_of in (lambda view: view[1:], lambda view: memoryview(view), lambda view: (ctypes.c_char * 5).from_buffer(view),
                        lambda view: memoryview(pickle.PickleBuffer(view))):
            reservation = one.reserve(5)
            with self.assertRaises(BufferError):
                with reservation as view:
                    part = part_of(view)
            with self.assertRaises(ringport.Busy):
                one.try_post(b"")
            part[0:1] = b"x" if not isinstance(part, ctypes.Array) else [b"x"]
            del part, view
            self.assertIsNone(two.try_recv())
            one.post(b"free again")
            self.assertEqual(bytes(two.recv()), b"free again")

    def test_memory_outlives_the_port(self):
        one, two = channel()
        with self.assertRaises(BufferError):
            with one.reserve(5) as view:
                part = view[1:]
        del view
        one.close()
        self.assertCloses(two, CloseReason.CLOSED_BY_PEER)
        del one, two
        gc.collect()
        part[:] = b"safe"
        self.assertEqual(bytes(part), b"safe")

    def test_s11_a_reservation_waits_for_room(self):
        one, two = channel(4096)
        fill(one)
        with self.assertRaises(ringport.Full):
            with one.reserve(200, timeout=0.01):
                self.fail("there was no room")
        threading.Thread(target=lambda: [two.recv() for _ in range(10)]).start()
        with one.reserve(200, timeout=BOUND) as view:
            view[:] = bytes(200)

    def test_a_port_closed_meanwhile_posts_nothing(self):
        one, two = channel()
        with self.assertRaises(Closed) as caught:
            with one.reserve(4):
                one.close()
        self.assertEqual(caught.exception.reason, CloseReason.CLOSED_HERE)
        self.assertCloses(two, CloseReason.CLOSED_BY_PEER)

    def test_a_batch_is_seen_at_once_or_not_at_all(self):
        one, two = channel()
        with one.batch() as batch:
            for number in range(10):
                batch.post(b"%d" % number)
            with self.assertRaises(ringport.Busy):
                one.post(b"")
            self.assertIsNone(two.try_recv())
        self.assertEqual([bytes(two.try_recv()) for _ in range(10)], [b"%d" % number for number in range(10)])
        with self.assertRaises(KeyError):
            with one.batch() as batch:
                batch.post(b"never")
                raise KeyError
        self.assertRefused(Status.INVALID, batch.post, b"too late")
        with one.batch():
            pass
        self.assertIsNone(two.try_recv())

    def test_a_full_batch_keeps_what_it_has(self):
        one, two = channel(4096)
        with one.batch() as batch:
            count = 0
            with self.assertRaises(ringport.Full):
                while True:
                    batch.post(bytes(200))
                    count += 1
        self.assertEqual(one.stats().messages_posted, count)
        self.assertEqual([len(two.try_recv()) for _ in range(count)], [200] * count)


    def test_what_is_too_long_is_refused_before_anything_is_reserved(self):
        one, two = channel()
        for length, error in ((2**64, ringport.TooLarge), (one.max_message_len + 1, ringport.TooLarge), (-1, ValueError)):
            with self.subTest(length), self.assertRaises(error):
                with one.reserve(length):
                    self.fail("it cannot be")
        one.post(b"goes")
        self.assertEqual(bytes(two.recv(0)), b"goes")

    def test_a_reservation_that_is_dropped_unfinished_is_none(self):
        one, two = channel()
        reservation = one.reserve(8)
        reservation.__enter__()
        with self.assertRaises(ringport.Busy):
            one.post(b"kept out")
        del reservation
        one.post(b"goes")
        self.assertEqual(bytes(two.recv(0)), b"goes")


    def test_only_one_is_open_at_a_time(self):
        one, two = channel()
        for first in one.batch(), one.reserve(8):
            with first:
                for second in first, one.batch(), one.reserve(8):
                    with self.assertRaises(ringport.Busy):
                        second.__enter__()
                    del second
        with one.reserve(8):
            pass
        self.assertEqual(one.stats().messages_posted, 2)

    def test_who_has_ended_does_not_meddle_with_the_next(self):
        one, two = channel()
        with one.reserve(1) as room:
            room[:] = b"1"
        late = one.reserve(1)
        with late:
            pass
        with one.batch() as ended:
            pass
        with one.batch() as batch:
            batch.post(b"2")
            self.assertRefused(Status.INVALID, late.__exit__, None, None, None)
            self.assertRefused(Status.INVALID, ended.post, b"no")
        self.assertEqual([bytes(message)[:1] for message in iter(two.try_recv, None)][::2], [b"1", b"2"])

    def test_what_is_left_of_one_does_not_write_into_others(self):
        one, two = channel()
        view = one.reserve(16).__enter__()
        one.try_post(b"A" * 16)
        with self.assertRaises(ValueError):
            view[:] = b"B" * 16
        self.assertEqual(bytes(two.recv(0)), b"A" * 16)


class Messages(Case):
    """The memory of a message, and who may look at it how long."""

    def setUp(self):
        super().setUp()
        self.one, self.two = channel(4096)

    def tearDown(self):
        del self.one, self.two
        super().tearDown()

    def lent(self, data):
        """A message in place; as long as it is, there is no room for another like it."""
        self.two.trust_peer()
        data = data.ljust(self.one.max_message_len)
        self.one.post(data)
        message = self.two.recv()
        self.assertTrue(message.in_place)
        self.one.post(data)
        with self.assertRaises(ringport.Full):
            self.one.try_post(data)
        return message, data

    def has_room(self):
        self.two.try_recv()  # the second one, so that the first is the oldest held
        try:
            self.one.try_post(bytes(self.one.max_message_len))
        except ringport.Full:
            return False
        return True

    def test_data_is_read_only_and_the_same_memory_each_time(self):
        self.one.post(b"hello")
        message = self.two.recv()
        self.assertFalse(message.in_place)
        self.assertIs(message.data, message.data)
        self.assertEqual((message.data.format, message.data.readonly, message.data[0]), ("B", True, 104))
        with self.assertRaises(TypeError):
            message.data[0] = 1

    def test_a_released_message_shows_nothing(self):
        message, _ = self.lent(b"in place")
        view = message.data
        with message:
            self.assertEqual(bytes(view[:8]), b"in place")
        for use in (lambda: view[0], lambda: bytes(view), lambda: message.data, lambda: len(message), lambda: bytes(message),
                    lambda: message.ports, lambda: message.in_place, message.make_owned):
            with self.assertRaises(ValueError):
                use()
        message.release()
        self.assertTrue(self.has_room())

    def test_it_cannot_be_released_while_parts_are_in_use(self):
        makers = {"slice": lambda view: view[2:5], "cast": lambda view: view.cast("b"), "view": memoryview,
                  "export": lambda view: pickle.PickleBuffer(view),
                  "slice of a slice": lambda view: view[1:][1:]}
        message, data = self.lent(b"in place")
        for name, make in makers.items():
            with self.subTest(name):
                part = make(message.data)
                for _ in range(2):
                    with self.assertRaises(BufferError):
                        message.release()
                    self.assertEqual(bytes(message), data)
                self.assertIn(bytes(memoryview(part).cast("B"))[-10:], data)
                del part
        message.release()
        self.assertTrue(self.has_room())

    def test_the_message_lives_as_long_as_a_part_of_it(self):
        message, data = self.lent(b"in place")
        part = message.data[:8]
        del message
        gc.collect()
        self.assertFalse(self.has_room())
        self.assertEqual(bytes(part), b"in place")
        del part
        self.assertTrue(self.has_room())

    def test_it_outlives_its_port_and_the_channel(self):
        message, data = self.lent(b"in place")
        self.one, self.two = channel()
        gc.collect()
        self.assertEqual(bytes(message), data)
        part = message.data[3:8]
        del message
        gc.collect()
        self.assertEqual(bytes(part), b"place")

    def test_an_error_in_the_block_is_not_hidden_by_a_part_in_use(self):
        message, _ = self.lent(b"in place")
        with self.assertRaises(KeyError):
            with message:
                part = message.data[1:]
                raise KeyError
        with self.assertRaises(BufferError):
            with message:
                pass
        del part
        with message:
            pass
        self.assertTrue(self.has_room())

    def test_finalizers_of_the_same_garbage_still_see_it(self):
        seen = []

        class Node:
            def __del__(this):
                seen.append((self.has_room(), bytes(this.part)))

        for first in (True, False):  # whichever is older is finalized first
            node = Node() if first else None
            message, data = self.lent(b"in place")
            node = node or Node()
            node.node, node.message, node.part = node, message, message.data[:8]
            del node, message
            gc.collect()
            self.assertEqual(seen.pop(), (False, b"in place"))
            self.assertTrue(self.has_room())
            while self.two.try_recv():
                pass
            self.one, self.two = channel(4096)

    def test_cycles_are_collected(self):
        self.one.post(b"", [channel()[0]])
        message = self.two.recv()
        port, = message.ports
        cycle = [message, port]
        cycle.append(cycle)
        seen = weakref.ref(port)
        del message, port, cycle
        gc.collect()
        self.assertIsNone(seen())

    def test_s21_several_are_held_at_once(self):
        for trusted in (False, True):
            if trusted:
                self.two.trust_peer()
            for number in range(5):
                self.one.post(b"%d" % number)
            held = [self.two.recv() for _ in range(5)]
            self.assertEqual([message.in_place for message in held], [trusted] * 5)
            del held[2]
            self.assertEqual([bytes(message) for message in held], [b"0", b"1", b"3", b"4"])
        del held
        for number in range(1000):
            self.one.post(b"%d" % number, timeout=BOUND)
            last = self.two.recv()  # the one before is freed after this one has come
        self.assertEqual(bytes(last), b"999")

    def test_an_owned_message_leaves_the_ring(self):
        message, data = self.lent(b"in place")
        part = message.data[1:]
        with self.assertRaises(BufferError):
            message.make_owned()
        del part
        message.make_owned()
        self.assertFalse(message.in_place)
        self.assertTrue(self.has_room())
        self.assertEqual(bytes(message), data)

    def test_another_thread_may_end_it(self):
        message, data = self.lent(b"in place")
        box = [message]
        del message
        thread = threading.Thread(target=box.clear)
        thread.start()
        thread.join()
        self.assertTrue(self.has_room())

    def test_archives_are_read_in_place(self):
        vector = struct.pack("<3q", 1, -2, 3) + struct.pack("<iI", -24, 3)
        for data in (b"hello\xff\xff\xff", vector, struct.pack("<iI", 0, 0)):
            self.one.post(data)
        with self.two.recv() as message:
            self.assertEqual(message.archived_string(-8), "hello")
            self.assertEqual(message.archived_string(0), "hello")
            for offset in (-16, 4, 8, 2**40):
                self.assertRefused(Status.BAD_ARCHIVE, message.archived_string, offset)
        with self.two.recv() as message:
            with message.archived_slice(-8, "q") as numbers:
                self.assertEqual(numbers.tolist(), [1, -2, 3])
            self.assertRefused(Status.BAD_ARCHIVE, message.archived_slice, 8, "q")
            self.assertRefused(Status.BAD_ARCHIVE, message.archived_string, -8)
        with self.two.recv() as message:
            self.assertEqual(len(message.archived_slice(-8, "q")), 0)


    def test_the_list_of_ports_is_the_takers(self):
        one, two = channel()
        one.post(b"", [channel()[0] for _ in range(2)])
        message = two.recv(0)
        first = message.ports.pop(0)
        self.assertEqual(message.ports[0], first)
        self.assertEqual(len(message.ports), 2)

    def test_formats_of_elements_are_those_of_memoryview(self):
        one, two = channel()
        one.post(struct.pack("<3iiI", 1, 2, 3, -12, 3))
        message = two.recv(0)
        self.assertEqual(list(message.archived_slice(-8, "i")), [1, 2, 3])
        for format in "<i", "ii", "3s", "":
            with self.subTest(format), self.assertRaises(ValueError):
                message.archived_slice(-8, format)
        for offset in 2**64, -2**64, 21, -21:
            with self.subTest(offset), self.assertRaises(ringport.Error):
                message.archived_slice(offset, "i")


class Receiving(Case):
    def test_s17_recv_waits_as_long_as_it_is_told(self):
        one, two = channel()
        for strategy in WaitStrategy:
            two.wait_strategy = strategy
            self.assertEqual(two.wait_strategy, strategy)
            start = time.monotonic()
            self.assertIsNone(two.recv(timeout=0.05))
            self.assertGreaterEqual(time.monotonic() - start, 0.05)
            self.assertIsNone(two.recv(timeout=0))
            self.assertIsNone(two.recv(timeout=-1))

    def test_a_waiting_recv_lets_other_threads_run_and_is_woken(self):
        for strategy in WaitStrategy:
            one, two = channel()
            two.wait_strategy = strategy
            received = []
            thread = threading.Thread(target=lambda: received.append(bytes(two.recv(float("inf")))))
            thread.start()
            if strategy != WaitStrategy.SPIN:
                wait_until(lambda: is_asleep(os.getpid(), thread.native_id))
            one.post(b"wake")
            thread.join(BOUND)
            self.assertEqual(received, [b"wake"])

    def test_the_port_works_with_selectors(self):
        one, two = channel()
        with selectors.DefaultSelector() as selector:
            selector.register(two, selectors.EVENT_READ)
            self.assertFalse(two.arm())
            self.assertEqual(selector.select(0), [])
            one.post(b"news")
            (key, _), = selector.select(BOUND)
            self.assertIs(key.fileobj, two)
            self.assertTrue(two.arm(Interest.MESSAGE))
            self.assertEqual(bytes(two.try_recv()), b"news")
            fill(one, bytes(1000))
            self.assertFalse(one.arm(Interest.ROOM, 1000))
            selector.register(one, selectors.EVENT_READ)
            while two.try_recv():
                pass
            self.assertIn(one, [key.fileobj for key, _ in selector.select(BOUND)])
            self.assertTrue(one.arm(Interest.MESSAGE | Interest.ROOM, 1000))

    def test_wait_any_names_the_one_that_is_ready_in_turns(self):
        pairs = [channel() for _ in range(3)]
        ports = [two for _, two in pairs]
        self.assertIsNone(ringport.wait_any([]))
        self.assertIsNone(ringport.wait_any(ports, timeout=0.01))
        thread = threading.Thread(target=lambda: (wait_until(lambda: is_asleep(os.getpid(), main)), pairs[1][0].post(b"x")))
        main = threading.get_native_id()
        thread.start()
        self.assertIs(ringport.wait_any(ports, BOUND), ports[1])
        thread.join()
        for one, _ in pairs:
            one.post(b"y")
        self.assertEqual({id(ringport.wait_any(ports)) for _ in range(6)}, set(map(id, ports)))
        pairs[0][0].close()
        self.assertIs(ringport.wait_any(ports[:1]), ports[0])

    def test_stats_and_pending_tell_what_went_through(self):
        one, two = channel(8192, capacity_2_to_1=4096)
        self.assertEqual((one.capacity, two.capacity), (8192, 4096))
        one.post(b"12345")
        self.assertGreaterEqual(two.pending, 5)
        two.recv()
        self.assertEqual(two.pending, 0)
        self.assertEqual((one.stats().messages_posted, one.stats().bytes_posted, two.stats().bytes_received), (1, 5, 5))
        self.assertIn("8192", repr(one))

    def test_a_port_closed_at_the_worst_moment_breaks_nothing(self):
        """By another thread or a signal's handler, after the call has found it open."""
        def close(frame, event, _):
            if event == "return" and frame.f_code is Port._live.__code__:
                sys.setprofile(None)
                port.close()

        for call in (lambda: port.arm(), lambda: port.try_recv(), lambda: port.post(b""), lambda: port.fileno(),
                     lambda: port.stats(), lambda: port.reserve(1).__enter__()):
            port, peer = channel()
            sys.setprofile(close)
            try:
                call()
            except ringport.Error as error:
                self.assertEqual(error.status, Status.CLOSED)
            else:
                self.assertEqual(port.close_reason, CloseReason.CLOSED_HERE)
            finally:
                sys.setprofile(None)
            self.assertCloses(peer, CloseReason.CLOSED_BY_PEER)

    def test_two_threads_on_one_port_break_nothing(self):
        one, two = channel(1 << 20)
        total, received = 300, []
        # Long enough to copy that two would meet.
        kinds = [bytes([kind]) * 100_000 for kind in (1, 2)]

        def post(data):
            for _ in range(total):
                one.post(data, timeout=BOUND)

        def receive():
            for _ in range(total):
                with two.recv(BOUND) as message:
                    received.append(bytes(message))

        threads = [threading.Thread(target=post, args=(data,)) for data in kinds]
        threads += [threading.Thread(target=receive) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([received.count(data) for data in kinds], [total, total])


    def test_a_signal_handler_may_use_the_port_that_is_waited_for(self):
        one, two = channel()

        def interrupted(*_):
            one.post(b"from the handler")
            two.post(b"the answer")

        one.wait_strategy = WaitStrategy.BLOCK
        before = signal.signal(signal.SIGALRM, interrupted)
        try:
            for wait in one.recv, lambda timeout: ringport.wait_any([one], timeout):
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                self.assertIsNotNone(wait(BOUND))
                with two.recv(0) as message:
                    self.assertEqual(bytes(message), b"from the handler")
        finally:
            signal.signal(signal.SIGALRM, before)

    def test_who_waits_in_one_thread_hears_of_it_while_others_use_the_port(self):
        one, two = channel(4096)
        one.wait_strategy = WaitStrategy.BLOCK
        fill(one)
        received, posted = [], threading.Event()

        def receive():
            received.append(bytes(one.recv(BOUND)))

        def post():
            one.post(bytes(1000), timeout=BOUND)
            posted.set()

        threads = [threading.Thread(target=work) for work in (receive, post)]
        for thread in threads:
            thread.start()
            wait_until(lambda: is_asleep(os.getpid(), thread.native_id))
        # Calls of a third, which fail or not.
        with self.assertRaises(ringport.Full):
            one.try_post(bytes(1000))
        with self.assertRaises(ringport.TooLarge):
            one.try_post(bytes(5000))
        two.post(b"for the first")
        threads[0].join(BOUND)
        self.assertEqual(received, [b"for the first"])
        self.assertFalse(posted.is_set())
        while two.try_recv() is not None:
            pass
        self.assertTrue(posted.wait(BOUND))
        threads[1].join()


    def test_a_call_that_is_interrupted_leaves_others_listening(self):
        def interrupted(call, *arguments):
            call(*arguments)
            raise KeyboardInterrupt

        for name, call in (("post", lambda port: port.try_post(b"")), ("reserve", lambda port: port.reserve(1).__enter__()),
                           ("recv", lambda port: port.try_recv()), ("port_arm", lambda port: port.arm())):
            one, two = channel()
            one.wait_strategy = WaitStrategy.BLOCK
            received = []
            thread = threading.Thread(target=lambda: received.append(bytes(one.recv(BOUND))))
            thread.start()
            wait_until(lambda: is_asleep(os.getpid(), thread.native_id))
            with self.instead(name, interrupted), self.assertRaises(KeyboardInterrupt):
                call(one)
            two.post(b"awake?")
            thread.join()
            self.assertEqual(received, [b"awake?"], name)

    def test_no_timeout_is_not_a_number(self):
        one, two = channel()
        socks = socket.socketpair()
        for strategy in WaitStrategy:
            one.wait_strategy = strategy
            for call in (one.recv, lambda timeout: ringport.wait_any([one], timeout),
                         lambda timeout: Port.receive_over(socks[0], timeout)):
                with self.assertRaises(ValueError):
                    call(float("nan"))
        for sock in socks:
            sock.close()


class Interrupted(Case):
    """Whatever a signal handler raises, and wherever, costs no more than the call that it comes into."""

    class Stop(BaseException):
        pass

    def steps(self, act):
        """Does it with an exception at the first step of the module's code, at the second, and so on, until all have gone
        through. A step is where the interpreter calls signal handlers: on entering a function, and after a call into C."""
        for last in range(2000):
            left = last

            def step():
                nonlocal left
                left -= 1
                if left == -1:
                    raise self.Stop

            def profile(frame, event, _):
                if frame.f_code.co_filename == ringport.__file__ and event in ("call", "c_return", "c_exception"):
                    step()

            class Library:
                # Those calls a profiler does not see.
                def __getattr__(self, name, library=ringport._lib):
                    def call(*arguments):
                        answer = getattr(library, name)(*arguments)
                        if sys.getprofile() is not None:
                            step()
                        return answer
                    return call

            # Of what is raised in a finalizer Python only says so.
            with unittest.mock.patch.object(ringport, "_lib", Library()), \
                    unittest.mock.patch.object(sys, "unraisablehook", lambda _: None):
                sys.setprofile(profile)
                try:
                    act()
                except self.Stop:
                    pass
                finally:
                    sys.setprofile(None)
            yield last
            if left >= 0:
                return
        self.fail("it never ends")

    def assertUsable(self, one, two, step):
        """The port posts, others see that, and the other end still has what waits there, in order and once."""
        one.try_post(b"after")
        seen = [bytes(message) for message in iter(two.try_recv, None)]
        self.assertEqual(seen.pop(), b"after", step)
        self.assertEqual((one._sleepers, two._sleepers), ({}, {}), step)
        return seen

    def test_posting(self):
        one, two = channel(4096)

        def batch():
            with one.batch() as several:
                several.post(b"1")
                several.post(b"2")

        def reserve():
            with one.reserve(1) as room:
                room[:] = b"1"

        whole = {batch: [b"1", b"2"], reserve: [b"1"], lambda: one.post(b"1"): [b"1"]}
        for act, posted in whole.items():
            seen = []
            for step in self.steps(act):
                seen = self.assertUsable(one, two, step)
                self.assertIn(seen, ([], posted), step)
            self.assertEqual(seen, posted)

    def test_waiting(self):
        one, two = channel(4096)
        one.wait_strategy = two.wait_strategy = WaitStrategy.BLOCK
        for act in (lambda: two.recv(1e-4), lambda: ringport.wait_any([two], 1e-4)):
            for step in self.steps(act):
                self.assertEqual(self.assertUsable(one, two, step), [])
        fill(one)
        for act in (lambda: one.post(bytes(200), timeout=1e-4), lambda: one.reserve(200, 1e-4).__enter__()):
            def fails(act=act):
                with self.assertRaises(ringport.Full):
                    act()

            for step in self.steps(fails):
                with self.assertRaises(ringport.Full, msg=step):
                    one.try_post(bytes(200))
                self.assertEqual(one._sleepers, {}, step)

    def test_who_waits_is_told(self):
        carrier, end = channel()

        def waiting():
            one, two = channel()
            one.wait_strategy = WaitStrategy.BLOCK
            told = []

            def wait():
                try:
                    one.recv(BOUND)
                except (Closed, ringport.Detached) as error:
                    told.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            wait_until(lambda: is_asleep(os.getpid(), thread.native_id))
            return one, two, thread, told

        for leave in (lambda port: port.close(), lambda port: carrier.try_post(b"", [port])):
            one, two, thread, told = waiting()
            for step in self.steps(lambda: leave(one)):
                one.close()
                thread.join(SOON)
                self.assertEqual(len(told), 1, step)
                while end.try_recv() is not None:
                    pass
                one, two, thread, told = waiting()
            one.close()
            thread.join()

    def test_ports_come_and_go(self):
        one, two = channel()

        def act():
            with channel(4096)[0] as gift:
                one.try_post(b"", [gift])
            with two.try_recv() as message:
                message.ports

        for step in self.steps(act):
            self.assertUsable(one, two, step)
            gc.collect()
            opened = [fd for fd in descriptors() if fd not in self.open_before]
            self.assertEqual(len(opened), 4, f"step {step}: not only this channel's own are open")

    def test_the_other_ports_of_a_message(self):
        one, two = channel()
        one.post(b"", [channel()[0] for _ in range(3)])
        message, times = two.recv(), [0]

        def interrupted(take, *arguments):
            status = take(*arguments)
            times[0] += 1
            if times[0] == 2:
                raise self.Stop
            return status

        with self.instead("message_take_port", interrupted):
            with self.assertRaises(self.Stop):
                message.ports
            ports = message.ports
        self.assertEqual(len(ports), 2)
        self.assertEqual(message.ports, ports)


class Closing(Case):
    def test_s47_close_is_for_both_ends_and_idempotent(self):
        one, two = channel()
        self.assertIsNone(one.close_reason)
        one.close()
        one.close()
        self.assertEqual(one.close_reason, CloseReason.CLOSED_HERE)
        self.assertCloses(two, CloseReason.CLOSED_BY_PEER)
        with self.assertRaises(Closed) as caught:
            one.post(b"")
        self.assertEqual((caught.exception.reason, caught.exception.status), (CloseReason.CLOSED_HERE, Status.CLOSED))
        with self.assertRaises(Closed):
            two.post(b"")

    def test_s47_the_end_of_a_block_and_of_an_object_close(self):
        with channel()[0] as one:
            pass
        one, two = channel()
        with one:
            one.post(b"last")
        self.assertEqual([bytes(message) for message in two], [b"last"])
        one, two = channel()
        del one
        self.assertCloses(two, CloseReason.CLOSED_BY_PEER)

    def test_close_gives_the_descriptors_back(self):
        before = len(descriptors())
        one, two = channel()
        one.fileno()
        one.close()
        two.close()
        self.assertEqual(len(descriptors()), before)

    def test_s48_what_was_posted_before_arrives_and_s50_nothing_after(self):
        one, two = channel()
        for number in range(3):
            one.post(b"%d" % number)
        one.close()
        with self.assertRaises(Closed):
            one.post(b"late")
        self.assertEqual([bytes(message) for message in two], [b"0", b"1", b"2"])
        for _ in range(2):
            self.assertCloses(two, CloseReason.CLOSED_BY_PEER)

    def test_s49_what_the_closing_side_has_not_read_is_discarded(self):
        one, two = channel()
        two.post(b"unread", [channel()[0]])
        one.close()
        with self.assertRaises(Closed):
            one.try_recv()

    def test_s44_ports_that_nobody_takes_are_closed(self):
        one, two = channel()
        gift, friend = channel()
        one.post(b"", [gift])
        with two.recv():
            pass
        self.assertCloses(friend, CloseReason.CLOSED_BY_PEER)

    def test_ports_that_were_taken_outlive_the_message(self):
        one, two = channel()
        gift, friend = channel()
        one.post(b"", [gift])
        with two.recv() as message:
            taken = message.ports
            self.assertEqual(message.ports, taken)
        friend.post(b"hello")
        self.assertEqual(bytes(taken[0].recv(BOUND)), b"hello")

    def test_s51_a_killed_process_has_posted_what_it_has_posted(self):
        port, child = start("flood")
        numbers = [struct.unpack("<I", message.data)[0] for message in port]
        self.assertEqual(numbers, list(range(1000)))
        self.assertEqual(port.close_reason, CloseReason.PEER_GONE)
        self.assertEqual(child.wait(BOUND), -signal.SIGKILL)
        self.assertEqual(child.returncode, -signal.SIGKILL)

    def test_s52_a_waiting_recv_learns_of_a_death_at_once(self):
        port, child = start("hold")
        self.assertEqual(bytes(port.recv(BOUND)), b"ready")
        self.assertIsNone(child.poll())
        self.assertIsNone(child.wait(0.01))
        main, killed = threading.get_native_id(), []

        def kill():
            wait_until(lambda: is_asleep(os.getpid(), main))
            killed.append(time.monotonic())
            child.kill()

        port.wait_strategy = WaitStrategy.BLOCK
        thread = threading.Thread(target=kill)
        thread.start()
        with self.assertRaises(Closed) as caught:
            port.recv()
        self.assertLess(time.monotonic() - killed[0], SOON)
        thread.join()
        self.assertEqual(caught.exception.reason, CloseReason.PEER_GONE)
        self.assertEqual(child.wait(BOUND), -signal.SIGKILL)

    def test_s63_a_forked_child_is_told_and_harms_nobody(self):
        one, two = channel()
        one.post(b"for the parent")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for call in (two.recv, lambda: one.post(b""), two.fileno):
                    try:
                        call()
                    except ringport.Forked:
                        continue
                    os._exit(2)
                del one, two
                gc.collect()
                status = 0
            finally:
                os._exit(status)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        self.assertEqual(bytes(two.recv(BOUND)), b"for the parent")
        one.post(b"works")
        self.assertEqual(bytes(two.recv(BOUND)), b"works")


    def test_s63_a_forked_child_leaves_its_parents_tasks_alone(self):
        async def main(task):
            two.post(b"awake?")
            return await asyncio.wait_for(task, BOUND)

        def close():
            one.close()

        def drop():
            nonlocal one, task
            del one, task
            gc.collect()

        for leave in close, drop:
            one, two = channel()
            loop = asyncio.new_event_loop()
            task = loop.create_task(one.recv_async())
            for _ in range(3):
                loop.run_until_complete(asyncio.sleep(0))
            pid = os.fork()
            if pid == 0:
                try:
                    leave()
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
            with self.subTest(leave.__name__):
                self.assertEqual(bytes(loop.run_until_complete(main(task))), b"awake?")
            loop.close()


class Moving(Case):
    def test_s33_waiting_messages_go_with_the_port(self):
        carrier, end = channel()
        gift, friend = channel()
        for number in range(10):
            friend.post(b"%d" % number)
        carrier.post(b"take this", [gift])
        friend.post(b"10")
        with end.recv() as message:
            port, = message.ports
        self.assertEqual([bytes(port.recv(BOUND)) for _ in range(11)], [b"%d" % number for number in range(11)])

    def test_s35_s36_a_port_works_through_processes_that_end(self):
        port, child = start("hop")
        gift, friend = channel()
        friend.post(b"posted before")
        port.post(bytes([3]), [gift])
        self.assertEqual([bytes(friend.recv(BOUND)) for _ in range(4)], [b"3", b"2", b"1", b"0"])
        self.assertEqual(bytes(port.recv(BOUND)), b"arrived")
        self.ended(child)
        self.assertEqual(bytes(friend.recv(BOUND)), b"posted before")
        for number in range(100):
            friend.post(b"%d" % number)
            self.assertEqual(bytes(friend.recv(BOUND)), b"%d" % number)
        friend.close()

    def test_descriptors_make_a_port_again(self):
        one, two = channel()
        one.post(b"waits")
        fds = two.into_fds()
        with self.assertRaises(ringport.Detached):
            two.recv()
        two = Port.from_fds(*fds)
        self.assertEqual(bytes(two.recv()), b"waits")
        read, write = os.pipe()
        self.assertRefused(Status.NOT_A_PORT, Port.from_fds, read, write)
        os.close(read)  # still the caller's
        os.close(write)

    def test_a_subprocess_is_given_descriptors(self):
        code = ("import ringport, sys\n"
                "with ringport.Port.from_fds(*map(int, sys.argv[1:])) as port:\n"
                "    for message in port: port.post(message.data)\n")
        one, two = channel()
        fds = two.into_fds()
        with python(code, *fds, pass_fds=fds) as child:
            for fd in fds:
                os.close(fd)
            one.post(b"hello")
            self.assertEqual(bytes(one.recv(BOUND)), b"hello")
            one.close()
            self.assertEqual((child.wait(BOUND), child.stderr.read()), (0, b""))

    def test_a_socket_carries_a_port(self):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
            near, far = socket.socketpair(socket.AF_UNIX, kind)
            with near, far:
                one, two = channel()
                one.post(b"waits")
                two.send_over(near)
                self.assertRefused(Status.DETACHED, two.try_recv)
                two = Port.receive_over(far, BOUND)
                self.assertEqual(bytes(two.recv()), b"waits")
                with self.assertRaises(TimeoutError):
                    Port.receive_over(far, 0.01)
                two.close()
                with self.assertRaises(Closed):
                    two.send_over(near)

    def test_who_receives_over_a_socket_waits_as_long_as_told_though_others_are_quicker(self):
        near, far = socket.socketpair()
        taken, look = [], ringport._poll

        def others_are_quicker(*arguments):
            there = look(*arguments)
            if there and not taken:
                taken.append(None)
                taken[0] = Port.receive_over(far)
            return there

        channel()[0].send_over(near)
        with unittest.mock.patch.object(ringport, "_poll", others_are_quicker), self.assertRaises(TimeoutError):
            Port.receive_over(far, timeout=0.02)
        self.assertIsInstance(taken[0], Port)
        near.close()
        with self.assertRaises(Closed) as caught:
            Port.receive_over(far)
        self.assertEqual(caught.exception.reason, CloseReason.CLOSED_BY_PEER)
        far.close()

    def test_in_place_messages_keep_the_port_here(self):
        one, two = channel()
        two.trust_peer()
        one.post(b"held")
        message = two.recv()
        carrier, _end = channel()
        for call in (two.into_fds, lambda: carrier.post(b"", [two]), lambda: multiprocessing.reduction.ForkingPickler.dumps(two)):
            with self.assertRaises(ringport.Busy):
                call()
        message.release()
        one.post(b"still here")
        self.assertEqual(bytes(two.recv()), b"still here")

    def test_spawn_starts_a_worker(self):
        port, child = start("echo")
        gift, friend = channel()
        port.post(b"hello", [gift])
        with port.recv(BOUND) as message:
            self.assertEqual(bytes(message), b"hello")
            back, = message.ports
        friend.post(b"through")
        self.assertEqual(bytes(back.recv(BOUND)), b"through")
        port.close()
        self.ended(child)
        self.assertIsNone(ringport.parent_port())

    def test_spawn_sets_environment_directory_and_streams(self):
        with tempfile.TemporaryFile() as out, tempfile.TemporaryDirectory() as directory:
            code = "import os; print(os.environ['WORD'], os.getcwd(), flush=True)"
            port, child = ringport.spawn([sys.executable, "-c", code], env=dict(environment(), WORD="word"), cwd=directory,
                                         stdout=out)
            self.ended(child)
            out.seek(0)
            self.assertEqual(out.read().decode().split(), ["word", directory])
            self.assertCloses(port, CloseReason.PEER_GONE)
        self.assertRefused(Status.SPAWN, ringport.spawn, ["/nonexistent/program"])


class Multiprocessing(Case):
    def run_echo(self, process, port):
        process.start()
        port.post(b"hello")
        self.assertEqual(bytes(port.recv(BOUND)), b"hello")
        port.close()
        process.join(BOUND)
        self.assertEqual(process.exitcode, 0)
        process.close()

    def test_a_port_is_an_argument_of_a_process(self):
        for method in ("spawn", "forkserver"):
            with self.subTest(method):
                context = multiprocessing.get_context(method)
                one, two = channel()
                self.run_echo(context.Process(target=echo, args=(two,)), one)
                with self.assertRaises(ringport.Detached):
                    two.try_recv()

    def test_a_port_goes_through_a_pipe_and_a_queue(self):
        for method in ("spawn", "forkserver"):
            context = multiprocessing.get_context(method)
            near, far = context.Pipe()
            one, two = channel()
            near.send(two)
            with self.assertRaises(ringport.Detached):
                two.try_recv()
            self.run_echo(context.Process(target=take_and_echo, args=(far,)), one)
            near.close()
            far.close()
        queue = multiprocessing.get_context("spawn").SimpleQueue()
        one, two = channel()
        queue.put(two)
        moved = queue.get()
        moved.post(b"moved")
        self.assertEqual(bytes(one.recv(BOUND)), b"moved")
        queue.close()

    def test_s51_the_death_of_its_holder_is_noticed_at_once(self):
        """So nothing that multiprocessing keeps here is an end of the channel."""
        context = multiprocessing.get_context("spawn")
        for by_pipe in (False, True):
            near, far = context.Pipe()
            one, two = channel()
            process = context.Process(target=take_and_hold if by_pipe else hold, args=(far if by_pipe else two,))
            process.start()
            if by_pipe:
                near.send(two)
            self.assertEqual(bytes(one.recv(BOUND)), b"ready")
            process.kill()
            self.assertCloses(one, CloseReason.PEER_GONE)
            process.join(BOUND)
            process.close()
            near.close()
            far.close()
            del process

    def test_what_is_never_unpickled_is_closed(self):
        context = multiprocessing.get_context("spawn")
        one, two = channel()
        process = context.Process(target=keep, args=(Deadly(), two))
        process.start()
        process.join(BOUND)
        self.assertEqual(process.exitcode, 3)
        process.close()
        del process
        gc.collect()
        self.assertCloses(one, CloseReason.PEER_GONE)

        one, two = channel()
        multiprocessing.reduction.ForkingPickler.dumps(two)
        self.assertIsNone(one.close_reason)
        multiprocessing.resource_sharer.stop()  # as the end of this process would
        self.assertCloses(one, CloseReason.PEER_GONE)

    def test_nothing_else_pickles_or_copies_a_port(self):
        one, two = channel()
        two.post(b"")
        with ringport.listen(f"/tmp/ringport-test-{os.getpid()}") as listener:
            for single in one, one.recv(), listener, one.batch(), one.reserve(1):
                for call in (pickle.dumps, copy.copy, copy.deepcopy):
                    with self.assertRaises(TypeError):
                        call(single)
        one.post(b"still here")

    def test_errors_can_be_pickled(self):
        one, two = channel()
        two.close()
        with self.assertRaises(Closed) as caught:
            one.recv()
        copied = pickle.loads(pickle.dumps(caught.exception))
        self.assertEqual((type(copied), copied.reason, str(copied)), (Closed, CloseReason.CLOSED_BY_PEER, str(caught.exception)))


class Meeting(Case):
    def setUp(self):
        super().setUp()
        self.directory = tempfile.TemporaryDirectory()
        self.address = os.path.join(self.directory.name, "socket")

    def tearDown(self):
        self.directory.cleanup()
        super().tearDown()

    def test_strangers_meet_at_a_listener(self):
        code = "import ringport, sys\nport = ringport.connect(sys.argv[1])\nport.post(b'hello')\nport.recv(20)\n"
        with ringport.listen(self.address) as listener:
            self.assertEqual(listener.path, self.address)
            self.assertIsNone(listener.accept(0.01))
            with python(code, self.address) as child:
                port, client = listener.accept(BOUND)
                self.assertEqual(client, (child.pid, os.getuid(), os.getgid()))
                self.assertEqual(bytes(port.recv(BOUND)), b"hello")
                port.post(b"bye")
                self.assertEqual((child.wait(BOUND), child.stderr.read()), (0, b""))
            self.assertRefused(Status.IN_USE, ringport.listen, self.address)
        with self.assertRaises(ValueError):
            listener.accept(0)
        self.assertRefused(Status.NOBODY_LISTENS, ringport.connect, self.address)

    def test_closing_a_listener_ends_the_waiting_for_clients(self):
        listener, told = ringport.listen(self.address), []

        def accept():
            with self.assertRaises(ValueError):
                listener.accept()
            told.append(True)

        thread = threading.Thread(target=accept)
        thread.start()
        wait_until(lambda: is_asleep(os.getpid(), thread.native_id))
        listener.close()
        thread.join(BOUND)
        self.assertTrue(told)
        self.assertRefused(Status.NOBODY_LISTENS, ringport.connect, self.address)

    def test_options_reach_the_channel(self):
        with ringport.listen(self.address, largest_capacity=1 << 16, backlog=1, users=[os.getuid()]) as listener:
            accepted = []
            thread = threading.Thread(target=lambda: accepted.append(listener.accept(BOUND)))
            thread.start()
            port = ringport.connect(self.address, capacity_1_to_2=8192, capacity_2_to_1=4096)
            thread.join()
            self.assertEqual((port.capacity, accepted[0][0].capacity), (8192, 4096))
            self.assertRefused(Status.CAPACITY, lambda: ringport.connect(self.address, capacity=4097))
            self.assertRefused(Status.TIMED_OUT, lambda: ringport.connect(self.address, timeout=0.01))
        self.assertRefused(Status.CAPACITY, channel, 5000)


    def test_numbers_and_texts_are_not_cut(self):
        path = os.path.join(self.directory.name, "here")
        one, _two = channel()
        for arguments in ({"users": [2**32]}, {"users": [-1]}, {"backlog": 65536}, {"largest_capacity": 2**64}):
            with self.subTest(**arguments), self.assertRaises(ValueError):
                ringport.listen(path, **arguments)
        for call in (lambda: ringport.listen(path + "\0x"), lambda: ringport.connect(path + "\0x"),
                     lambda: channel(2**64 + 8192), lambda: Port.from_fds(2**32 + 1, 2**32 + 2),
                     lambda: ringport.spawn(["true", "\0"]), lambda: ringport.spawn(["true"], env={"A=B": "C"}),
                     lambda: ringport.spawn(["true"], env={"A": "\0"}), lambda: ringport.spawn(["true"], stdin=-1),
                     lambda: ringport.spawn(["true"], stdout=2**32), lambda: one.arm(Interest.ROOM, -1),
                     lambda: one.arm(2**32 + 1), lambda: setattr(one, "wait_strategy", 2**32)):
            with self.assertRaises(ValueError):
                call()
        with self.assertRaises(TypeError):
            ringport.spawn("true")


class Tasks(Case):
    """Ports in asyncio."""

    def run_bounded(self, coroutine):
        return asyncio.run(asyncio.wait_for(coroutine, BOUND))

    async def waiting(self, coroutine):
        """A task that has come as far as it can alone."""
        task = asyncio.ensure_future(coroutine)
        for _ in range(5):
            await asyncio.sleep(0)
        self.assertFalse(task.done())
        return task

    def assertUnwatched(self, loop, port):
        self.assertFalse(loop.remove_reader(port._watch._fd), "the loop still watches the port")

    def test_messages_come_and_go(self):
        async def talk():
            port, child = start("echo_async")
            for number in range(200):
                await port.post_async(b"%d" % number)
                with await port.recv_async() as message:
                    self.assertEqual(bytes(message), b"%d" % number)
            self.assertUnwatched(asyncio.get_running_loop(), port)
            port.close()
            self.ended(child)
        self.run_bounded(talk())

    def test_both_directions_full_do_not_block_each_other(self):
        total = 2000

        async def side(port):
            async def post():
                for number in range(total):
                    await port.post_async(struct.pack("<I", number) * (number % 100 + 1))

            async def receive():
                for number in range(total):
                    with await port.recv_async() as message:
                        self.assertEqual(bytes(message), struct.pack("<I", number) * (number % 100 + 1))

            await asyncio.gather(post(), receive())

        async def talk():
            one, two = channel(4096)
            await asyncio.gather(side(one), side(two))
        self.run_bounded(talk())

    def test_a_cancelled_recv_loses_nothing(self):
        async def talk():
            one, two = channel()
            loop = asyncio.get_running_loop()
            task = await self.waiting(two.recv_async())
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            self.assertUnwatched(loop, two)
            one.post(b"first")
            self.assertEqual(bytes(await two.recv_async()), b"first")
            # Woken, and cancelled before it could look.
            task = await self.waiting(two.recv_async())
            one.post(b"second")
            while not two.arm():
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            got = await asyncio.gather(task, return_exceptions=True)
            if isinstance(got[0], asyncio.CancelledError):
                got = [await two.recv_async()]
            self.assertEqual(bytes(got[0]), b"second")
            self.assertUnwatched(loop, two)
        self.run_bounded(talk())

    def test_a_cancelled_post_has_posted_nothing_and_keeps_its_ports(self):
        async def talk():
            one, two = channel(4096)
            count = fill(one)
            gift, friend = channel()
            task = await self.waiting(one.post_async(bytes(200), [gift]))
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            self.assertUnwatched(asyncio.get_running_loop(), one)
            gift.post(b"still here")
            self.assertEqual(bytes(friend.recv()), b"still here")
            self.assertEqual(sum(1 for _ in iter(two.try_recv, None)), count)
        self.run_bounded(talk())

    def test_closing_tells_those_who_wait(self):
        async def talk():
            one, two = channel(4096)
            fill(one)
            tasks = [await self.waiting(one.recv_async()), await self.waiting(one.recv_async()),
                     await self.waiting(one.post_async(bytes(200)))]
            one.close()
            for task in tasks:
                with self.assertRaises(Closed) as caught:
                    await task
                self.assertEqual(caught.exception.reason, CloseReason.CLOSED_HERE)
        self.run_bounded(talk())

    def test_moving_tells_those_who_wait(self):
        async def talk():
            carrier, end = channel()
            gift, friend = channel()
            task = await self.waiting(gift.recv_async())
            carrier.post(b"", [gift])
            with self.assertRaises(ringport.Detached):
                await task
            friend.post(b"for the next holder")
            with end.recv() as message:
                port, = message.ports
            self.assertEqual(bytes(await port.recv_async()), b"for the next holder")
        self.run_bounded(talk())

    def test_a_reader_and_a_poster_wait_at_the_same_time(self):
        async def talk():
            one, two = channel(4096)
            count = fill(one)
            reader, poster = await self.waiting(one.recv_async()), await self.waiting(one.post_async(bytes(200)))
            two.post(b"news")
            self.assertEqual(bytes(await reader), b"news")
            for _ in range(5):
                await asyncio.sleep(0)
            self.assertFalse(poster.done())
            reader = await self.waiting(one.recv_async())
            for _ in range(count):
                two.recv(0)
            await poster
            self.assertFalse(reader.done())
            two.post(b"more")
            self.assertEqual(bytes(await reader), b"more")
            self.assertEqual(len(two.recv(0)), 200)
        self.run_bounded(talk())

    def test_other_calls_on_the_port_do_not_end_the_waiting(self):
        async def talk():
            one, two = channel()
            calls = [lambda: two.try_post(b""), two.try_recv, lambda: two.arm(Interest.ROOM, 1), lambda: two.recv(0.001)]

            def reserve():
                with two.reserve(1):
                    pass

            def batch():
                with two.batch() as batch:
                    batch.post(b"")

            for call in [*calls, reserve, batch]:
                task = await self.waiting(two.recv_async())
                call()
                await asyncio.sleep(0)
                one.post(b"wake")
                self.assertEqual(bytes(await task), b"wake")
        self.run_bounded(talk())

    def test_several_tasks_share_the_messages(self):
        async def talk():
            one, two = channel(4096)

            async def receive():
                return [bytes(message) async for message in two]

            tasks = [asyncio.ensure_future(receive()) for _ in range(3)]
            for number in range(500):
                await one.post_async(b"%d" % number)
            one.close()
            received = [data for task in tasks for data in await task]
            self.assertEqual(sorted(map(int, received)), list(range(500)))
        self.run_bounded(talk())

    def test_s29_a_busy_port_lets_others_run(self):
        async def talk():
            one, two = channel()
            for _ in range(1000):
                one.post(b"")
            turns = 0

            async def other():
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            task = asyncio.ensure_future(other())
            for _ in range(1000):
                await two.recv_async()
            task.cancel()
            self.assertGreaterEqual(turns, 1000 // 64)
        self.run_bounded(talk())

    def test_a_post_waits_for_its_place_among_the_transfers(self):
        async def talk():
            one, two = channel()
            friends = []

            async def post():
                for _ in range(100):
                    gift, friend = channel(4096)
                    friends.append(friend)
                    await one.post_async(b"", [gift])

            task = await self.waiting(post())
            received = []
            for _ in range(100):
                received.extend((await two.recv_async()).ports)
            await task
            for friend, port in zip(friends, received):
                friend.post(b"x")
                self.assertEqual(bytes(port.recv()), b"x")
        self.run_bounded(talk())

    def test_s52_a_death_is_told_at_once(self):
        async def talk():
            port, child = start("hold")
            self.assertEqual(bytes(await port.recv_async()), b"ready")
            task = await self.waiting(port.recv_async())
            killed = time.monotonic()
            child.kill()
            with self.assertRaises(Closed) as caught:
                await task
            self.assertLess(time.monotonic() - killed, SOON)
            self.assertEqual(caught.exception.reason, CloseReason.PEER_GONE)
            child.wait(BOUND)
        self.run_bounded(talk())

    def test_a_port_outlives_a_loop(self):
        one, two = channel()

        async def talk():
            task = await self.waiting(two.recv_async())
            one.post(b"x")
            await task
        self.run_bounded(talk())
        self.run_bounded(talk())
        loop = asyncio.new_event_loop()
        task = loop.create_task(two.recv_async())
        loop.run_until_complete(asyncio.sleep(0))
        with self.assertRaises(RuntimeError):
            self.run_bounded(two.recv_async())
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()


    def test_a_call_that_fails_leaves_a_task_listening(self):
        other = channel(4096)
        fill(other[0])
        socks = socket.socketpair()
        socks[1].close()
        batches = []

        def in_a_batch(port):
            batches.append(port.batch())
            batches[0].__enter__().post(bytes(5000))

        def as_cargo(port):
            other[0].try_post(bytes(1000), [port])

        def over_a_socket(port):
            port.send_over(socks[0])

        def cannot_be_reserved(port):
            with port.reserve(5000):
                pass

        async def main(fails):
            one, two = channel(4096)
            task = asyncio.ensure_future(one.recv_async())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            with self.assertRaises(ringport.Error):
                fails(one)
            await asyncio.sleep(0)
            two.post(b"awake?")
            self.assertEqual(bytes(await asyncio.wait_for(task, BOUND)), b"awake?")

        for fails in in_a_batch, as_cargo, over_a_socket, cannot_be_reserved:
            with self.subTest(fails.__name__):
                asyncio.run(main(fails))
        socks[0].close()

    def test_calls_of_another_thread_leave_a_task_listening(self):
        async def main():
            one, two = channel()
            for _ in range(30):
                task = await self.waiting(one.recv_async())
                thread = threading.Thread(target=lambda: [one.try_post(b"x") for _ in range(3)])
                thread.start()
                while thread.is_alive():
                    await asyncio.sleep(0)
                two.post(b"awake?")
                self.assertEqual(bytes(await asyncio.wait_for(task, BOUND)), b"awake?")
                while two.try_recv() is not None:
                    pass

        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            asyncio.run(main())
        finally:
            sys.setswitchinterval(before)

    def test_a_port_closed_by_another_thread_while_a_task_begins_to_wait(self):
        async def main(step):
            one, two = channel()
            left = [step]

            def trace(frame, event, _):
                if frame.f_code.co_filename == ringport.__file__ and frame.f_code.co_name in (
                        "wait", "_arm", "_update", "_listen", "_arm_for_all"):
                    if event == "line":
                        left[0] -= 1
                        if left[0] == -1:
                            thread = threading.Thread(target=one.close)
                            thread.start()
                            thread.join()
                    return trace

            task = asyncio.ensure_future(one.recv_async())
            sys.settrace(trace)
            try:
                for _ in range(5):
                    await asyncio.sleep(0)
            finally:
                sys.settrace(None)
            if left[0] >= 0:
                one.close()
            with self.assertRaises(Closed, msg=step):
                await asyncio.wait_for(task, BOUND)
            return left[0] < 0

        step = 0
        while asyncio.run(main(step)):
            step += 1
        self.assertGreater(step, 10)

    def test_a_port_whose_tasks_loop_was_closed_goes_on(self):
        one, two = channel()
        loop = asyncio.new_event_loop()
        task = loop.create_task(one.recv_async())
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
        loop._ready.clear()
        loop.close()
        two.post(b"kept")
        self.assertEqual(bytes(one.try_recv()), b"kept")
        one.post(b"sent")
        self.assertEqual(bytes(two.recv(0)), b"sent")
        with one.reserve(1) as room:
            room[:] = b"!"
        self.assertEqual(bytes(two.recv(0)), b"!")
        one.close()
        with self.assertRaises(Closed):
            two.recv(BOUND)
        # What asyncio has to say of a task that its loop has left alone.
        task._log_destroy_pending = False

    def test_a_call_ends_in_time_though_a_task_cannot_look_meanwhile(self):
        async def main():
            one, two = channel(4096)
            fill(one)
            task = await self.waiting(one.recv_async())
            two.post(b"for the task")
            with self.assertRaises(ringport.Full):
                one.post(bytes(1000), timeout=0.05)
            self.assertEqual(bytes(await task), b"for the task")
            room = await self.waiting(one.post_async(bytes(1000)))
            while two.try_recv() is not None:
                pass
            self.assertIsNone(ringport.wait_any([one], 0.05))
            self.assertIsNone(one.recv(0.05))
            await room

        self.run_bounded(main())

    def test_a_port_with_the_descriptor_of_one_that_was_closed_is_watched(self):
        async def main():
            one, two = channel()
            fd = one.fileno()
            task = await self.waiting(one.recv_async())
            one.close()
            two.close()
            # Its four are among those that have just become free.
            other, peer = channel()
            self.assertIn(fd, (other.fileno(), peer.fileno()))
            reading = await self.waiting(other.recv_async())
            with self.assertRaises(Closed):
                await task
            peer.post(b"hello")
            self.assertEqual(bytes(await reading), b"hello")

        self.run_bounded(main())

    def test_a_port_that_another_thread_has_moved_leaves_its_number_to_others(self):
        async def main():
            one, two = channel()
            carrier, end = channel()
            loop, number, read = asyncio.get_running_loop(), one.fileno(), []
            task = await self.waiting(one.recv_async())
            mover = threading.Thread(target=carrier.post, args=(b"", [one]))
            mover.start()
            mover.join()
            near, far = socket.socketpair()
            with near, far:
                os.dup2(near.fileno(), number)
                loop.add_reader(number, lambda: read.append(os.read(number, 10)))
                with self.assertRaises(ringport.Detached):
                    await task
                far.send(b"data")
                for _ in range(5):
                    await asyncio.sleep(0)
                self.assertEqual(read, [b"data"])
                loop.remove_reader(number)
                os.close(number)

        self.run_bounded(main())

    def test_leaving_while_a_task_waits_is_told_to_that_alone(self):
        async def main(leave, error):
            complaints = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            one, _ = channel()
            task = await self.waiting(one.recv_async())
            one.try_post(b"bye")
            leave(one)
            with self.assertRaises(error):
                await task
            await asyncio.sleep(0)
            self.assertEqual(complaints, [])

        def take_apart(port):
            for fd in port.into_fds():
                os.close(fd)

        self.run_bounded(main(Port.close, Closed))
        self.run_bounded(main(take_apart, ringport.Detached))

    def test_a_call_in_another_thread_waits_beside_the_loop(self):
        async def main():
            one, two = channel()
            waiting = asyncio.get_running_loop().run_in_executor(None, one.recv, BOUND)
            wait_until(lambda: one._sleepers)
            one.post(b"meanwhile")
            two.post(b"for the thread")
            self.assertEqual(bytes(await waiting), b"for the thread")

        asyncio.run(main())


class Ending(Case):
    """Signals, and the end of the interpreter."""

    def interrupted(self, code, signal_at):
        # Where the tests run in the background of a script, signal 2 is ignored from the beginning, and Python leaves it so.
        head = "import signal; signal.signal(2, signal.default_int_handler)\nimport ringport, sys\n"
        with python(head + code) as child:
            self.assertEqual(child.stdout.readline(), b"ready\n")
            if signal_at == "sleep":
                wait_until(lambda: is_asleep(child.pid))
            start = time.monotonic()
            child.send_signal(signal.SIGINT)
            self.assertEqual(child.wait(BOUND), -signal.SIGINT)
            self.assertLess(time.monotonic() - start, SOON)
            self.assertIn(b"KeyboardInterrupt", child.stderr.read())

    def test_ctrl_c_ends_whatever_waits(self):
        with tempfile.TemporaryDirectory() as directory:
            address = os.path.join(directory, "socket")
            with ringport.listen(address):
                for code, signal_at in [
                    ("one, two = ringport.channel(); print('ready', flush=True); one.recv()", "sleep"),
                    ("one, two = ringport.channel(); one.wait_strategy = 1; print('ready', flush=True); one.recv()", "spin"),
                    ("one, two = ringport.channel(); print('ready', flush=True)\nwhile True: one.post(bytes(1000))", "sleep"),
                    ("one, two = ringport.channel(); print('ready', flush=True); ringport.wait_any([one, two])", "sleep"),
                    (f"print('ready', flush=True); ringport.connect({address!r}, timeout=None)", "sleep"),
                    (f"print('ready', flush=True); ringport.listen({address + '2'!r}).accept()", "sleep"),
                    ("port, child = ringport.spawn([sys.executable, '-c', 'import signal; signal.signal(2, 1);"
                     " import ringport; ringport.parent_port().recv(20)']); print('ready', flush=True)\n"
                     "try: child.wait()\nfinally: child.kill()", "sleep"),
                ]:
                    with self.subTest(code):
                        self.interrupted(code, signal_at)

    def test_the_interpreter_ends_with_everything_open(self):
        code = """
import asyncio, ringport, sys, threading
one, two = ringport.channel()
two.trust_peer()
for _ in range(4):
    one.post(b"message", [ringport.channel()[0]])
messages = [two.recv(), two.recv()]
part = messages[0].data[2:]
ports = messages[1].ports
reserving = one.reserve(100)
view = reserving.__enter__()
slice_of_view = view[1:]
batching = two.batch()
batch = batching.__enter__()
batch.post(b"never")
listener = ringport.listen(sys.argv[1])
port, child = ringport.spawn(["cat"])
cycle = [messages, ports, one, two, part]
cycle.append(cycle)
loop = asyncio.new_event_loop()
task = loop.create_task(ports[0].recv_async())
loop.run_until_complete(asyncio.sleep(0))
task.cancel()
loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
loop.close()
waiting = ringport.channel()
threading.Thread(target=waiting[0].recv, daemon=True).start()
keep = sys.modules[__name__]
sys.keep_alive = cycle
"""
        with tempfile.TemporaryDirectory() as directory:
            for ending in ("", "raise SystemExit(0)"):
                with python(code + ending, os.path.join(directory, "socket"), stdin=subprocess.DEVNULL) as child:
                    out, err = child.communicate(timeout=BOUND)
                    self.assertEqual((child.returncode, out, err), (0, b"", b""))
            self.assertEqual(os.listdir(directory), [])

    def test_the_library_is_looked_for_and_its_absence_explained(self):
        with python("import ringport") as child:
            self.assertEqual((child.wait(BOUND), child.stderr.read()), (0, b""))
        settings = dict(environment(), RINGPORT_LIBRARY="/nonexistent/libringport.so")
        found = subprocess.run([sys.executable, "-c", "import ringport"], env=settings, capture_output=True)
        self.assertIn(b"ImportError", found.stderr)
        self.assertIn(b"/nonexistent/libringport.so", found.stderr)
        settings["RINGPORT_LIBRARY"] = "libc.so.6"
        found = subprocess.run([sys.executable, "-c", "import ringport"], env=settings, capture_output=True)
        self.assertIn(b"ImportError", found.stderr)


def work(name):
    # As another program would see it: by its own name.
    sys.modules["test_ringport"] = sys.modules["__main__"]
    faulthandler.dump_traceback_later(60, exit=True)
    WORKERS[name](ringport.parent_port())


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in WORKERS:
        work(sys.argv[1])
    else:
        unittest.main()
