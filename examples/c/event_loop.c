// A port in an event loop of one's own: epoll, which knows nothing of ports, and watches a timer beside it.
//
// The program starts itself once more as an echo. At each of five ticks of the timer it sends a burst of messages, more than
// the ring holds, and takes the echoes, on one thread, and never waits for one of these alone: when the rings are full both
// ways, a side that waited for room only, as the echo does, would wait for ever.
//
// Compile it with
//
//     gcc -std=c99 event_loop.c -o event_loop $(pkg-config --cflags --libs ringport)
//
// and run it:
//
//     $ ./event_loop
//     burst 1: 2000 messages of 200286 bytes came back, checksum e0f721deffec8713
//     burst 2: 2000 messages of 199993 bytes came back, checksum 93f10f088fd44657
//     burst 3: 2000 messages of 199501 bytes came back, checksum 529a674667dabb4b
//     burst 4: 2000 messages of 200872 bytes came back, checksum c48004d6527e9097
//     burst 5: 2000 messages of 199540 bytes came back, checksum 7b120aaf081001f7
//     the echo has ended well
//
// The pattern: try until nothing more can be done now; ringport_port_arm says what is waited for, and whether it has come in
// the meantime; only if it has not, wait for the port's descriptor.
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <ringport.h>

enum { BURSTS = 5, MESSAGES = 2000, LONGEST = 200, TICK_MS = 10 };

static void fail(const char *what, const char *why) {
    fprintf(stderr, "event_loop: %s: %s\n", what, why);
    exit(EXIT_FAILURE);
}

static void check(ringport_status status, const char *what) {
    if (status != RINGPORT_OK) {
        const char *why = ringport_last_error();
        fail(what, *why != '\0' ? why : ringport_status_name(status));
    }
}

// For system calls.
static int check_system(int result, const char *what) {
    if (result < 0) {
        fail(what, strerror(errno));
    }
    return result;
}

// Waits for a message, then for room to send it back, until the channel is closed.
static int echo(ringport_port *port) {
    ringport_message *message;
    ringport_status status;
    while ((status = ringport_recv(port, RINGPORT_FOREVER, &message)) == RINGPORT_OK) {
        check(ringport_post(port, ringport_message_data(message), ringport_message_len(message), RINGPORT_FOREVER), "an echo");
        ringport_message_free(message);
    }
    if (status != RINGPORT_CLOSED) {
        check(status, "a message");
    }
    ringport_port_free(port);
    return EXIT_SUCCESS;
}

// Messages in their order, summed up.
struct tally {
    uint64_t messages, bytes, checksum;
};

// FNV-1a, going on from `hash`.
static uint64_t hash_on(uint64_t hash, const void *data, size_t len) {
    const unsigned char *bytes = data;
    for (size_t index = 0; index < len; index++) {
        hash = (hash ^ bytes[index]) * UINT64_C(0x100000001b3);
    }
    return hash;
}

static void add(struct tally *tally, const void *data, size_t len) {
    const uint64_t length = len;
    tally->messages++;
    tally->bytes += len;
    tally->checksum = hash_on(tally->checksum, &length, sizeof length);
    tally->checksum = hash_on(tally->checksum, data, len);
}

// Fills in a message of up to LONGEST bytes that look random, and gives its length. Some are empty.
static size_t make(uint64_t number, unsigned char *message) {
    const uint64_t word = hash_on(UINT64_C(0xcbf29ce484222325), &number, sizeof number);
    const size_t len = (size_t)(word >> 32) % (LONGEST + 1);
    memset(message, (int)(word & 0xff), len);
    return len;
}

struct talk {
    ringport_port *port;
    // How many messages the ticks allow.
    uint64_t due;
    struct tally posted, received, last_burst;
    // How often there was no room to post.
    uint64_t full;
};

static bool is_over(const struct talk *talk) {
    return talk->received.messages == (uint64_t)BURSTS * MESSAGES;
}

static void post_what_fits(struct talk *talk) {
    unsigned char message[LONGEST];
    while (talk->posted.messages < talk->due) {
        const size_t len = make(talk->posted.messages, message);
        const ringport_status status = ringport_post(talk->port, message, len, RINGPORT_NO_WAIT);
        if (status == RINGPORT_FULL) {
            talk->full++;
            return;
        }
        check(status, "a message");
        add(&talk->posted, message, len);
    }
}

