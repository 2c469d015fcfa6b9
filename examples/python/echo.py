"""A program that starts itself once more as a worker, and has it sum up frames of floats.

The frames are written where the worker reads them, so that they are never in a `bytes` object. The answers come through a
second channel, whose other port the worker gets in the first message. The worker is an asyncio program.

    $ cargo build --release
    $ python3 examples/python/echo.py
    frame 1: 1000 samples, mean 0.5, largest 1.0
    frame 2: 1000 samples, mean 1.0, largest 2.0
    frame 3: 1000 samples, mean 1.5, largest 3.0
    the worker has ended with status 0
"""
import asyncio
import struct
import sys

import ringport

SAMPLES = 1000
ANSWER = struct.Struct("=Idd")


def talk() -> None:
    port, worker = ringport.spawn([sys.executable, __file__])
    answers, for_the_worker = ringport.channel()
    port.post(b"", [for_the_worker])
    for number in range(1, 4):
        # Posted when the block ends.
        with port.reserve(8 * SAMPLES) as frame, frame.cast("d") as samples:
            for index in range(SAMPLES):
                samples[index] = number * (index % 2)
        with answers.recv() as answer:
            count, mean, largest = ANSWER.unpack(answer.data)
        print(f"frame {number}: {count} samples, mean {mean}, largest {largest}")
    port.close()
    print("the worker has ended with status", worker.wait())


async def work(port: ringport.Port) -> None:
    with await port.recv_async() as message:
        answers, = message.ports
    async for message in port:
        with message, message.data.cast("d") as samples:
            answer = ANSWER.pack(len(samples), sum(samples) / len(samples), max(samples))
        await answers.post_async(answer)


if __name__ == "__main__":
    parent = ringport.parent_port()
    if parent is None:
        talk()
    else:
        asyncio.run(work(parent))
