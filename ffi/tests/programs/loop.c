/* The event loop in C: callbacks that do whatever callbacks do, and what they own. */
#include "check.h"

#include <pthread.h>
#include <sys/socket.h>

static int freed, called;
static ringport_port *a, *b;
static ringport_loop *loop;
static const int64_t bound = 20 * INT64_C(1000000000);

static void free_user(void *user)
{
    CHECK(user == &freed);
    freed++;
}

static void begin(void)
{
    freed = called = 0;
    OK(ringport_channel_new(NULL, &a, &b));
    OK(ringport_loop_new(&loop));
    OK(ringport_loop_add(loop, b));
}

static void end(void)
{
    ringport_port_free(a);
    ringport_port_free(b);
    ringport_loop_free(loop);
}

static void count(ringport_loop *events, ringport_port *port, ringport_message *message, void *user)
{
    CHECK(events == loop && port == b && user == &freed);
    called++;
    ringport_message_free(message);
}

static void run_all(void)
{
    while (ringport_loop_run_once(loop, RINGPORT_NO_WAIT) == RINGPORT_OK) {
    }
}

static void s24_to_s27_a_port_starts_when_it_is_told_to(void)
{
    begin();
    post(a, "1");
    OK(ringport_port_on_message_after_start(b, count, &freed, free_user));
    run_all();
    CHECK(called == 0);
    OK(ringport_port_start(b));
    OK(ringport_port_start(b));
    run_all();
    CHECK(called == 1 && freed == 0);
    OK(ringport_port_on_message(b, count, &freed, free_user));
    run_all();
    CHECK(called == 1 && freed == 1);
    /* The handle goes on working beside the loop. */
    post(a, "2");
    expect(b, "2");
    post(b, "3");
    expect(a, "3");
    end();
    CHECK(freed == 2);
}

static void answer_and_close(ringport_loop *events, ringport_port *port, ringport_message *message, void *user)
{
    (void)events, (void)user;
    /* Several held, used after others were freed, in any order. */
    static ringport_message *held[3];
    held[called++] = message;
    if (called == 3) {
        CHECK(memcmp(ringport_message_data(held[0]), "0", 1) == 0);
        ringport_message_free(held[1]);
        ringport_message_free(held[0]);
        OK(ringport_post(port, ringport_message_data(held[2]), 1, RINGPORT_NO_WAIT));
        ringport_message_free(held[2]);
        OK(ringport_port_close(port));
    }
}

static void s28_a_callback_may_post_and_close(void)
{
    ringport_message *message;
    begin();
    post(a, "0");
    post(a, "1");
    post(a, "2");
    OK(ringport_port_on_message(b, answer_and_close, &freed, free_user));
    OK(ringport_loop_run(loop)); /* ends, since nothing is left */
    CHECK(called == 3 && freed == 1);
    ANSWERS(RINGPORT_CLOSED, ringport_post(b, "x", 1, RINGPORT_NO_WAIT));
    ANSWERS(RINGPORT_CLOSED, ringport_recv(b, RINGPORT_NO_WAIT, &message));
    OK(ringport_port_close(b));
    ANSWERS(RINGPORT_CLOSED_PORT, ringport_post_with_ports(a, "x", 1, &b, 1, RINGPORT_NO_WAIT));
    expect(a, "2");
    end();
}

static void send_itself(ringport_loop *events, ringport_port *port, ringport_message *message, void *carrier)
{
    called++;
    ANSWERS(RINGPORT_BUSY, ringport_post_with_ports(carrier, "me", 2, &port, 1, RINGPORT_NO_WAIT));
    ringport_message_free(message);
    OK(ringport_loop_remove(events, port));
    ANSWERS(RINGPORT_NOT_IN_LOOP, ringport_loop_remove(events, port));
    OK(ringport_post_with_ports(carrier, "me", 2, &port, 1, RINGPORT_NO_WAIT));
    ANSWERS(RINGPORT_DETACHED, ringport_post(port, "x", 1, RINGPORT_NO_WAIT));
}

