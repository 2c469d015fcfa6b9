"""A station of the ring of examples/ring.rs, in Python: takes some numbers from the port that comes by, and passes it on.

It is started by the conductor, examples/ring.rs, where it says how to run all of them. It prints nothing.
"""
import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))

import ringport

# The messages.

# From the conductor, with the ports to the station's successor and predecessor: how many numbers a turn has.
START = struct.Struct("<Q")
# From station to station, with the port that goes round: the next number, and how many turns are left, this one included.
CARRIER = struct.Struct("<QQ")
# From the conductor, through the port that goes round.
NUMBER = struct.Struct("<Q")
# The answer, by the same way: the number, and the language.
ANSWER = struct.Struct("<Q8s")


def answer_number(port: ringport.Port, expected: int) -> None:
    """Takes one number, which has to be this one, and answers it."""
    with port.recv() as message:
        number, = NUMBER.unpack(message.data)
    if number != expected:
        raise ValueError(f"{number} came instead of {expected}")
    port.post(ANSWER.pack(number, b"Python"))


def take_turns(numbers_per_turn: int, successor: ringport.Port, predecessor: ringport.Port) -> None:
    """Takes turns until the last one of all, or until the ring was ended: the predecessor is closed, in good order."""
    for message in predecessor:
        with message:
            number, turns_left = CARRIER.unpack(message.data)
            port, = message.ports
        for expected in range(number, number + numbers_per_turn):
            answer_number(port, expected)
        if turns_left == 1:
            # Nobody gets it.
            port.close()
            return
        successor.post(CARRIER.pack(number + numbers_per_turn, turns_left - 1), [port])
    if predecessor.close_reason != ringport.CloseReason.CLOSED_BY_PEER:
        raise EOFError("the ring is broken: the predecessor is gone")


def main() -> None:
    conductor = ringport.parent_port()
    if conductor is None:
        sys.exit("a station is started by the conductor")
    with conductor.recv() as message:
        numbers_per_turn, = START.unpack(message.data)
        successor, predecessor = message.ports
    # Closing the successor tells it that the ring has ended.
    with successor, predecessor:
        take_turns(numbers_per_turn, successor, predecessor)


if __name__ == "__main__":
    try:
        main()
    except (ringport.Error, ValueError, EOFError) as error:
        sys.exit(f"station in Python: {error}")
