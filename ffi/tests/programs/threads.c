/* Ports that go from one thread to another, also out of a loop while their own callback runs. Best seen under helgrind. */
#include "check.h"

#include <pthread.h>

static ringport_loop *loop;

enum { HANDED = 1000 };
static ringport_port *handed[HANDED];
static int handed_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;

static void hand(ringport_port *port)
{
    pthread_mutex_lock(&lock);
    handed[handed_count++] = port;
    pthread_cond_signal(&more);
    pthread_mutex_unlock(&lock);
}

static void use_handed(void (*use)(ringport_port *))
{
    int taken;
    for (taken = 0; taken < HANDED; taken++) {
        ringport_port *port;
        pthread_mutex_lock(&lock);
        while (taken == handed_count) {
            pthread_cond_wait(&more, &lock);
        }
        port = handed[taken];
        pthread_mutex_unlock(&lock);
        use(port);
    }
}

static void hand_over(ringport_loop *events, ringport_port *port, ringport_message *message, void *user)
{
    (void)user;
    ringport_message_free(message);
    OK(ringport_loop_remove(events, port));
    hand(port);
}

static void receive_and_free(ringport_port *port)
{
    ringport_message *message = NULL;
    CHECK(ringport_recv(port, RINGPORT_NO_WAIT, &message) == RINGPORT_OK);
    ringport_message_free(message);
    ringport_port_free(port);
}

static void *use_and_free(void *none)
{
    (void)none;
    use_handed(receive_and_free);
    return NULL;
}

/* At once, while the callback still runs. */
static void a_port_may_go_to_another_thread_from_its_callback(void)
{
    static ringport_port *peers[HANDED];
    ringport_port *port;
    ringport_channel_options small = RINGPORT_CHANNEL_OPTIONS_INIT;
    pthread_t thread;
    int round, i;
    small.capacity_1_to_2 = small.capacity_2_to_1 = 4096;
    OK(ringport_loop_new(&loop));
    handed_count = 0;
    CHECK(pthread_create(&thread, NULL, use_and_free, NULL) == 0);
    for (round = 0; round < HANDED; round += 100) {
        for (i = 0; i < 100; i++) {
            OK(ringport_channel_new(&small, &peers[i], &port));
            post(peers[i], "to the loop");
            post(peers[i], "to the thread");
            OK(ringport_loop_add(loop, port));
            OK(ringport_port_on_message(port, hand_over, NULL, NULL));
        }
        /* Only this thread counts them. */
        while (handed_count < round + 100) {
            OK(ringport_loop_run_once(loop, 20 * INT64_C(1000000000)));
        }
        for (i = 0; i < 100; i++) {
            ringport_port_free(peers[i]);
        }
    }
    CHECK(pthread_join(thread, NULL) == 0);
    ringport_loop_free(loop);
}

static void *free_those_handed(void *none)
{
    (void)none;
    use_handed(ringport_port_free);
    return NULL;
}

/* A port that was closed here has left its loop, which goes on without it. */
static void a_port_that_has_left_its_loop_is_any_threads(void)
{
    ringport_port *here, *there;
    pthread_t thread;
    int i;
    OK(ringport_loop_new(&loop));
    OK(ringport_channel_new(NULL, &here, &there));
    handed_count = 0;
    CHECK(pthread_create(&thread, NULL, free_those_handed, NULL) == 0);
    for (i = 0; i < HANDED; i++) {
        ringport_port *port, *peer;
        OK(ringport_channel_new(NULL, &port, &peer));
        OK(ringport_loop_add(loop, port));
        OK(ringport_port_close(port));
        OK(ringport_loop_run(loop));
        hand(port);
        OK(ringport_loop_add(loop, there));
        OK(ringport_loop_remove(loop, there));
        ringport_port_free(peer);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    ringport_port_free(here);
    ringport_port_free(there);
    ringport_loop_free(loop);
}

/* So have those of a loop that was freed. */
static void handles_of_a_freed_loop_are_any_threads(void)
{
    static ringport_port *peers[HANDED];
    ringport_port *mine[2];
    pthread_t thread;
    int i;
    OK(ringport_loop_new(&loop));
    for (i = 0; i < 2; i++) {
        ringport_port *peer;
        OK(ringport_channel_new(NULL, &mine[i], &peer));
        OK(ringport_loop_add(loop, mine[i]));
        ringport_port_free(peer);
    }
    handed_count = 0;
    CHECK(pthread_create(&thread, NULL, free_those_handed, NULL) == 0);
    for (i = 0; i < HANDED / 10; i++) {
        ringport_port *port;
        OK(ringport_channel_new(NULL, &port, &peers[i]));
        OK(ringport_loop_add(loop, port));
        handed[i] = port;
    }
    ringport_loop_free(loop);
    for (i = 0; i < HANDED; i++) {
        hand(i < HANDED / 10 ? handed[i] : NULL);
    }
    ringport_port_free(mine[0]);
    ringport_port_free(mine[1]);
    CHECK(pthread_join(thread, NULL) == 0);
    for (i = 0; i < HANDED / 10; i++) {
        ringport_port_free(peers[i]);
    }
}

int main(void)
{
    RUN(a_port_that_has_left_its_loop_is_any_threads);
    RUN(handles_of_a_freed_loop_are_any_threads);
    RUN(a_port_may_go_to_another_thread_from_its_callback);
    return 0;
}
