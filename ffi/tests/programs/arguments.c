/* What bad arguments get: a status, words, and nothing else. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/wait.h>

static ringport_port *a, *b;

static void open_channel(void)
{
    OK(ringport_channel_new(NULL, &a, &b));
}

static void close_channel(void)
{
    ringport_port_free(a);
    ringport_port_free(b);
}

static void on_message(ringport_loop *loop, ringport_port *port, ringport_message *message, void *user)
{
    (void)loop, (void)port, (void)user;
    ringport_message_free(message);
}

static void must_not_free(void *user)
{
    (void)user;
    CHECK(!"the caller keeps what belongs to a callback that was not set");
}

static void null_is_an_error_that_names_the_argument(void)
{
    ringport_message *message = NULL;
    ringport_loop *loop = NULL;
    ringport_listener *listener = NULL;
    ringport_child *child = NULL;
    ringport_waker *waker = NULL;
    ringport_close_reason reason;
    ringport_wait_strategy strategy;
    ringport_stats stats = RINGPORT_STATS_INIT;
    const char *const argv[] = {"/bin/true", NULL};
    const void *place;
    const char *text;
    void *data;
    size_t size;
    int one, two;

    open_channel();
    SAYS(RINGPORT_NULL, "port1", ringport_channel_new(NULL, NULL, &b));
    SAYS(RINGPORT_NULL, "port2", ringport_channel_new(NULL, &a, NULL));
    SAYS(RINGPORT_NULL, "port", ringport_port_close(NULL));
    ANSWERS(RINGPORT_NULL, ringport_port_close_reason(NULL, &reason));
    SAYS(RINGPORT_NULL, "reason", ringport_port_close_reason(a, NULL));
    CHECK(ringport_port_capacity(NULL) == 0 && ringport_port_max_message_len(NULL) == 0);
    CHECK(ringport_port_pending(NULL) == 0);
    ANSWERS(RINGPORT_NULL, ringport_post(NULL, "x", 1, RINGPORT_NO_WAIT));
    SAYS(RINGPORT_NULL, "data", ringport_post(a, NULL, 1, RINGPORT_NO_WAIT));
    ANSWERS(RINGPORT_NULL, ringport_post_with_ports(NULL, "x", 1, &b, 1, RINGPORT_NO_WAIT));
    SAYS(RINGPORT_NULL, "ports", ringport_post_with_ports(a, "x", 1, NULL, 1, RINGPORT_NO_WAIT));
    ANSWERS(RINGPORT_NULL, ringport_reserve(NULL, 1, RINGPORT_NO_WAIT, &data));
    SAYS(RINGPORT_NULL, "data", ringport_reserve(a, 1, RINGPORT_NO_WAIT, NULL));
    ANSWERS(RINGPORT_NULL, ringport_reserve_aligned(NULL, 1, 64, &data));
    ANSWERS(RINGPORT_NULL, ringport_commit(NULL, 0));
    ANSWERS(RINGPORT_NULL, ringport_batch_begin(NULL));
    ANSWERS(RINGPORT_NULL, ringport_batch_post(NULL, "x", 1));
    ANSWERS(RINGPORT_NULL, ringport_batch_publish(NULL, &size));
    ANSWERS(RINGPORT_NULL, ringport_abort(NULL));
    post(b, "stays");
    ANSWERS(RINGPORT_NULL, ringport_recv(NULL, RINGPORT_NO_WAIT, &message));
    SAYS(RINGPORT_NULL, "message", ringport_recv(a, RINGPORT_NO_WAIT, NULL));
    expect(a, "stays");
    ANSWERS(RINGPORT_NULL, ringport_wait_any(NULL, 1, RINGPORT_NO_WAIT, &size));
    ANSWERS(RINGPORT_NULL, ringport_wait_any(&a, 1, RINGPORT_NO_WAIT, NULL));
    CHECK(ringport_message_data(NULL) == NULL && ringport_message_len(NULL) == 0);
    CHECK(!ringport_message_is_in_place(NULL) && ringport_message_port_count(NULL) == 0);
    ANSWERS(RINGPORT_NULL, ringport_message_take_port(NULL, 0, &b));
    ANSWERS(RINGPORT_NULL, ringport_message_make_owned(NULL));
    ANSWERS(RINGPORT_NULL, ringport_archived_root(NULL, 4, 4, 4, &place));
    ANSWERS(RINGPORT_NULL, ringport_archived_string("01234567", 8, "", NULL, &size));
    ANSWERS(RINGPORT_NULL, ringport_archived_string("01234567", 8, "", &text, NULL));
    ANSWERS(RINGPORT_NULL, ringport_archived_slice("01234567", 8, "", 1, 1, &place, NULL));
    ANSWERS(RINGPORT_NULL, ringport_port_into_fds(NULL, &one, &two));
    ANSWERS(RINGPORT_NULL, ringport_port_into_fds(a, NULL, &two));
    ANSWERS(RINGPORT_NULL, ringport_port_into_fds(a, &one, NULL));
    ANSWERS(RINGPORT_NULL, ringport_port_from_fds(0, 1, NULL));
    ANSWERS(RINGPORT_NULL, ringport_port_send(NULL, 0));
    ANSWERS(RINGPORT_NULL, ringport_port_receive(0, RINGPORT_NO_WAIT, NULL));
    ANSWERS(RINGPORT_NULL, ringport_port_fd(NULL, &one));
    ANSWERS(RINGPORT_NULL, ringport_port_fd(a, NULL));
    ANSWERS(RINGPORT_NULL, ringport_port_arm(NULL, RINGPORT_MESSAGE, 0));
    ANSWERS(RINGPORT_NULL, ringport_port_trust_peer(NULL));
    ANSWERS(RINGPORT_NULL, ringport_port_set_wait_strategy(NULL, RINGPORT_WAIT_BLOCK));
    ANSWERS(RINGPORT_NULL, ringport_port_wait_strategy(NULL, &strategy));
    ANSWERS(RINGPORT_NULL, ringport_port_wait_strategy(a, NULL));
    ANSWERS(RINGPORT_NULL, ringport_port_stats(NULL, &stats));
    ANSWERS(RINGPORT_NULL, ringport_port_stats(a, NULL));
    ANSWERS(RINGPORT_NULL, ringport_spawn(NULL, NULL, &a, &child));
    ANSWERS(RINGPORT_NULL, ringport_spawn(argv, NULL, NULL, &child));
    ANSWERS(RINGPORT_NULL, ringport_spawn(argv, NULL, &a, NULL));
    ANSWERS(RINGPORT_NULL, ringport_parent_port(NULL));
    CHECK(ringport_child_id(NULL) == 0);
    ANSWERS(RINGPORT_NULL, ringport_child_wait(NULL, &one));
    ANSWERS(RINGPORT_NULL, ringport_child_try_wait(NULL, &one));
    ANSWERS(RINGPORT_NULL, ringport_child_kill(NULL));
    ANSWERS(RINGPORT_NULL, ringport_listen(NULL, NULL, &listener));
    ANSWERS(RINGPORT_NULL, ringport_listen("name", NULL, NULL));
    ANSWERS(RINGPORT_NULL, ringport_accept(NULL, RINGPORT_NO_WAIT, &b, NULL));
    ANSWERS(RINGPORT_NULL, ringport_listener_fd(NULL, &one));
    CHECK(ringport_listener_path(NULL) == NULL);
    ANSWERS(RINGPORT_NULL, ringport_connect(NULL, NULL, &b));
    ANSWERS(RINGPORT_NULL, ringport_connect("name", NULL, NULL));
    ANSWERS(RINGPORT_NULL, ringport_loop_new(NULL));
    ANSWERS(RINGPORT_NULL, ringport_loop_add(NULL, a));
    ANSWERS(RINGPORT_NULL, ringport_loop_remove(NULL, a));
    ANSWERS(RINGPORT_NULL, ringport_loop_run(NULL));
    ANSWERS(RINGPORT_NULL, ringport_loop_run_once(NULL, RINGPORT_NO_WAIT));
    ANSWERS(RINGPORT_NULL, ringport_loop_stop(NULL));
    ANSWERS(RINGPORT_NULL, ringport_loop_clear_timer(NULL, 1));
    ANSWERS(RINGPORT_NULL, ringport_loop_waker(NULL, &waker));
    ANSWERS(RINGPORT_NULL, ringport_loop_fd(NULL, &one));
    ANSWERS(RINGPORT_NULL, ringport_loop_set_wait_strategy(NULL, RINGPORT_WAIT_BLOCK));
    ANSWERS(RINGPORT_NULL, ringport_loop_set_timeout(NULL, 1, NULL, NULL, must_not_free, NULL));
    ANSWERS(RINGPORT_NULL, ringport_loop_set_interval(NULL, 1, NULL, NULL, must_not_free, NULL));
    ANSWERS(RINGPORT_NULL, ringport_loop_on_wake(NULL, NULL, NULL, must_not_free));
    ANSWERS(RINGPORT_NULL, ringport_loop_add_listener(NULL, NULL, NULL, NULL, must_not_free));
    ANSWERS(RINGPORT_NULL, ringport_loop_remove_listener(NULL, NULL));
    ANSWERS(RINGPORT_NULL, ringport_loop_add_child(NULL, NULL, NULL, NULL, must_not_free));
    ANSWERS(RINGPORT_NULL, ringport_loop_remove_child(NULL, NULL));
    ANSWERS(RINGPORT_NULL, ringport_port_on_message(NULL, on_message, NULL, must_not_free));
    ANSWERS(RINGPORT_NULL, ringport_port_on_message_after_start(a, NULL, NULL, must_not_free));
    ANSWERS(RINGPORT_NULL, ringport_port_on_message_error(a, NULL, NULL, must_not_free));
    ANSWERS(RINGPORT_NULL, ringport_port_on_close(a, NULL, NULL, must_not_free));
    ANSWERS(RINGPORT_NULL, ringport_port_on_room(a, 1, false, NULL, NULL, must_not_free));
    ANSWERS(RINGPORT_NULL, ringport_port_start(NULL));
    ANSWERS(RINGPORT_NULL, ringport_waker_wake(NULL));
    OK(ringport_loop_new(&loop));
    ANSWERS(RINGPORT_NULL, ringport_loop_add(loop, NULL));
    ANSWERS(RINGPORT_NULL, ringport_loop_set_timeout(loop, 1, NULL, NULL, must_not_free, NULL));
    ringport_loop_free(loop);
    /* To free nothing is nothing. */
    ringport_port_free(NULL);
    ringport_message_free(NULL);
    ringport_listener_free(NULL);
    ringport_child_free(NULL);
    ringport_loop_free(NULL);
    ringport_waker_free(NULL);
    post(a, "still works");
    expect(b, "still works");
    close_channel();
}

