/* Ports that go from one thread to another, also out of a loop while their own callback runs. Best seen under helgrind. */
#include "check.h"

#include <pthread.h>

static ringport_loop *loop;

enum { HANDED = 1000 };
static ringport_port *handed[HANDED];
static int handed_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;

static void hand_over(ringport_loop *events, ringport_port *port, ringport_message *message, void *user)
{
    (void)user;
    ringport_message_free(message);
    OK(ringport_loop_remove(events, port));
    pthread_mutex_lock(&lock);
    handed[handed_count++] = port;
    pthread_cond_signal(&more);
    pthread_mutex_unlock(&lock);
}

static void *use_and_free(void *none)
{
    (void)none;
    int taken;
    for (taken = 0; taken < HANDED; taken++) {
        ringport_port *port;
        ringport_message *message = NULL;
        pthread_mutex_lock(&lock);
        while (taken == handed_count) {
            pthread_cond_wait(&more, &lock);
        }
        port = handed[taken];
        pthread_mutex_unlock(&lock);
        CHECK(ringport_recv(port, RINGPORT_NO_WAIT, &message) == RINGPORT_OK);
        ringport_message_free(message);
        ringport_port_free(port);
    }
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

int main(void)
{
    RUN(a_port_may_go_to_another_thread_from_its_callback);
    return 0;
}
