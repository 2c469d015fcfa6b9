/* Ports on the move, and what bad lists, dead handles and strange descriptors get. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#ifndef SO_PEEK_OFF
#define SO_PEEK_OFF 42 /* Linux 3.4; not in POSIX */
#endif

static ringport_port *a, *b, *c, *d;

static void open_channels(void)
{
    OK(ringport_channel_new(NULL, &a, &b));
    OK(ringport_channel_new(NULL, &c, &d));
}

static void close_channels(void)
{
    ringport_port_free(a);
    ringport_port_free(b);
    ringport_port_free(c);
    ringport_port_free(d);
}

static ringport_port *take_only_port(ringport_port *from, const char *text)
{
    ringport_message *message = NULL;
    ringport_port *port = NULL;
    OK(ringport_recv(from, RINGPORT_FOREVER, &message));
    CHECK(ringport_message_len(message) == strlen(text));
    CHECK(ringport_message_port_count(message) == 1);
    OK(ringport_message_take_port(message, 0, &port));
    SAYS(RINGPORT_DETACHED, "port 0", ringport_message_take_port(message, 0, &port));
    SAYS(RINGPORT_INVALID, "port 1", ringport_message_take_port(message, 1, &port));
    CHECK(ringport_message_port_count(message) == 1);
    ringport_message_free(message);
    return port;
}

static void s33_what_waits_on_a_port_goes_with_it(void)
{
    ringport_port *moved;
    open_channels();
    post(c, "first");
    OK(ringport_post_with_ports(a, "take", 4, &d, 1, RINGPORT_FOREVER));
    post(c, "second");
    moved = take_only_port(b, "take");
    expect(moved, "first");
    expect(moved, "second");
    post(moved, "back");
    expect(c, "back");
    ringport_port_free(moved);
    close_channels();
}

static void s16_a_handle_whose_port_has_moved_is_dead(void)
{
    ringport_message *message = NULL;
    ringport_close_reason reason;
    ringport_stats stats = RINGPORT_STATS_INIT;
    ringport_loop *loop;
    void *data;
    size_t index;
    int one, two;

    open_channels();
    OK(ringport_post_with_ports(a, "", 0, &d, 1, RINGPORT_NO_WAIT));
    SAYS(RINGPORT_DETACHED, "moved away", ringport_post(d, "x", 1, RINGPORT_NO_WAIT));
    ANSWERS(RINGPORT_DETACHED, ringport_post_with_ports(d, "x", 1, &c, 1, RINGPORT_NO_WAIT));
    ANSWERS(RINGPORT_DETACHED, ringport_post_with_ports(a, "x", 1, &d, 1, RINGPORT_NO_WAIT));
    ANSWERS(RINGPORT_DETACHED, ringport_reserve(d, 1, RINGPORT_NO_WAIT, &data));
    ANSWERS(RINGPORT_DETACHED, ringport_commit(d, 1));
    ANSWERS(RINGPORT_DETACHED, ringport_batch_begin(d));
    ANSWERS(RINGPORT_DETACHED, ringport_batch_post(d, "x", 1));
    ANSWERS(RINGPORT_DETACHED, ringport_batch_publish(d, NULL));
    ANSWERS(RINGPORT_DETACHED, ringport_abort(d));
    ANSWERS(RINGPORT_DETACHED, ringport_recv(d, RINGPORT_NO_WAIT, &message));
    ANSWERS(RINGPORT_DETACHED, ringport_wait_any(&d, 1, RINGPORT_NO_WAIT, &index));
    ANSWERS(RINGPORT_DETACHED, ringport_port_close(d));
    ANSWERS(RINGPORT_DETACHED, ringport_port_close_reason(d, &reason));
    ANSWERS(RINGPORT_DETACHED, ringport_port_into_fds(d, &one, &two));
    ANSWERS(RINGPORT_DETACHED, ringport_port_send(d, 0));
    ANSWERS(RINGPORT_DETACHED, ringport_port_fd(d, &one));
    ANSWERS(RINGPORT_DETACHED, ringport_port_arm(d, RINGPORT_MESSAGE, 0));
    ANSWERS(RINGPORT_DETACHED, ringport_port_trust_peer(d));
    ANSWERS(RINGPORT_DETACHED, ringport_port_set_wait_strategy(d, RINGPORT_WAIT_BLOCK));
    ANSWERS(RINGPORT_DETACHED, ringport_port_stats(d, &stats));
    ANSWERS(RINGPORT_DETACHED, ringport_port_start(d));
    OK(ringport_loop_new(&loop));
    ANSWERS(RINGPORT_DETACHED, ringport_loop_add(loop, d));
    ANSWERS(RINGPORT_DETACHED, ringport_loop_remove(loop, d));
    ringport_loop_free(loop);
    CHECK(ringport_port_capacity(d) == 0);
    /* Freeing the dead handle closes nothing. */
    ringport_port_free(d);
    d = take_only_port(b, "");
    post(d, "alive");
    expect(c, "alive");
    close_channels();
}