static void null_is_no_place_in_an_archive(void)
{
    char data[16] = {0};
    const char *text;
    const void *found;
    size_t count;
    SAYS(RINGPORT_NULL, "`at`", ringport_archived_string(data, sizeof data, NULL, &text, &count));
    SAYS(RINGPORT_NULL, "`at`", ringport_archived_slice(data, sizeof data, NULL, 1, 1, &found, &count));
    SAYS(RINGPORT_NULL, "`at`", ringport_archived_box(data, sizeof data, NULL, 1, 1, &found));
    SAYS(RINGPORT_NULL, "`at`", ringport_archive_string(data, sizeof data, NULL, "a", 1));
    SAYS(RINGPORT_NULL, "`text`", ringport_archive_string(data, sizeof data, data, NULL, 9));
    SAYS(RINGPORT_NULL, "`at`", ringport_archive_slice(data, sizeof data, NULL, data, 1));
    SAYS(RINGPORT_NULL, "`elements`", ringport_archive_slice(data, sizeof data, data, NULL, 1));
    SAYS(RINGPORT_NULL, "`at`", ringport_archive_box(data, sizeof data, NULL, data));
    SAYS(RINGPORT_NULL, "`value`", ringport_archive_box(data, sizeof data, data, NULL));
}

static void a_wrong_size_is_refused(void)
{
    ringport_channel_options channel = RINGPORT_CHANNEL_OPTIONS_INIT;
    ringport_listener_options listening = RINGPORT_LISTENER_OPTIONS_INIT;
    ringport_connect_options connecting = RINGPORT_CONNECT_OPTIONS_INIT;
    ringport_spawn_options spawning = RINGPORT_SPAWN_OPTIONS_INIT;
    ringport_stats stats = RINGPORT_STATS_INIT;
    const char *const argv[] = {"/bin/true", NULL};
    ringport_listener *listener = NULL;
    ringport_child *child = NULL;
    size_t wrong[] = {0, 1, 7, SIZE_MAX};
    size_t i;

    open_channel();
    OK(ringport_port_stats(a, &stats));
    for (i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ringport_port *port1 = NULL, *port2 = NULL;
        channel.size = listening.size = connecting.size = spawning.size = stats.size = wrong[i];
        stats.sleeps = 77;
        SAYS(RINGPORT_BAD_SIZE, "ringport_channel_options", ringport_channel_new(&channel, &port1, &port2));
        ANSWERS(RINGPORT_BAD_SIZE, ringport_listen("name", &listening, &listener));
        ANSWERS(RINGPORT_BAD_SIZE, ringport_connect("name", &connecting, &port1));
        ANSWERS(RINGPORT_BAD_SIZE, ringport_spawn(argv, &spawning, &port1, &child));
        ANSWERS(RINGPORT_BAD_SIZE, ringport_port_stats(a, &stats));
        CHECK(port1 == NULL && port2 == NULL && listener == NULL && child == NULL && stats.sleeps == 77);
    }
    connecting.size = sizeof connecting;
    connecting.channel.size = 5;
    ANSWERS(RINGPORT_BAD_SIZE, ringport_connect("name", &connecting, &a));
    close_channel();
}