static void s38_a_port_moves_from_its_own_callback(void)
{
    int trusted;
    for (trusted = 0; trusted < 2; trusted++) {
        ringport_port *out, *in, *moved = NULL;
        ringport_message *message = NULL;
        begin();
        OK(ringport_channel_new(NULL, &out, &in));
        if (trusted) {
            OK(ringport_port_trust_peer(b));
        }
        post(a, "go");
        post(a, "the rest");
        OK(ringport_port_on_message(b, send_itself, out, NULL));
        OK(ringport_loop_run(loop));
        CHECK(called == 1);
        OK(ringport_recv(in, RINGPORT_NO_WAIT, &message));
        OK(ringport_message_take_port(message, 0, &moved));
        ringport_message_free(message);
        expect(moved, "the rest");
        ringport_port_free(moved);
        ringport_port_free(out);
        ringport_port_free(in);
        end();
    }
}

static void free_everything(ringport_loop *events, ringport_port *port, ringport_message *message, void *user)
{
    CHECK(user == &freed && freed == 0);
    called++;
    ringport_port_free(port);
    ringport_loop_free(events);
    CHECK(freed == 0 || called == 1);
    CHECK(memcmp(ringport_message_data(message), "last", 4) == 0);
    ringport_message_free(message);
}

static void a_callback_may_free_its_port_and_its_loop(void)
{
    int trusted;
    for (trusted = 0; trusted < 2; trusted++) {
        ringport_message *message;
        begin();
        if (trusted) {
            OK(ringport_port_trust_peer(b));
        }
        post(a, "last");
        post(a, "never seen");
        OK(ringport_port_on_message(b, free_everything, &freed, free_user));
        ANSWERS(RINGPORT_OK, ringport_loop_run(loop));
        CHECK(called == 1 && freed == 1);
        ANSWERS(RINGPORT_CLOSED, ringport_recv(a, bound, &message));
        ringport_port_free(a);
    }
}

static void free_port(ringport_loop *events, ringport_port *port, int32_t reason, void *user)
{
    (void)events, (void)user;
    called = reason;
    ringport_port_free(port);
    b = NULL;
}

static void s48_the_close_comes_after_the_last_message(void)
{
    begin();
    OK(ringport_port_on_message_after_start(b, count, &freed, free_user));
    OK(ringport_port_on_close(b, free_port, &freed, free_user));
    post(a, "1");
    ringport_port_free(a);
    a = NULL;
    run_all();
    CHECK(called == 0);
    OK(ringport_port_start(b));
    OK(ringport_loop_run(loop));
    CHECK(called == RINGPORT_CLOSED_BY_PEER && freed == 2);
    end();
}

static void a_port_that_has_left_its_loop_says_why(void)
{
    ringport_close_reason reason = RINGPORT_OPEN;
    ringport_stats stats = RINGPORT_STATS_INIT;
    begin();
    OK(ringport_port_on_message(b, count, &freed, free_user));
    ringport_port_free(a);
    a = NULL;
    OK(ringport_loop_run(loop));
    CHECK(freed == 1);
    OK(ringport_port_close_reason(b, &reason));
    CHECK(reason == RINGPORT_CLOSED_BY_PEER);
    ANSWERS(RINGPORT_CLOSED, ringport_port_stats(b, &stats));
    ANSWERS(RINGPORT_CLOSED, ringport_port_start(b));
    ANSWERS(RINGPORT_CLOSED, ringport_commit(b, 0));
    ANSWERS(RINGPORT_CLOSED, ringport_batch_publish(b, NULL));
    end();
}

static void fill(ringport_loop *events, ringport_port *port, void *user)
{
    (void)events, (void)user;
    CHECK(port == b);
    called++;
}

static void room_is_told_once(void)
{
    static char much[30000];
    ringport_message *message = NULL;
    begin();
    while (ringport_post(b, much, sizeof much, RINGPORT_NO_WAIT) == RINGPORT_OK) {
    }
    OK(ringport_port_on_room(b, sizeof much, false, fill, &freed, free_user));
    run_all();
    CHECK(called == 0);
    while (ringport_recv(a, RINGPORT_NO_WAIT, &message) == RINGPORT_OK) {
        ringport_message_free(message);
    }
    OK(ringport_loop_run_once(loop, bound));
    CHECK(called == 1 && freed == 1);
    run_all();
    CHECK(called == 1);
    end();
}

