// A station of the ring of examples/ring.rs, in C: takes some numbers from the port that comes by, and passes it on.
//
// Compile it with
//
//     gcc -std=c99 station.c -o station $(pkg-config --cflags --libs ringport)
//
// It is started by the conductor, examples/ring.rs, where it says how to run all of them. It prints nothing.
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ringport.h>

// The messages. Their numbers are little-endian, as the processors are that the library is for.

// From the conductor, with the ports to the station's successor and predecessor.
struct start {
    uint64_t numbers_per_turn;
};

// From station to station, with the port that goes round.
struct carrier {
    uint64_t next_number;
    uint64_t turns_left; // this one included
};

// From the conductor, through the port that goes round.
struct number {
    uint64_t number;
};

// The answer, by the same way.
struct answer {
    uint64_t number;
    char language[8]; // the rest is zeros
};

static void fail(const char *what, const char *why) {
    fprintf(stderr, "station in C: %s: %s\n", what, why);
    exit(EXIT_FAILURE);
}

static void check(ringport_status status, const char *what) {
    if (status != RINGPORT_OK) {
        const char *why = ringport_last_error();
        fail(what, *why != '\0' ? why : ringport_status_name(status));
    }
}

// Copies the struct that a message is.
static void copy_out(const ringport_message *message, void *to, size_t size, const char *what) {
    if (ringport_message_len(message) != size) {
        fail(what, "its length is wrong");
    }
    memcpy(to, ringport_message_data(message), size);
}

struct station {
    uint64_t numbers_per_turn;
    ringport_port *successor, *predecessor;
};

static void take_place(ringport_port *conductor, struct station *station) {
    ringport_message *message;
    struct start start;
    check(ringport_recv(conductor, RINGPORT_FOREVER, &message), "the start");
    copy_out(message, &start, sizeof start, "the start");
    check(ringport_message_take_port(message, 0, &station->successor), "the port to the successor");
    check(ringport_message_take_port(message, 1, &station->predecessor), "the port to the predecessor");
    ringport_message_free(message);
    station->numbers_per_turn = start.numbers_per_turn;
}

// Takes one number, which has to be this one, and answers it.
static void answer_number(ringport_port *port, uint64_t expected) {
    ringport_message *message;
    struct number number;
    check(ringport_recv(port, RINGPORT_FOREVER, &message), "a number");
    copy_out(message, &number, sizeof number, "a number");
    ringport_message_free(message);
    if (number.number != expected) {
        fprintf(stderr, "station in C: %" PRIu64 " came instead of %" PRIu64 "\n", number.number, expected);
        exit(EXIT_FAILURE);
    }
    const struct answer answer = {.number = number.number, .language = "C"};
    check(ringport_post(port, &answer, sizeof answer, RINGPORT_FOREVER), "an answer");
}

// Passes the port on with all that waits on it. After the last turn of all nobody gets it: it is closed.
static void pass_on(const struct station *station, struct carrier carrier, ringport_port *port) {
    carrier.next_number += station->numbers_per_turn;
    carrier.turns_left--;
    if (carrier.turns_left > 0) {
        check(ringport_post_with_ports(station->successor, &carrier, sizeof carrier, &port, 1, RINGPORT_FOREVER),
              "the port that goes round");
    }
    ringport_port_free(port);
}

// Waits for the port and takes its numbers; says how many turns are left then. None either if the ring was ended: the
// predecessor is closed, in good order.
static uint64_t take_turn(const struct station *station) {
    ringport_message *message;
    const ringport_status status = ringport_recv(station->predecessor, RINGPORT_FOREVER, &message);
    if (status == RINGPORT_CLOSED) {
        ringport_close_reason reason;
        check(ringport_port_close_reason(station->predecessor, &reason), "the end of the ring");
        if (reason != RINGPORT_CLOSED_BY_PEER) {
            fail("the ring is broken", "the predecessor is gone");
        }
        return 0;
    }
    check(status, "the port that goes round");
    struct carrier carrier;
    ringport_port *port;
    copy_out(message, &carrier, sizeof carrier, "the carrier");
    check(ringport_message_take_port(message, 0, &port), "the port that goes round");
    ringport_message_free(message);
    for (uint64_t index = 0; index < station->numbers_per_turn; index++) {
        answer_number(port, carrier.next_number + index);
    }
    pass_on(station, carrier, port);
    return carrier.turns_left - 1;
}

int main(void) {
    ringport_port *conductor;
    struct station station;
    check(ringport_parent_port(&conductor), "a station is started by the conductor");
    take_place(conductor, &station);
    while (take_turn(&station) > 0) {
    }
    // So the successor learns that the ring has ended, and then its own.
    ringport_port_free(station.successor);
    ringport_port_free(station.predecessor);
    ringport_port_free(conductor);
    return EXIT_SUCCESS;
}