static void values_that_cannot_be_are_refused(void)
{
    ringport_channel_options options = RINGPORT_CHANNEL_OPTIONS_INIT;
    ringport_port *port1 = NULL, *port2 = NULL;
    ringport_child *child = NULL;
    ringport_spawn_options spawning = RINGPORT_SPAWN_OPTIONS_INIT;
    const char *const nothing[] = {NULL};
    const char *const missing[] = {"/no/such/program", NULL};
    const char *const truth[] = {"/bin/true", NULL};
    const char *const environment[] = {"A=1", "novalue", NULL};
    const int streams[] = {-1, 9999, -1};
    size_t index;

    open_channel();
    options.capacity_1_to_2 = 12345;
    SAYS(RINGPORT_CAPACITY, "12345", ringport_channel_new(&options, &port1, &port2));
    SAYS(RINGPORT_INVALID, "77", ringport_port_arm(a, 77, 0));
    SAYS(RINGPORT_INVALID, "-4", ringport_port_set_wait_strategy(a, -4));
    SAYS(RINGPORT_INVALID, "9", ringport_set_barrier(9));
    ANSWERS(RINGPORT_INVALID, ringport_wait_any(&a, 0, RINGPORT_FOREVER, &index));
    ANSWERS(RINGPORT_INVALID, ringport_spawn(nothing, NULL, &port1, &child));
    SAYS(RINGPORT_SPAWN, "/no/such/program", ringport_spawn(missing, NULL, &port1, &child));
    CHECK(ringport_last_errno() == ENOENT);
    spawning.environment = environment;
    SAYS(RINGPORT_INVALID, "novalue", ringport_spawn(truth, &spawning, &port1, &child));
    spawning.environment = NULL;
    spawning.standard_streams = streams;
    SAYS(RINGPORT_INVALID, "standard_streams[1]` is 9999", ringport_spawn(truth, &spawning, &port1, &child));
    spawning.standard_streams = NULL;
    spawning.directory = "/no/such/directory";
    SAYS(RINGPORT_SPAWN, "/bin/true in /no/such/directory", ringport_spawn(truth, &spawning, &port1, &child));
    ANSWERS(RINGPORT_ADDRESS, ringport_connect("", NULL, &port1));
    ANSWERS(RINGPORT_NOBODY_LISTENS, ringport_connect("/nowhere/at/all", NULL, &port1));
    ANSWERS(RINGPORT_NO_PARENT, ringport_parent_port(&port1));
    CHECK(port1 == NULL && port2 == NULL && child == NULL);
    CHECK(strcmp(ringport_status_name(1), "(no ringport_status)") == 0);
    close_channel();
}