static void tick(ringport_loop *events, void *user)
{
    CHECK(user == &freed);
    ANSWERS(RINGPORT_BUSY, ringport_loop_run(events));
    ANSWERS(RINGPORT_BUSY, ringport_loop_run_once(events, RINGPORT_NO_WAIT));
    if (++called == 3) {
        OK(ringport_loop_stop(events));
    }
}

static void *wake(void *waker)
{
    CHECK(ringport_waker_wake(waker) == RINGPORT_OK);
    return NULL;
}

static void timers_and_wakes_are_told(void)
{
    uint64_t interval = 0, never = 0;
    ringport_waker *waker;
    pthread_t thread;
    begin();
    OK(ringport_loop_set_interval(loop, 1000000, tick, &freed, free_user, &interval));
    OK(ringport_loop_set_timeout(loop, UINT64_MAX, tick, &freed, free_user, &never));
    CHECK(interval != never);
    OK(ringport_loop_run(loop));
    CHECK(called == 3 && freed == 0);
    OK(ringport_loop_clear_timer(loop, interval));
    CHECK(freed == 1);
    SAYS(RINGPORT_NOT_IN_LOOP, "is not set", ringport_loop_clear_timer(loop, interval));
    OK(ringport_loop_clear_timer(loop, never));
    CHECK(freed == 2);
    called = 2;
    OK(ringport_loop_on_wake(loop, tick, &freed, free_user));
    OK(ringport_loop_waker(loop, &waker));
    CHECK(pthread_create(&thread, NULL, wake, waker) == 0);
    OK(ringport_loop_run(loop));
    CHECK(called == 3 && pthread_join(thread, NULL) == 0);
    end();
    CHECK(freed == 3);
    OK(ringport_waker_wake(waker));
    ringport_waker_free(waker);
}

static void a_port_is_in_one_loop_and_callbacks_need_one(void)
{
    ringport_loop *other;
    void *data;
    int segment, doorbell;
    begin();
    OK(ringport_loop_new(&other));
    SAYS(RINGPORT_BUSY, "loop", ringport_loop_add(other, b));
    ANSWERS(RINGPORT_NOT_IN_LOOP, ringport_loop_remove(other, b));
    ANSWERS(RINGPORT_NOT_IN_LOOP, ringport_loop_remove(loop, a));
    ANSWERS(RINGPORT_NOT_IN_LOOP, ringport_port_on_message(a, count, &freed, free_user));
    ANSWERS(RINGPORT_NOT_IN_LOOP, ringport_port_start(a));
    ANSWERS(RINGPORT_BUSY, ringport_port_into_fds(b, &segment, &doorbell));
    OK(ringport_reserve(b, 4, RINGPORT_NO_WAIT, &data));
    ANSWERS(RINGPORT_BUSY, ringport_loop_remove(loop, b));
    memcpy(data, "slot", 4);
    OK(ringport_commit(b, 4));
    expect(a, "slot");
    OK(ringport_reserve(a, 4, RINGPORT_NO_WAIT, &data));
    ANSWERS(RINGPORT_BUSY, ringport_loop_add(loop, a));
    OK(ringport_abort(a));
    CHECK(freed == 0);
    OK(ringport_port_on_message(b, count, &freed, free_user));
    OK(ringport_loop_remove(loop, b));
    CHECK(freed == 1);
    OK(ringport_loop_add(other, b));
    ringport_loop_free(other);
    ANSWERS(RINGPORT_CLOSED, ringport_post(b, "x", 1, RINGPORT_NO_WAIT));
    /* Freed with a reservation open, and before its loop or after it. */
    ringport_port_free(b);
    OK(ringport_loop_add(loop, a));
    ringport_loop_free(loop);
    ringport_port_free(a);
    begin();
    OK(ringport_batch_begin(b));
    OK(ringport_batch_post(b, "x", 1));
    ringport_loop_free(loop);
    loop = NULL;
    ringport_port_free(b);
    b = NULL;
    end();
}

static void free_handle(void *user)
{
    CHECK(user == b);
    ringport_port_free(b);
    b = NULL;
    freed++;
}

static void free_loop(void *user)
{
    CHECK(user == &freed);
    ringport_loop_free(loop);
    loop = NULL;
    freed++;
}

static void ignore(ringport_loop *events, ringport_port *port, ringport_message *message, void *user)
{
    (void)events, (void)port, (void)user;
    ringport_message_free(message);
}