static void s13_the_checks_come_in_their_order(void)
{
    ringport_port *list[3];
    ringport_port *many[RINGPORT_MAX_PORTS + 1];
    ringport_loop *loop;
    void *data;
    size_t i;

    open_channels();
    post(a, "waits");
    post(c, "waits too");
    /* Closed, its own peer, twice and itself: the last is told first. */
    OK(ringport_port_close(c));
    list[0] = c, list[1] = c, list[2] = a;
    SAYS(RINGPORT_SELF_TRANSFER, "port 2", ringport_post_with_ports(a, "x", 1, list, 3, RINGPORT_NO_WAIT));
    SAYS(RINGPORT_DUPLICATE_PORT, "port 1", ringport_post_with_ports(a, "x", 1, list, 2, RINGPORT_NO_WAIT));
    list[0] = b, list[1] = c;
    SAYS(RINGPORT_CLOSED_PORT, "port 1", ringport_post_with_ports(a, "x", 1, list, 2, RINGPORT_NO_WAIT));
    SAYS(RINGPORT_OWN_PEER, "port 0", ringport_post_with_ports(a, "x", 1, list, 1, RINGPORT_NO_WAIT));
    /* One that cannot leave, and one that has left. */
    OK(ringport_channel_new(NULL, &many[0], &many[1]));
    OK(ringport_reserve(many[0], 8, RINGPORT_NO_WAIT, &data));
    list[0] = many[0], list[1] = b;
    SAYS(RINGPORT_OWN_PEER, "port 1", ringport_post_with_ports(a, "x", 1, list, 2, RINGPORT_NO_WAIT));
    list[1] = c;
    SAYS(RINGPORT_CLOSED_PORT, "port 1", ringport_post_with_ports(a, "x", 1, list, 2, RINGPORT_NO_WAIT));
    OK(ringport_post_with_ports(a, "gone", 4, &many[1], 1, RINGPORT_NO_WAIT));
    list[2] = many[1];
    SAYS(RINGPORT_DETACHED, "port 2", ringport_post_with_ports(a, "x", 1, list, 3, RINGPORT_NO_WAIT));
    SAYS(RINGPORT_BUSY, "reservation", ringport_post_with_ports(a, "x", 1, list, 1, RINGPORT_NO_WAIT));
    /* Also through one that has ended in its loop, and is no more. */
    OK(ringport_loop_new(&loop));
    OK(ringport_loop_add(loop, c));
    OK(ringport_loop_run(loop));
    ANSWERS(RINGPORT_DETACHED, ringport_post_with_ports(c, "x", 1, &list[2], 1, RINGPORT_NO_WAIT));
    ANSWERS(RINGPORT_CLOSED, ringport_post_with_ports(c, "x", 1, &list[1], 0, RINGPORT_NO_WAIT));
    ringport_loop_free(loop);
    ringport_port_free(many[0]);
    ringport_port_free(many[1]);
    list[0] = NULL;
    SAYS(RINGPORT_NULL, "ports[0]", ringport_post_with_ports(a, "x", 1, list, 1, RINGPORT_NO_WAIT));
    expect(b, "waits");
    expect(b, "gone");
    expect(d, "waits too");
    close_channels();

    open_channels();
    for (i = 0; i <= RINGPORT_MAX_PORTS; i++) {
        ringport_port *peer;
        OK(ringport_channel_new(NULL, &many[i], &peer));
        ringport_port_free(peer);
    }
    SAYS(RINGPORT_TOO_MANY_PORTS, "127",
         ringport_post_with_ports(a, "x", 1, many, RINGPORT_MAX_PORTS + 1, RINGPORT_NO_WAIT));
    OK(ringport_post_with_ports(a, "x", 1, many, RINGPORT_MAX_PORTS, RINGPORT_NO_WAIT));
    for (i = 0; i <= RINGPORT_MAX_PORTS; i++) {
        ringport_port_free(many[i]);
    }
    /* A port that is in use does not travel. */
    OK(ringport_reserve(c, 8, RINGPORT_NO_WAIT, &data));
    SAYS(RINGPORT_BUSY, "reservation", ringport_post_with_ports(a, "x", 1, &c, 1, RINGPORT_NO_WAIT));
    OK(ringport_abort(c));
    OK(ringport_port_close(b));
    ANSWERS(RINGPORT_CLOSED, ringport_post_with_ports(a, "x", 1, &c, 1, RINGPORT_NO_WAIT));
    post(c, "kept");
    expect(d, "kept");
    close_channels();
}