/* What the _INIT macro begins with counts, also in the struct inside. */
static void how_to_connect_is_not_overlooked(void)
{
    ringport_connect_options options = RINGPORT_CONNECT_OPTIONS_INIT;
    ringport_listener *listener;
    ringport_port *port = NULL, *peer = NULL;
    char directory[] = "/tmp/ringport-XXXXXX", path[64];

    CHECK(mkdtemp(directory) != NULL);
    snprintf(path, sizeof path, "%s/here", directory);
    OK(ringport_listen(path, NULL, &listener));
    options.channel.capacity_1_to_2 = 12345;
    SAYS(RINGPORT_CAPACITY, "12345", ringport_connect(path, &options, &port));
    options.channel.capacity_1_to_2 = 4096;
    options.timeout_ns = RINGPORT_NO_WAIT;
    ANSWERS(RINGPORT_TIMED_OUT, ringport_connect(path, &options, &port));
    /* The one that has given up is there still, and is none. */
    ANSWERS(RINGPORT_NOT_YET, ringport_accept(listener, RINGPORT_NO_WAIT, &peer, NULL));
    CHECK(port == NULL && peer == NULL);
    ringport_listener_free(listener);
    CHECK(rmdir(directory) == 0);
}

static void lengths_beyond_the_limit_are_refused_and_nothing_is_lost(void)
{
    size_t max;
    char *much;
    void *data = NULL;

    open_channel();
    max = ringport_port_max_message_len(a);
    CHECK(max == 65536 / 2 - 24);
    much = calloc(1, max + 1);
    CHECK(much != NULL);
    SAYS(RINGPORT_TOO_LARGE, "32744", ringport_post(a, much, max + 1, RINGPORT_FOREVER));
    ANSWERS(RINGPORT_TOO_LARGE, ringport_post_with_ports(a, much, max + 1, NULL, 0, RINGPORT_FOREVER));
    ANSWERS(RINGPORT_TOO_LARGE, ringport_post(a, much, SIZE_MAX, RINGPORT_FOREVER));
    ANSWERS(RINGPORT_TOO_LARGE, ringport_reserve(a, SIZE_MAX, RINGPORT_FOREVER, &data));
    ANSWERS(RINGPORT_ALIGNMENT, ringport_reserve_aligned(a, 8, 3, &data));
    ANSWERS(RINGPORT_ALIGNMENT, ringport_reserve_aligned(a, 8, 256, &data));
    CHECK(data == NULL);
    OK(ringport_post(a, much, max, RINGPORT_NO_WAIT));
    OK(ringport_post(a, NULL, 0, RINGPORT_NO_WAIT));
    OK(ringport_post(a, much, max - 100, RINGPORT_NO_WAIT));
    ANSWERS(RINGPORT_FULL, ringport_post(a, much, max, RINGPORT_NO_WAIT));
    ANSWERS(RINGPORT_FULL, ringport_post(a, much, max, 1000));
    CHECK(ringport_port_pending(b) > max);
    free(much);
    {
        ringport_message *first = NULL, *second = NULL, *third = NULL;
        OK(ringport_recv(b, RINGPORT_NO_WAIT, &first));
        OK(ringport_recv(b, RINGPORT_NO_WAIT, &second));
        OK(ringport_recv(b, RINGPORT_NO_WAIT, &third));
        CHECK(ringport_message_len(third) == max - 100);
        ringport_message_free(third);
        third = (ringport_message *)&max;
        /* No error, so the words are still those of the last one. */
        ANSWERS(RINGPORT_NOT_YET, ringport_recv(b, RINGPORT_NO_WAIT, &third));
        ANSWERS(RINGPORT_NOT_YET, ringport_recv(b, 1000, &third));
        CHECK(strstr(ringport_last_error(), "full") != NULL && third == (ringport_message *)&max);
        CHECK(ringport_message_len(first) == max && ringport_message_len(second) == 0);
        CHECK(ringport_message_data(second) != NULL);
        ringport_message_free(second);
        ringport_message_free(first);
    }
    close_channel();
}