static void ignore_event(ringport_loop *events, void *user)
{
    (void)events, (void)user;
}

static void what_frees_a_user_may_free_the_handles_of_the_very_call(void)
{
    uint64_t timer;
    ringport_message *message;
    begin();
    OK(ringport_port_on_message(b, ignore, b, free_handle));
    OK(ringport_loop_remove(loop, b));
    CHECK(freed == 1 && b == NULL);
    ANSWERS(RINGPORT_CLOSED, ringport_recv(a, bound, &message));
    end();

    begin();
    OK(ringport_port_on_message(b, ignore, b, free_handle));
    OK(ringport_port_on_message(b, ignore, NULL, NULL));
    CHECK(freed == 1 && b == NULL);
    ANSWERS(RINGPORT_CLOSED, ringport_recv(a, bound, &message));
    end();

    begin();
    OK(ringport_loop_set_timeout(loop, UINT64_MAX, ignore_event, &freed, free_loop, &timer));
    OK(ringport_loop_clear_timer(loop, timer));
    CHECK(freed == 1 && loop == NULL);
    ANSWERS(RINGPORT_CLOSED, ringport_post(b, "x", 1, RINGPORT_NO_WAIT));
    end();

    begin();
    OK(ringport_loop_on_wake(loop, ignore_event, &freed, free_loop));
    OK(ringport_loop_on_wake(loop, ignore_event, NULL, NULL));
    CHECK(freed == 1 && loop == NULL);
    end();

    /* The callback that is set stays the one that is freed with the port. */
    begin();
    OK(ringport_port_on_message(b, ignore, &freed, free_loop));
    OK(ringport_port_on_message(b, count, &freed, free_user));
    CHECK(freed == 2 && loop == NULL);
    end();
}

static ringport_loop *second;

static void move_on(ringport_loop *events, ringport_port *port, int32_t reason, void *user)
{
    (void)reason, (void)user;
    OK(ringport_loop_remove(events, port));
    OK(ringport_loop_add(second, port));
    OK(ringport_port_on_close(port, free_port, &freed, free_user));
}

static void a_port_may_go_to_another_loop_from_its_close_callback(void)
{
    begin();
    OK(ringport_loop_new(&second));
    OK(ringport_port_on_close(b, move_on, &freed, free_user));
    OK(ringport_port_start(b));
    ringport_port_free(a);
    a = NULL;
    OK(ringport_loop_run(loop));
    CHECK(freed == 1 && called == 0);
    OK(ringport_loop_remove(second, b));
    OK(ringport_loop_add(second, b));
    OK(ringport_port_on_close(b, free_port, &freed, free_user));
    OK(ringport_loop_run(second));
    CHECK(called == RINGPORT_CLOSED_BY_PEER && b == NULL && freed == 3);
    ringport_loop_free(second);
    end();
}

static void a_freed_loop_closes_everything_though_something_is_in_use(void)
{
    ringport_port *c, *d;
    ringport_message *message, *shown = NULL;
    void *data;
    begin();
    OK(ringport_channel_new(NULL, &c, &d));
    OK(ringport_loop_add(loop, c));
    OK(ringport_port_on_message(c, count, &freed, free_user));
    OK(ringport_port_trust_peer(b));
    post(a, "shown");
    OK(ringport_recv(b, RINGPORT_NO_WAIT, &shown));
    CHECK(ringport_message_is_in_place(shown));
    OK(ringport_reserve(b, 4, RINGPORT_NO_WAIT, &data));
    ringport_loop_free(loop);
    CHECK(freed == 1);
    ANSWERS(RINGPORT_CLOSED, ringport_recv(d, bound, &message));
    ANSWERS(RINGPORT_CLOSED, ringport_recv(a, bound, &message));
    ANSWERS(RINGPORT_CLOSED, ringport_post(c, "x", 1, RINGPORT_NO_WAIT));
    ANSWERS(RINGPORT_CLOSED, ringport_commit(b, 4));
    CHECK(memcmp(ringport_message_data(shown), "shown", 5) == 0);
    ringport_message_free(shown);
    ringport_port_free(c);
    ringport_port_free(d);
    loop = NULL;
    end();
}