static void s12_a_post_that_finds_no_place_gives_the_ports_back(void)
{
    int sent = 0;
    int32_t status;
    ringport_port *one, *peers[80];
    open_channels();
    for (;;) {
        OK(ringport_channel_new(NULL, &one, &peers[sent]));
        status = ringport_post_with_ports(a, "x", 1, &one, 1, RINGPORT_NO_WAIT);
        if (status != RINGPORT_OK) {
            break;
        }
        ringport_port_free(one);
        sent++;
    }
    ANSWERS(RINGPORT_TRANSFERS_FULL, status);
    CHECK(sent == 64);
    post(one, "still entangled");
    expect(peers[sent], "still entangled");
    ringport_port_free(one);
    for (; sent >= 0; sent--) {
        ringport_port_free(peers[sent]);
    }
    close_channels();
}

static void messages_in_place_hold_a_port_and_copies_do_not(void)
{
    ringport_message *copy = NULL, *shown = NULL;
    int segment, doorbell;

    open_channels();
    post(a, "a copy");
    OK(ringport_recv(b, RINGPORT_NO_WAIT, &copy));
    CHECK(!ringport_message_is_in_place(copy));
    OK(ringport_port_trust_peer(b));
    post(a, "in the ring");
    post(a, "and another");
    OK(ringport_recv(b, RINGPORT_NO_WAIT, &shown));
    CHECK(ringport_message_is_in_place(shown));
    SAYS(RINGPORT_BUSY, "in place", ringport_port_into_fds(b, &segment, &doorbell));
    ANSWERS(RINGPORT_BUSY, ringport_post_with_ports(c, "x", 1, &b, 1, RINGPORT_NO_WAIT));
    OK(ringport_message_make_owned(shown));
    CHECK(!ringport_message_is_in_place(shown));
    OK(ringport_port_into_fds(b, &segment, &doorbell));
    ringport_port_free(b);
    CHECK(memcmp(ringport_message_data(copy), "a copy", 6) == 0);
    CHECK(memcmp(ringport_message_data(shown), "in the ring", 11) == 0);
    ringport_message_free(copy);
    ringport_message_free(shown);
    OK(ringport_port_from_fds(segment, doorbell, &b));
    expect(b, "and another");
    close_channels();
}

static void a_message_outlives_the_handle_of_its_port(void)
{
    int trusted;
    for (trusted = 0; trusted < 2; trusted++) {
        ringport_message *message = NULL;
        ringport_port *gift = NULL;
        open_channels();
        if (trusted) {
            OK(ringport_port_trust_peer(b));
        }
        OK(ringport_post_with_ports(a, "kept", 4, &d, 1, RINGPORT_NO_WAIT));
        OK(ringport_recv(b, RINGPORT_NO_WAIT, &message));
        CHECK(ringport_message_is_in_place(message) == (trusted == 1));
        ringport_port_free(b);
        ANSWERS(RINGPORT_CLOSED, ringport_post(a, "x", 1, RINGPORT_NO_WAIT));
        CHECK(memcmp(ringport_message_data(message), "kept", 4) == 0);
        OK(ringport_message_take_port(message, 0, &gift));
        ringport_message_free(message);
        post(gift, "alive");
        expect(c, "alive");
        ringport_port_free(gift);
        b = NULL;
        close_channels();
    }
}