static void calls_out_of_their_order_are_refused(void)
{
    void *data = NULL, *other = NULL;
    size_t count = 77;

    open_channel();
    ANSWERS(RINGPORT_INVALID, ringport_commit(a, 0));
    ANSWERS(RINGPORT_INVALID, ringport_batch_post(a, "x", 1));
    ANSWERS(RINGPORT_INVALID, ringport_batch_publish(a, &count));
    OK(ringport_abort(a));

    OK(ringport_reserve(a, 8, RINGPORT_NO_WAIT, &data));
    ANSWERS(RINGPORT_BUSY, ringport_reserve(a, 8, RINGPORT_NO_WAIT, &other));
    ANSWERS(RINGPORT_BUSY, ringport_batch_begin(a));
    ANSWERS(RINGPORT_INVALID, ringport_batch_publish(a, &count));
    ANSWERS(RINGPORT_BUSY, ringport_post(a, "x", 1, RINGPORT_FOREVER));
    SAYS(RINGPORT_TOO_LARGE, "9 bytes", ringport_commit(a, 9));
    memcpy(data, "reserved", 8);
    OK(ringport_commit(a, 7));
    expect(b, "reserve");

    OK(ringport_reserve_aligned(a, 8, 128, &data));
    CHECK((uintptr_t)data % 128 == 0);
    OK(ringport_abort(a));
    ANSWERS(RINGPORT_INVALID, ringport_commit(a, 0));

    OK(ringport_batch_begin(a));
    ANSWERS(RINGPORT_BUSY, ringport_batch_begin(a));
    ANSWERS(RINGPORT_INVALID, ringport_commit(a, 0));
    OK(ringport_batch_post(a, "one", 3));
    OK(ringport_batch_post(a, "two", 3));
    CHECK(count == 77);
    {
        ringport_message *message;
        ANSWERS(RINGPORT_NOT_YET, ringport_recv(b, RINGPORT_NO_WAIT, &message));
    }
    OK(ringport_batch_publish(a, &count));
    CHECK(count == 2);
    expect(b, "one");
    expect(b, "two");

    OK(ringport_batch_begin(a));
    OK(ringport_batch_publish(a, NULL));
    OK(ringport_batch_begin(a));
    OK(ringport_batch_post(a, "dropped", 7));
    OK(ringport_abort(a));
    post(a, "after");
    expect(b, "after");

    /* Closed meanwhile: told, not kept back. */
    OK(ringport_reserve(a, 8, RINGPORT_NO_WAIT, &data));
    OK(ringport_port_close(a));
    ANSWERS(RINGPORT_CLOSED, ringport_commit(a, 8));
    ANSWERS(RINGPORT_INVALID, ringport_commit(a, 8));
    OK(ringport_port_close(a));
    {
        ringport_message *message;
        ringport_close_reason reason = RINGPORT_OPEN;
        OK(ringport_port_close_reason(a, &reason));
        CHECK(reason == RINGPORT_CLOSED_HERE);
        ANSWERS(RINGPORT_CLOSED, ringport_recv(b, RINGPORT_FOREVER, &message));
        OK(ringport_port_close_reason(b, &reason));
        CHECK(reason == RINGPORT_CLOSED_BY_PEER);
    }
    close_channel();
}

