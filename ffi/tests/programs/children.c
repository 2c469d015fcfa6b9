/* Processes in an event loop: their end is told, and they outlive the loop. Where there is no pidfd_open (valgrind has none) a
 * process that runs cannot be in one, and only the rest is seen. */
#include "check.h"

#include <sys/wait.h>

static const int64_t bound = 20 * INT64_C(1000000000);
static int freed, called;
static ringport_loop *loop;
static ringport_child *child, *other;
static ringport_port *port, *other_port;

static void free_user(void *user)
{
    CHECK(user == &freed);
    freed++;
}

static void on_exit_of(ringport_loop *events, int32_t status, int wait_status, void *user)
{
    (void)user;
    CHECK(events == loop && status == RINGPORT_OK);
    called = wait_status;
}

static void start(const char *script, ringport_port **its_port, ringport_child **started)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    OK(ringport_spawn(argv, NULL, its_port, started));
    CHECK(ringport_child_id(*started) > 0);
}

/* Until it has ended, without waiting for it as its parent does. */
static void await_end(const ringport_child *of)
{
    siginfo_t end;
    CHECK(waitid(P_PID, (id_t)ringport_child_id(of), &end, WEXITED | WNOWAIT) == 0);
}

/* Whether it could be put into the loop. */
static int add(const char *script)
{
    int32_t added;
    freed = called = 0;
    OK(ringport_loop_new(&loop));
    start(script, &port, &child);
    added = ringport_loop_add_child(loop, child, on_exit_of, &freed, free_user);
    CHECK(freed == 0 && (added == RINGPORT_OK || added == RINGPORT_SYSTEM));
    return added == RINGPORT_OK;
}

static void end(void)
{
    ringport_child_free(child);
    ringport_port_free(port);
    ringport_loop_free(loop);
    loop = NULL;
}

static void kill_and_wait(ringport_child *of)
{
    int status;
    OK(ringport_child_kill(of));
    OK(ringport_child_wait(of, &status));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void an_end_is_told_once(void)
{
    int status;
    if (add("exit 7")) {
        ANSWERS(RINGPORT_BUSY, ringport_child_wait(child, &status));
        ANSWERS(RINGPORT_BUSY, ringport_loop_add_child(loop, child, on_exit_of, &freed, free_user));
        while (called == 0) {
            OK(ringport_loop_run_once(loop, bound));
        }
        CHECK(freed == 1 && WIFEXITED(called) && WEXITSTATUS(called) == 7);
        ANSWERS(RINGPORT_NOT_IN_LOOP, ringport_loop_remove_child(loop, child));
        ANSWERS(RINGPORT_DETACHED, ringport_child_wait(child, &status));
    } else {
        /* It is still the caller's, and so is what was given for it. */
        OK(ringport_child_wait(child, &status));
        CHECK(freed == 0 && WEXITSTATUS(status) == 7);
    }
    end();
}

static void a_process_outlives_its_loop_and_returns_to_its_handle(void)
{
    int is_in_loop = add("exec sleep 60");
    ringport_loop_free(loop);
    loop = NULL;
    CHECK(freed == is_in_loop && called == 0);
    kill_and_wait(child);
    end();
}

static void one_that_has_ended_returns_too(void)
{
    int status;
    freed = called = 0;
    OK(ringport_loop_new(&loop));
    start("exit 7", &port, &child);
    await_end(child);
    OK(ringport_loop_add_child(loop, child, on_exit_of, &freed, free_user));
    ringport_loop_free(loop);
    loop = NULL;
    CHECK(freed == 1 && called == 0);
    OK(ringport_child_wait(child, &status));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    end();
}

static void free_loop(ringport_loop *events, void *user)
{
    (void)user;
    ringport_loop_free(events);
    ANSWERS(RINGPORT_BUSY, ringport_child_kill(child));
    called++;
}

static void a_process_returns_when_the_callback_that_frees_its_loop_has(void)
{
    if (add("exec sleep 60")) {
        OK(ringport_loop_set_timeout(loop, 0, free_loop, NULL, NULL, NULL));
        while (called == 0) {
            OK(ringport_loop_run_once(loop, bound));
        }
        CHECK(freed == 1);
        loop = NULL;
    }
    kill_and_wait(child);
    end();
}

static void free_both(void *user)
{
    ringport_child *both[2];
    (void)user;
    both[0] = child, both[1] = other;
    /* The callback of the other goes with its handle, and calls this once more. */
    child = other = NULL;
    ringport_child_free(both[0]);
    ringport_child_free(both[1]);
    freed++;
}

static void free_loop_only(ringport_loop *events, void *user)
{
    (void)user;
    ringport_loop_free(events);
    called++;
}

/* What is freed with the callback of one, as the loop is freed, are the handles of all. */
static void the_handles_may_be_freed_with_their_callbacks(void)
{
    int inside;
    for (inside = 0; inside < 2; inside++) {
        freed = called = 0;
        OK(ringport_loop_new(&loop));
        /* First, so that it is due before the ends are told. */
        if (inside) {
            OK(ringport_loop_set_timeout(loop, 0, free_loop_only, NULL, NULL, NULL));
        }
        start("exit 7", &port, &child);
        start("exit 7", &other_port, &other);
        await_end(child);
        await_end(other);
        OK(ringport_loop_add_child(loop, child, on_exit_of, NULL, free_both));
        OK(ringport_loop_add_child(loop, other, on_exit_of, NULL, free_both));
        if (inside) {
            OK(ringport_loop_run_once(loop, RINGPORT_NO_WAIT));
            CHECK(called == 1);
        } else {
            ringport_loop_free(loop);
        }
        loop = NULL;
        CHECK(freed == 2 && child == NULL && other == NULL);
        ringport_port_free(other_port);
        end();
    }
}

static void s63_a_forked_child_cannot_have_its_parents_process(void)
{
    int status = -1;
    pid_t forked;
    start("exec sleep 60", &port, &child);
    forked = fork();
    if (forked == 0) {
        ringport_loop *own;
        freed = 0;
        OK(ringport_loop_new(&own));
        ANSWERS(RINGPORT_FORKED, ringport_loop_add_child(own, child, on_exit_of, &freed, free_user));
        ANSWERS(RINGPORT_FORKED, ringport_child_kill(child));
        CHECK(freed == 0);
        ringport_child_free(child);
        ringport_loop_free(own);
        _exit(0);
    }
    CHECK(forked > 0 && waitpid(forked, &status, 0) == forked && status == 0);
    kill_and_wait(child);
    end();
}

int main(void)
{
    RUN(an_end_is_told_once);
    RUN(a_process_outlives_its_loop_and_returns_to_its_handle);
    RUN(one_that_has_ended_returns_too);
    RUN(a_process_returns_when_the_callback_that_frees_its_loop_has);
    RUN(the_handles_may_be_freed_with_their_callbacks);
    RUN(s63_a_forked_child_cannot_have_its_parents_process);
    return 0;
}