static void s44_ports_that_are_not_taken_are_closed(void)
{
    ringport_message *message = NULL;
    ringport_close_reason reason = RINGPORT_OPEN;
    open_channels();
    OK(ringport_post_with_ports(a, "x", 1, &d, 1, RINGPORT_NO_WAIT));
    OK(ringport_recv(b, RINGPORT_NO_WAIT, &message));
    ringport_message_free(message);
    ANSWERS(RINGPORT_CLOSED, ringport_recv(c, RINGPORT_FOREVER, &message));
    OK(ringport_port_close_reason(c, &reason));
    CHECK(reason == RINGPORT_CLOSED_BY_PEER);
    close_channels();
}

static void descriptors_that_are_no_port_stay_the_callers(void)
{
    int segment, doorbell, peek_off = 4, file = open("/dev/null", O_RDWR | O_CLOEXEC);
    socklen_t length = sizeof peek_off;
    ringport_port *port = NULL;

    open_channels();
    post(a, "waits");
    OK(ringport_port_into_fds(b, &segment, &doorbell));
    CHECK((fcntl(segment, F_GETFD) & FD_CLOEXEC) && (fcntl(doorbell, F_GETFD) & FD_CLOEXEC));
    CHECK(fcntl(segment, F_SETFD, 0) == 0 && fcntl(doorbell, F_SETFD, 0) == 0);
    CHECK(setsockopt(doorbell, SOL_SOCKET, SO_PEEK_OFF, &peek_off, sizeof peek_off) == 0);
    SAYS(RINGPORT_INVALID, "-1", ringport_port_from_fds(-1, doorbell, &port));
    SAYS(RINGPORT_INVALID, "4321", ringport_port_from_fds(segment, 4321, &port));
    ANSWERS(RINGPORT_NOT_A_PORT, ringport_port_from_fds(segment, segment, &port));
    ANSWERS(RINGPORT_NOT_A_PORT, ringport_port_from_fds(doorbell, segment, &port));
    ANSWERS(RINGPORT_NOT_A_PORT, ringport_port_from_fds(file, doorbell, &port));
    ANSWERS(RINGPORT_NOT_A_PORT, ringport_port_from_fds(segment, file, &port));
    CHECK(port == NULL && fcntl(segment, F_GETFD) == 0 && fcntl(doorbell, F_GETFD) == 0 && fcntl(file, F_GETFD) >= 0);
    CHECK(getsockopt(doorbell, SOL_SOCKET, SO_PEEK_OFF, &peek_off, &length) == 0 && peek_off == 4);
    OK(ringport_port_from_fds(segment, doorbell, &port));
    CHECK((fcntl(segment, F_GETFD) & FD_CLOEXEC) && (fcntl(doorbell, F_GETFD) & FD_CLOEXEC));
    CHECK(getsockopt(doorbell, SOL_SOCKET, SO_PEEK_OFF, &peek_off, &length) == 0 && peek_off == -1);
    expect(port, "waits");
    ringport_port_free(port);
    CHECK(fcntl(segment, F_GETFD) < 0 && fcntl(doorbell, F_GETFD) < 0);
    close(file);
    close_channels();
}

static void a_port_goes_over_any_unix_socket(void)
{
    int sockets[2], file = open("/dev/null", O_RDWR | O_CLOEXEC);
    char rest[4];
    ringport_port *port = NULL;
    void *data;

    open_channels();
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
    SAYS(RINGPORT_INVALID, "-1", ringport_port_send(d, -1));
    SAYS(RINGPORT_SYSTEM, "sendmsg", ringport_port_send(d, file));
    CHECK(ringport_last_errno() == ENOTSOCK);
    ANSWERS(RINGPORT_INVALID, ringport_port_receive(-1, RINGPORT_NO_WAIT, &port));
    CHECK(write(sockets[0], "text", 4) == 4);
    SAYS(RINGPORT_NOT_A_PORT, "0x74", ringport_port_receive(sockets[1], RINGPORT_NO_WAIT, &port));
    CHECK(read(sockets[1], rest, 4) == 4);
    ANSWERS(RINGPORT_NOT_YET, ringport_port_receive(sockets[1], RINGPORT_NO_WAIT, &port));
    CHECK(fcntl(sockets[1], F_SETFL, O_NONBLOCK) == 0);
    ANSWERS(RINGPORT_NOT_YET, ringport_port_receive(sockets[1], 1000000, &port));
    CHECK(port == NULL);
    OK(ringport_reserve(d, 1, RINGPORT_NO_WAIT, &data));
    ANSWERS(RINGPORT_BUSY, ringport_port_send(d, sockets[0]));
    OK(ringport_abort(d));
    post(c, "waits");
    OK(ringport_port_send(d, sockets[0]));
    ANSWERS(RINGPORT_DETACHED, ringport_port_send(d, sockets[0]));
    OK(ringport_port_receive(sockets[1], RINGPORT_FOREVER, &port));
    expect(port, "waits");
    OK(ringport_port_close(port));
    ANSWERS(RINGPORT_CLOSED_PORT, ringport_port_send(port, sockets[0]));
    ringport_port_free(port);
    close(sockets[0]);
    ANSWERS(RINGPORT_CLOSED, ringport_port_receive(sockets[1], RINGPORT_NO_WAIT, &port));
    close(sockets[1]);
    close(file);
    close_channels();
}