static void a_freed_port_with_a_reservation_posts_nothing(void)
{
    void *data;
    ringport_message *message;
    open_channel();
    post(a, "posted");
    OK(ringport_reserve(a, 8, RINGPORT_NO_WAIT, &data));
    ringport_port_free(a);
    expect(b, "posted");
    ANSWERS(RINGPORT_CLOSED, ringport_recv(b, RINGPORT_FOREVER, &message));
    ringport_port_free(b);
}

/* In a forked child nothing works, and nothing is harmed. */
static void s63_a_forked_child_is_told(void)
{
    int status = -1;
    pid_t child;
    ringport_message *held = NULL;
    open_channel();
    post(a, "held");
    post(a, "waiting");
    OK(ringport_recv(b, RINGPORT_NO_WAIT, &held));
    child = fork();
    if (child == 0) {
        ringport_message *message;
        void *data;
        ANSWERS(RINGPORT_FORKED, ringport_post(a, "x", 1, RINGPORT_NO_WAIT));
        ANSWERS(RINGPORT_FORKED, ringport_recv(b, RINGPORT_NO_WAIT, &message));
        ANSWERS(RINGPORT_FORKED, ringport_reserve(a, 1, RINGPORT_NO_WAIT, &data));
        ANSWERS(RINGPORT_FORKED, ringport_post_with_ports(a, "x", 1, NULL, 0, RINGPORT_NO_WAIT));
        ANSWERS(RINGPORT_FORKED, ringport_port_arm(a, RINGPORT_MESSAGE, 0));
        ringport_message_free(held);
        close_channel();
        _exit(0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    CHECK(memcmp(ringport_message_data(held), "held", 4) == 0);
    expect(b, "waiting");
    post(b, "both ways");
    expect(a, "both ways");
    ringport_message_free(held);
    close_channel();
}

int main(void)
{
    CHECK(*ringport_last_error() == '\0' && ringport_last_errno() == 0);
    CHECK(ringport_version() == (RINGPORT_VERSION_MAJOR << 16 | RINGPORT_VERSION_MINOR << 8 | RINGPORT_VERSION_PATCH));
    RUN(null_is_an_error_that_names_the_argument);
    RUN(null_is_no_place_in_an_archive);
    RUN(a_wrong_size_is_refused);
    RUN(values_that_cannot_be_are_refused);
    RUN(how_to_connect_is_not_overlooked);
    RUN(lengths_beyond_the_limit_are_refused_and_nothing_is_lost);
    RUN(calls_out_of_their_order_are_refused);
    RUN(a_freed_port_with_a_reservation_posts_nothing);
    RUN(s63_a_forked_child_is_told);
    return 0;
}