static void end_burst(struct talk *talk) {
    const uint64_t bytes = talk->received.bytes - talk->last_burst.bytes;
    printf("burst %" PRIu64 ": %d messages of %" PRIu64 " bytes came back, checksum %016" PRIx64 "\n",
           talk->received.messages / MESSAGES, MESSAGES, bytes, talk->received.checksum);
    talk->last_burst = talk->received;
}

static void receive_what_is_there(struct talk *talk) {
    while (!is_over(talk)) {
        ringport_message *message;
        const ringport_status status = ringport_recv(talk->port, RINGPORT_NO_WAIT, &message);
        if (status == RINGPORT_NOT_YET) {
            return;
        }
        check(status, "an echo");
        add(&talk->received, ringport_message_data(message), ringport_message_len(message));
        ringport_message_free(message);
        if (talk->received.messages % MESSAGES == 0) {
            end_burst(talk);
        }
    }
}

// Says what is waited for. Whether it is there already.
static bool arm(struct talk *talk) {
    unsigned char message[LONGEST];
    const bool wants_room = talk->posted.messages < talk->due;
    const size_t len = wants_room ? make(talk->posted.messages, message) : 0;
    const ringport_status status =
        ringport_port_arm(talk->port, wants_room ? RINGPORT_MESSAGE_OR_ROOM : RINGPORT_MESSAGE, len);
    if (status == RINGPORT_NOT_YET) {
        return false;
    }
    check(status, "what is waited for");
    return true;
}

// Posts and receives until neither can be done now, or nothing is left to do.
static void go_on(struct talk *talk) {
    do {
        post_what_fits(talk);
        receive_what_is_there(talk);
    } while (!is_over(talk) && arm(talk));
}

static int start_timer(void) {
    const int timer = check_system(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), "timerfd_create");
    const struct timespec tick = {.tv_sec = 0, .tv_nsec = TICK_MS * 1000000L};
    const struct itimerspec ticks = {.it_interval = tick, .it_value = tick};
    check_system(timerfd_settime(timer, 0, &ticks, NULL), "timerfd_settime");
    return timer;
}

// Each tick allows another burst.
static void take_ticks(struct talk *talk, int timer) {
    uint64_t ticks;
    if (read(timer, &ticks, sizeof ticks) != sizeof ticks) {
        return; // none yet
    }
    const uint64_t all = (uint64_t)BURSTS * MESSAGES;
    const uint64_t left = (all - talk->due) / MESSAGES;
    talk->due += (ticks < left ? ticks : left) * MESSAGES;
}

static void watch(int epoll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data = {.fd = fd}};
    check_system(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

static void run(struct talk *talk) {
    const int epoll = check_system(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    const int timer = start_timer();
    int port;
    check(ringport_port_fd(talk->port, &port), "the port's descriptor");
    watch(epoll, timer);
    watch(epoll, port);
    while (!is_over(talk)) {
        go_on(talk);
        struct epoll_event events[2];
        const int count = is_over(talk) ? 0 : epoll_wait(epoll, events, 2, -1);
        if (count < 0 && errno != EINTR) {
            fail("epoll_wait", strerror(errno));
        }
        for (int index = 0; index < count; index++) {
            // Of the port nothing need be known: it is asked in any case.
            if (events[index].data.fd == timer) {
                take_ticks(talk, timer);
            }
        }
    }
    close(timer);
    close(epoll);
}

static int talk_to_echo(const char *program) {
    const char *const argv[] = {program, "echo", NULL};
    struct talk talk = {.due = 0};
    ringport_child *child;
    check(ringport_spawn(argv, NULL, &talk.port, &child), "the echo");
    run(&talk);
    if (talk.received.checksum != talk.posted.checksum || talk.received.bytes != talk.posted.bytes) {
        fail("the echoes", "they are not what was posted");
    }
    if (talk.full == 0) {
        fail("the bursts", "they do not fit into a ring of 64 KiB, and there was always room");
    }

    ringport_port_free(talk.port);
    int status;
    check(ringport_child_wait(child, &status), "the echo's end");
    ringport_child_free(child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fail("the echo", "it has failed");
    }
    puts("the echo has ended well");
    return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
    if (argc == 1) {
        return talk_to_echo(argv[0]);
    }
    if (argc == 2 && strcmp(argv[1], "echo") == 0) {
        ringport_port *port;
        check(ringport_parent_port(&port), "an echo is started by the program itself");
        return echo(port);
    }
    fail("usage", "event_loop (it starts its echo by itself)");
    return EXIT_FAILURE;
}