/* Other families leave descriptors behind, and say that all was sent. */
static void a_port_does_not_go_over_other_sockets(void)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int here = socket(AF_INET, SOCK_DGRAM, 0), there = socket(AF_INET, SOCK_DGRAM, 0);
    ringport_port *port = NULL;

    open_channels();
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(there, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(getsockname(there, (struct sockaddr *)&address, &length) == 0);
    CHECK(connect(here, (struct sockaddr *)&address, length) == 0);
    ANSWERS(RINGPORT_SYSTEM, ringport_port_send(d, here));
    CHECK(ringport_last_errno() == EAFNOSUPPORT);
    CHECK(send(here, "P", 1, 0) == 1);
    ANSWERS(RINGPORT_SYSTEM, ringport_port_receive(there, RINGPORT_NO_WAIT, &port));
    CHECK(ringport_last_errno() == EAFNOSUPPORT && port == NULL);
    post(c, "kept");
    expect(d, "kept");
    close(here);
    close(there);
    close_channels();
}

/* A packet is a port if it is one byte with two descriptors, and nothing else is there. */
static void a_port_is_a_packet_of_its_own(void)
{
    const int types[] = {SOCK_DGRAM, SOCK_SEQPACKET};
    int type, sockets[2];
    char packet[8];
    for (type = 0; type < 2; type++) {
        ringport_port *port = NULL;
        open_channels();
        CHECK(socketpair(AF_UNIX, types[type], 0, sockets) == 0);
        CHECK(send(sockets[0], "", 0, 0) == 0);
        CHECK(send(sockets[0], "Port", 4, 0) == 4);
        OK(ringport_port_send(d, sockets[0]));
        SAYS(RINGPORT_NOT_A_PORT, "empty", ringport_port_receive(sockets[1], RINGPORT_NO_WAIT, &port));
        CHECK(recv(sockets[1], packet, sizeof packet, 0) == 0);
        SAYS(RINGPORT_NOT_A_PORT, "more bytes", ringport_port_receive(sockets[1], RINGPORT_NO_WAIT, &port));
        CHECK(recv(sockets[1], packet, sizeof packet, 0) == 4);
        OK(ringport_port_receive(sockets[1], RINGPORT_NO_WAIT, &port));
        post(c, "hello");
        expect(port, "hello");
        ringport_port_free(port);
        close(sockets[0]);
        close(sockets[1]);
        close_channels();
    }
}

int main(void)
{
    RUN(s33_what_waits_on_a_port_goes_with_it);
    RUN(s16_a_handle_whose_port_has_moved_is_dead);
    RUN(s13_the_checks_come_in_their_order);
    RUN(s12_a_post_that_finds_no_place_gives_the_ports_back);
    RUN(messages_in_place_hold_a_port_and_copies_do_not);
    RUN(a_message_outlives_the_handle_of_its_port);
    RUN(s44_ports_that_are_not_taken_are_closed);
    RUN(descriptors_that_are_no_port_stay_the_callers);
    RUN(a_port_goes_over_any_unix_socket);
    RUN(a_port_does_not_go_over_other_sockets);
    RUN(a_port_is_a_packet_of_its_own);
    return 0;
}