static void end_the_channel_as_no_peer_would(ringport_port *peer, ringport_port *here)
{
    ringport_close_reason reason;
    int segment, doorbell;
    OK(ringport_port_into_fds(peer, &segment, &doorbell));
    CHECK(send(doorbell, "\x05", 1, 0) == 1);
    OK(ringport_port_close_reason(here, &reason));
    CHECK(reason == RINGPORT_CORRUPT);
    close(segment);
    close(doorbell);
}

static void must_not_close(ringport_loop *events, ringport_port *port, int32_t reason, void *user)
{
    (void)events, (void)port, (void)reason, (void)user;
    CHECK(!"the handle was freed");
}

/* Though the port was in use then, and has to be told of still. */
static void no_callback_comes_with_a_handle_that_was_freed(void)
{
    ringport_message *shown;
    begin();
    OK(ringport_port_on_close(b, must_not_close, NULL, NULL));
    OK(ringport_port_trust_peer(b));
    post(a, "shown");
    OK(ringport_recv(b, RINGPORT_NO_WAIT, &shown));
    CHECK(ringport_message_is_in_place(shown));
    end_the_channel_as_no_peer_would(a, b);
    ringport_port_free(b);
    b = NULL;
    run_all();
    CHECK(memcmp(ringport_message_data(shown), "shown", 5) == 0);
    ringport_message_free(shown);
    end();

    begin();
    OK(ringport_port_on_close(b, must_not_close, NULL, NULL));
    OK(ringport_port_on_message(b, ignore, b, free_handle));
    end_the_channel_as_no_peer_would(a, b);
    OK(ringport_port_on_message(b, ignore, NULL, NULL));
    CHECK(b == NULL);
    run_all();
    end();
}

static void free_loop_and_use_port(ringport_loop *events, void *user)
{
    ringport_message *message;
    (void)user;
    ringport_loop_free(events);
    post(b, "before");
    OK(ringport_port_close(b));
    ANSWERS(RINGPORT_CLOSED, ringport_post(b, "x", 1, RINGPORT_NO_WAIT));
    expect(a, "before");
    ANSWERS(RINGPORT_CLOSED, ringport_recv(a, bound, &message));
}

static void s47_a_port_is_closed_also_after_its_loop_was_freed_in_a_callback(void)
{
    begin();
    OK(ringport_loop_set_timeout(loop, 0, free_loop_and_use_port, NULL, NULL, NULL));
    OK(ringport_loop_run(loop));
    loop = NULL;
    ANSWERS(RINGPORT_CLOSED, ringport_post(b, "x", 1, RINGPORT_NO_WAIT));
    end();
}

static void a_port_that_was_closed_here_has_left_its_loop_as_well(void)
{
    ringport_loop *elsewhere;
    begin();
    OK(ringport_loop_new(&elsewhere));
    OK(ringport_port_close(b));
    ANSWERS(RINGPORT_BUSY, ringport_loop_add(elsewhere, b));
    OK(ringport_loop_run(loop));
    ANSWERS(RINGPORT_CLOSED, ringport_loop_remove(loop, b));
    ANSWERS(RINGPORT_CLOSED, ringport_loop_add(elsewhere, b));
    ANSWERS(RINGPORT_CLOSED, ringport_port_start(b));
    ringport_loop_free(elsewhere);
    end();
}

int main(void)
{
    RUN(s24_to_s27_a_port_starts_when_it_is_told_to);
    RUN(s28_a_callback_may_post_and_close);
    RUN(s38_a_port_moves_from_its_own_callback);
    RUN(a_callback_may_free_its_port_and_its_loop);
    RUN(s48_the_close_comes_after_the_last_message);
    RUN(a_port_that_has_left_its_loop_says_why);
    RUN(room_is_told_once);
    RUN(timers_and_wakes_are_told);
    RUN(a_port_is_in_one_loop_and_callbacks_need_one);
    RUN(what_frees_a_user_may_free_the_handles_of_the_very_call);
    RUN(a_port_may_go_to_another_loop_from_its_close_callback);
    RUN(a_freed_loop_closes_everything_though_something_is_in_use);
    RUN(no_callback_comes_with_a_handle_that_was_freed);
    RUN(s47_a_port_is_closed_also_after_its_loop_was_freed_in_a_callback);
    RUN(a_port_that_was_closed_here_has_left_its_loop_as_well);
    return 0;
}
