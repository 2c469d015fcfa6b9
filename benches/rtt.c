/*
 * The round trips of the bench `rtt`, over the C interface: its lead and its peer in one program, which does what
 * `harness/mod.rs` tells: reads orders ("warm-up units") from standard input, prints "nanoseconds waited note".
 * Every word of a message is written, and read and checked, as there.
 */
#define _GNU_SOURCE
#include <ringport.h>

#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STEP UINT64_C(0x9e3779b97f4a7c15)
#define MOST 48

static void check(int so, const char *what)
{
    if (!so) {
        fprintf(stderr, "rtt.c: %s: %s\n", what, ringport_last_error());
        exit(1);
    }
}

static void pin(int which)
{
    const char *cpus = getenv("RINGPORT_BENCH_CPUS");
    cpu_set_t set;
    int pair[2];
    check(cpus != NULL && sscanf(cpus, "%d,%d", &pair[0], &pair[1]) == 2, "two CPUs");
    CPU_ZERO(&set);
    CPU_SET(pair[which], &set);
    check(sched_setaffinity(0, sizeof set, &set) == 0, "to run on that CPU");
}

static inline void send(ringport_port *port, uint64_t sequence, size_t length)
{
    uint64_t words[MOST / 8];
    size_t at;
    for (at = 0; at < length / 8; at++) {
        words[at] = sequence + STEP * at;
    }
    check(ringport_post(port, words, length, RINGPORT_FOREVER) == RINGPORT_OK, "post");
}

static inline void take(ringport_port *port, uint64_t sequence, size_t length)
{
    ringport_message *message;
    const uint64_t *words;
    uint64_t sum = 0, expected = 0;
    size_t at;
    check(ringport_recv(port, RINGPORT_FOREVER, &message) == RINGPORT_OK, "receive");
    check(ringport_message_len(message) == length, "the length");
    words = ringport_message_data(message);
    for (at = 0; at < length / 8; at++) {
        sum += words[at];
        expected += sequence + STEP * at;
    }
    check(sum == expected, "the sum");
    ringport_message_free(message);
}

typedef void work(ringport_port *port, uint64_t *sequence, uint64_t units);

/* A program knows how long its messages are, so the loops are built for each length, as in Rust. */
#define FOR_LENGTH(length)                                                              \
    static void lead_##length(ringport_port *port, uint64_t *sequence, uint64_t units)  \
    {                                                                                   \
        for (; units > 0; units--, (*sequence)++) {                                     \
            send(port, *sequence, length);                                              \
            take(port, ~*sequence, length);                                             \
        }                                                                               \
    }                                                                                   \
    static void peer_##length(ringport_port *port, uint64_t *sequence, uint64_t units)  \
    {                                                                                   \
        for (; units > 0; units--, (*sequence)++) {                                     \
            take(port, *sequence, length);                                              \
            send(port, ~*sequence, length);                                             \
        }                                                                               \
    }
FOR_LENGTH(32)
FOR_LENGTH(48)

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* Nanoseconds that a process of one thread has stood in line for a CPU. */
static uint64_t waited(pid_t process)
{
    char path[64];
    uint64_t run, waited = 0;
    FILE *file;
    snprintf(path, sizeof path, "/proc/%d/schedstat", (int)process);
    file = fopen(path, "r");
    if (file != NULL) {
        if (fscanf(file, "%" SCNu64 " %" SCNu64, &run, &waited) != 2) {
            waited = 0;
        }
        fclose(file);
    }
    return waited;
}

/* The next order, however long it takes; after it, 60 seconds to carry it out. */
static int next_order(uint64_t *warm_up, uint64_t *units)
{
    int read;
    alarm(0);
    read = scanf("%" SCNu64 " %" SCNu64, warm_up, units);
    alarm(60);
    return read == 2;
}

static int run_lead(const char *program, const char *name, work *lead)
{
    uint64_t warm_up, units, sequence = 0;
    int orders[2], status = -1;
    char role[64];
    const char *argv[] = {program, NULL};
    ringport_spawn_options options = RINGPORT_SPAWN_OPTIONS_INIT;
    ringport_child *child;
    ringport_port *port;
    FILE *pipe_to_peer;

    pin(0);
    check(pipe2(orders, O_CLOEXEC) == 0, "a pipe");
    snprintf(role, sizeof role, "peer %s", name);
    setenv("RINGPORT_BENCH_ROLE", role, 1);
    {
        int streams[3] = {-1, -1, -1};
        streams[0] = orders[0];
        options.standard_streams = streams;
        check(ringport_spawn(argv, &options, &port, &child) == RINGPORT_OK, "the peer");
    }
    close(orders[0]);
    pipe_to_peer = fdopen(orders[1], "w");
    ringport_port_set_wait_strategy(port, RINGPORT_WAIT_SPIN);
    while (next_order(&warm_up, &units)) {
        uint64_t begun, taken, waited_before;
        fprintf(pipe_to_peer, "%" PRIu64 " %" PRIu64 "\n", warm_up, units);
        fflush(pipe_to_peer);
        lead(port, &sequence, warm_up);
        waited_before = waited(getpid()) + waited(ringport_child_id(child));
        begun = now();
        lead(port, &sequence, units);
        taken = now() - begun;
        printf("%" PRIu64 " %" PRIu64 " \n", taken, waited(getpid()) + waited(ringport_child_id(child)) - waited_before);
        fflush(stdout);
    }
    fclose(pipe_to_peer);
    check(ringport_child_wait(child, &status) == RINGPORT_OK && status == 0, "the peer's end");
    ringport_child_free(child);
    ringport_port_free(port);
    return 0;
}

static int run_peer(work *peer)
{
    uint64_t warm_up, units, sequence = 0;
    ringport_port *port;
    pin(1);
    check(ringport_parent_port(&port) == RINGPORT_OK, "the port to the lead");
    ringport_port_set_wait_strategy(port, RINGPORT_WAIT_SPIN);
    while (next_order(&warm_up, &units)) {
        peer(port, &sequence, warm_up);
        peer(port, &sequence, units);
    }
    ringport_port_free(port);
    return 0;
}

int main(int argc, char **argv)
{
    const char *role = getenv("RINGPORT_BENCH_ROLE");
    const char *name = role == NULL ? NULL : strchr(role, ' ');
    int is_short, is_lead;
    (void)argc;
    check(name != NULL, "a role");
    is_short = strcmp(name, " 32") == 0;
    check(is_short || strcmp(name, " 48") == 0, "a length of 32 or 48");
    is_lead = strncmp(role, "lead", 4) == 0;
    return is_lead ? run_lead(argv[0], name + 1, is_short ? lead_32 : lead_48)
                   : run_peer(is_short ? peer_32 : peer_48);
}
