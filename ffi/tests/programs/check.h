/* What the test programs in C share: a check that says what it found, a bound on their time, a count of descriptors. */
#ifndef CHECK_H
#define CHECK_H

#include <ringport.h>

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition)                                                                         \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            fprintf(stderr, "%s:%d: not so: %s (last error: %s)\n", __FILE__, __LINE__, #condition, \
                    ringport_last_error());                                                      \
            exit(1);                                                                             \
        }                                                                                        \
    } while (0)

/* That a call answers a status, by its name. */
#define ANSWERS(status, call)                                                                    \
    do {                                                                                         \
        int32_t answered_ = (call);                                                              \
        if (answered_ != (status)) {                                                             \
            fprintf(stderr, "%s:%d: %s answers %s, not %s: %s\n", __FILE__, __LINE__, #call,     \
                    ringport_status_name(answered_), ringport_status_name(status),               \
                    ringport_last_error());                                                      \
            exit(1);                                                                             \
        }                                                                                        \
    } while (0)

#define OK(call) ANSWERS(RINGPORT_OK, call)

/* That it answers so, and says why in words with this in them. */
#define SAYS(status, words, call)                                                                \
    do {                                                                                         \
        ANSWERS(status, call);                                                                   \
        CHECK(strstr(ringport_last_error(), words) != NULL);                                     \
    } while (0)

static inline int descriptors(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    CHECK(folder != NULL);
    while (readdir(folder) != NULL) {
        count++;
    }
    closedir(folder);
    return count;
}

/* Runs a test, and sees that it leaves no descriptor open. */
static inline void run_test(const char *name, void (*test)(void))
{
    int before = descriptors();
    alarm(60);
    test();
    if (descriptors() != before) {
        fprintf(stderr, "%s: %d descriptors before, %d after\n", name, before, descriptors());
        exit(1);
    }
    printf("ok %s\n", name);
    fflush(stdout);
}

#define RUN(test) run_test(#test, test)

/* That the next message is this text. */
static inline void expect(ringport_port *port, const char *text)
{
    ringport_message *message = NULL;
    OK(ringport_recv(port, 20 * INT64_C(1000000000), &message));
    CHECK(ringport_message_len(message) == strlen(text));
    CHECK(memcmp(ringport_message_data(message), text, strlen(text)) == 0);
    ringport_message_free(message);
}

static inline void post(ringport_port *port, const char *text)
{
    OK(ringport_post(port, text, strlen(text), RINGPORT_FOREVER));
}

#endif
