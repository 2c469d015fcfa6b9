// A station of the ring of examples/ring.rs, in C++: takes some numbers from the port that comes by, and passes it on.
//
// Compile it with
//
//     g++ -std=c++17 station.cpp -o station $(pkg-config --cflags --libs ringport)
//
// It is started by the conductor, examples/ring.rs, where it says how to run all of them. It prints nothing.
#include <ringport.hpp>

#include <cstdint>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace {

// The messages. Their numbers are little-endian, as the processors are that the library is for.

/// From the conductor, with the ports to the station's successor and predecessor.
struct start {
    std::uint64_t numbers_per_turn;
};

/// From station to station, with the port that goes round.
struct carrier {
    std::uint64_t next_number;
    std::uint64_t turns_left; // this one included
};

/// The answer to a number, which is all of its message, by the way that it came.
struct answer {
    std::uint64_t number;
    char language[8]; // the rest is zeros
};

/// Takes one number, which has to be this one, and answers it.
void answer_number(ringport::port &port, std::uint64_t expected) {
    const auto number = port.recv().as<std::uint64_t>();
    if (number != expected) {
        throw std::runtime_error(std::to_string(number) + " came instead of " + std::to_string(expected));
    }
    port.post(ringport::bytes::of(answer{number, "C++"}));
}

class station {
public:
    explicit station(ringport::message start_message)
        : numbers_per_turn_(start_message.as<start>().numbers_per_turn), successor_(start_message.take_port(0)),
          predecessor_(start_message.take_port(1)) {}

    /// Takes turns until the last one of all, or until the ring was ended: the predecessor is closed, in good order.
    void run() {
        for (ringport::message &message : predecessor_) {
            const auto turn = message.as<carrier>();
            if (take_turn(turn, message.take_port())) {
                return;
            }
        }
        if (predecessor_.close_reason() != ringport::close_reason::closed_by_peer) {
            throw std::runtime_error("the ring is broken: the predecessor is gone");
        }
    }

private:
    /// Answers its numbers and passes the port on with all that waits on it. Whether it was the last turn of all: then
    /// nobody gets the port, and it is closed.
    bool take_turn(carrier turn, ringport::port port) {
        const std::uint64_t end = turn.next_number + numbers_per_turn_;
        while (turn.next_number < end) {
            answer_number(port, turn.next_number++);
        }
        if (--turn.turns_left == 0) {
            return true;
        }
        successor_.post(ringport::bytes::of(turn), std::move(port));
        return false;
    }

    std::uint64_t numbers_per_turn_;
    // Dropping it tells the successor that the ring has ended.
    ringport::port successor_;
    ringport::port predecessor_;
};

} // namespace

int main() {
    try {
        std::optional<ringport::port> conductor = ringport::parent_port();
        if (!conductor) {
            throw std::runtime_error("a station is started by the conductor");
        }
        station(conductor->recv()).run();
        return 0;
    } catch (const std::exception &error) {
        std::cerr << "station in C++: " << error.what() << '\n';
        return 1;
    }
}
