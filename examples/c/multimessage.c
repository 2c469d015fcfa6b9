// A page and a frame that talk through a channel: the "MultiMessage" demonstration of the Web's channel messaging (MDN,
// "Using channel messaging"), as two processes. It does what examples/multimessage.rs does, and each can have the other
// as its frame.
//
// The page makes a channel and hands one end of it to its frame, inside the message "init". Then it posts every line of
// its standard input on the other end. The frame shows each as a list item on standard error and answers; the page prints
// the answers on standard output. Lines and answers are plain bytes, "init" is a Rust `String`.
//
// The page waits for two things at once: its standard input, which is no port, and the handlers of its event loop, by the
// loop's own descriptor. The frame has one thing to wait for, and simply does.
//
// Compile it with
//
//     gcc -std=c99 multimessage.c -o multimessage $(pkg-config --cflags --libs ringport)
//
// and run it:
//
//     $ printf 'hello\nworld\n' | ./multimessage
//     Message received by IFrame: "hello"
//     Message received by IFrame: "world"
//
// The frame can be another program, such as the one in Rust, which takes the same option. The answers are the same:
//
//     $ printf 'hello\nworld\n' | ./multimessage --frame ../../target/release/examples/multimessage
//     Message received by IFrame: "hello"
//     Message received by IFrame: "world"
//
// Ends with 0 when every line was answered, with 2 when a line was too long for a message (the others are answered), with 1
// when anything else went wrong, such as the death of the frame.
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ringport.h>

static const char BEFORE[] = "Message received by IFrame: \"";
static const char AFTER[] = "\"";
enum { BEFORE_LEN = sizeof BEFORE - 1, AFTER_LEN = sizeof AFTER - 1 };

static void fail(const char *what, const char *why) {
    fprintf(stderr, "multimessage: %s: %s\n", what, why);
    exit(EXIT_FAILURE);
}

static void check(ringport_status status, const char *what) {
    if (status != RINGPORT_OK) {
        const char *why = ringport_last_error();
        fail(what, *why != '\0' ? why : ringport_status_name(status));
    }
}

static const char *reason_name(ringport_close_reason reason) {
    switch (reason) {
    case RINGPORT_CLOSED_HERE:
        return "closed here";
    case RINGPORT_CLOSED_BY_PEER:
        return "closed by the other side";
    case RINGPORT_PEER_GONE:
        return "the other side is gone";
    case RINGPORT_CORRUPT:
        return "the other side broke the protocol";
    default:
        return "open";
    }
}

// ---- The frame ----

// The text of a message that is a Rust `String`: the eight bytes at its end.
static bool is_text(const ringport_message *message, const char *expected) {
    const void *data = ringport_message_data(message);
    const size_t len = ringport_message_len(message);
    const void *root;
    const char *text;
    size_t text_len;
    check(ringport_archived_root(data, len, 8, 4, &root), "a string");
    check(ringport_archived_string(data, len, root, &text, &text_len), "a string");
    return text_len == strlen(expected) && memcmp(text, expected, text_len) == 0;
}

// The port that comes with "init". The window has served then.
static ringport_port *receive_port2(void) {
    ringport_port *window, *port2;
    ringport_message *init;
    check(ringport_parent_port(&window), "a frame is started by its page only");
    check(ringport_recv(window, RINGPORT_FOREVER, &init), "the page's first message");
    if (!is_text(init, "init")) {
        fail("the page's first message", "it is not \"init\"");
    }
    check(ringport_message_take_port(init, 0, &port2), "the port of \"init\"");
    ringport_message_free(init);
    ringport_port_free(window);
    return port2;
}

// Shows a message as a list item: whatever bytes it has, and at once, since the page writes to standard error too.
static void show(const ringport_message *message) {
    char bullet[] = "• ", end[] = "\n";
    const struct iovec parts[3] = {
        {.iov_base = bullet, .iov_len = sizeof bullet - 1},
        {.iov_base = (void *)ringport_message_data(message), .iov_len = ringport_message_len(message)},
        {.iov_base = end, .iov_len = sizeof end - 1},
    };
    if (writev(STDERR_FILENO, parts, 3) < 0) {
        return; // nobody reads it, and the page is answered all the same
    }
}

// Writes the answer where it will be read. It may wait for room, since the page takes answers whatever else it does.
static void answer(ringport_port *port2, const ringport_message *message) {
    const size_t len = ringport_message_len(message);
    void *room;
    ringport_status status = ringport_reserve(port2, BEFORE_LEN + len + AFTER_LEN, RINGPORT_FOREVER, &room);
    if (status == RINGPORT_OK) {
        char *text = room;
        memcpy(text, BEFORE, BEFORE_LEN);
        memcpy(text + BEFORE_LEN, ringport_message_data(message), len);
        memcpy(text + BEFORE_LEN + len, AFTER, AFTER_LEN);
        status = ringport_commit(port2, BEFORE_LEN + len + AFTER_LEN);
    }
    // A page that is going does not read answers; what it posted is still shown.
    if (status != RINGPORT_CLOSED) {
        check(status, "an answer");
    }
}

// Shows and answers every message until the page closes the port.
static int frame(void) {
    ringport_port *port2 = receive_port2();
    ringport_message *message;
    ringport_status status;
    while ((status = ringport_recv(port2, RINGPORT_FOREVER, &message)) == RINGPORT_OK) {
        show(message);
        answer(port2, message);
        ringport_message_free(message);
    }
    if (status != RINGPORT_CLOSED) {
        check(status, "a message");
    }
    ringport_close_reason reason;
    check(ringport_port_close_reason(port2, &reason), "the end of the channel");
    if (reason != RINGPORT_CLOSED_BY_PEER) {
        fail("the channel has ended", reason_name(reason));
    }
    ringport_port_free(port2);
    return EXIT_SUCCESS;
}

// ---- The page ----

struct page {
    ringport_loop *events;
    ringport_port *port1;
    // What was read from standard input, and not looked at yet.
    char input[4096];
    size_t input_at, input_len;
    // The line that is being read, or waits for room; of one that is too long the beginning.
    char *line;
    size_t line_len, longest;
    unsigned long lines, too_long;
    unsigned long posted, answered;
    bool input_ended, line_waits, over;
    // What has ended it too early, if anything, and why.
    const char *failed, *why;
};

static void take_lines(struct page *page);

static void end(struct page *page, const char *failed, const char *why) {
    page->over = true;
    page->failed = failed;
    page->why = why;
}

static void on_room(ringport_loop *events, ringport_port *port1, void *user);

// Posts the line. It does not wait for room, since the frame may be waiting for some itself: the line waits.
static void post_line(struct page *page) {
    const ringport_status status = ringport_post(page->port1, page->line, page->line_len, RINGPORT_NO_WAIT);
    page->line_waits = status == RINGPORT_FULL;
    if (page->line_waits) {
        check(ringport_port_on_room(page->port1, page->line_len, false, on_room, page, NULL), "room");
        return;
    }
    page->line_len = 0;
    page->posted++;
    // Of a close `on_close` tells, after the last answer.
    if (status != RINGPORT_CLOSED) {
        check(status, "a line");
    }
}

static void on_room(ringport_loop *events, ringport_port *port1, void *user) {
    struct page *page = user;
    (void)events, (void)port1;
    post_line(page);
    take_lines(page);
}

static void end_line(struct page *page) {
    page->lines++;
    if (page->line_len <= page->longest) {
        post_line(page);
        return;
    }
    page->too_long++;
    fprintf(stderr, "multimessage: line %lu has %zu bytes, a line may have at most %zu: not posted\n", page->lines,
            page->line_len, page->longest);
    page->line_len = 0;
}

static void end_if_answered(struct page *page) {
    if (page->input_ended && !page->line_waits && page->answered == page->posted) {
        page->over = true;
    }
}

// Posts the lines that were read, as far as there is room.
static void take_lines(struct page *page) {
    while (!page->line_waits && page->input_at < page->input_len) {
        const char byte = page->input[page->input_at++];
        if (byte == '\n') {
            end_line(page);
        } else {
            if (page->line_len < page->longest) {
                page->line[page->line_len] = byte;
            }
            page->line_len++;
        }
    }
    end_if_answered(page);
}

static void read_input(struct page *page) {
    const ssize_t len = read(STDIN_FILENO, page->input, sizeof page->input);
    if (len < 0) {
        if (errno != EINTR && errno != EAGAIN) {
            end(page, "standard input", strerror(errno));
        }
        return;
    }
    page->input_at = 0;
    page->input_len = (size_t)len;
    if (len == 0) {
        page->input_ended = true;
        if (page->line_len > 0) {
            end_line(page); // the last one, without an end of its own
        }
    }
    take_lines(page);
}

static void on_answer(ringport_loop *events, ringport_port *port1, ringport_message *answer, void *user) {
    struct page *page = user;
    (void)events, (void)port1;
    page->answered++;
    fwrite(ringport_message_data(answer), 1, ringport_message_len(answer), stdout);
    putchar('\n');
    ringport_message_free(answer);
    if (fflush(stdout) != 0) {
        // Whoever reads the answers, such as `head -1`, has seen enough.
        end(page, errno == EPIPE ? NULL : "standard output", strerror(errno));
    }
    end_if_answered(page);
}

static void on_close(ringport_loop *events, ringport_port *port1, int32_t reason, void *user) {
    (void)events, (void)port1;
    end(user, "the channel has ended", reason_name(reason));
}

// Runs the handlers, and reads standard input as long as no line waits.
static void run(struct page *page) {
    int loop_fd;
    check(ringport_loop_fd(page->events, &loop_fd), "the loop's descriptor");
    while (!page->over) {
        const bool reads = !page->input_ended && !page->line_waits;
        struct pollfd watched[2] = {
            {.fd = loop_fd, .events = POLLIN},
            {.fd = reads ? STDIN_FILENO : -1, .events = POLLIN}, // -1: not now
        };
        if (poll(watched, 2, -1) < 0) {
            if (errno != EINTR) {
                fail("poll", strerror(errno));
            }
            continue;
        }
        if (watched[1].revents != 0) {
            read_input(page);
        }
        if (watched[0].revents != 0 && !page->over) {
            const ringport_status status = ringport_loop_run_once(page->events, RINGPORT_NO_WAIT);
            if (status != RINGPORT_NOT_YET) {
                check(status, "the loop");
            }
        }
    }
}

// Starts the frame, whose standard input and output are not the page's, and gives it its port.
static ringport_child *start_frame(const char *program, ringport_port *port2) {
    const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (nothing < 0) {
        fail("/dev/null", strerror(errno));
    }
    const int streams[3] = {nothing, nothing, -1};
    const char *const argv[] = {program, "frame", NULL};
    ringport_spawn_options options = RINGPORT_SPAWN_OPTIONS_INIT;
    options.standard_streams = streams;
    ringport_port *window;
    ringport_child *child;
    check(ringport_spawn(argv, &options, &window, &child), "the frame");
    close(nothing);
    fprintf(stderr, "multimessage: the frame is process %d\n", (int)ringport_child_id(child));

    uint32_t init[2];
    check(ringport_archive_string(init, sizeof init, init, "init", 4), "\"init\"");
    check(ringport_post_with_ports(window, init, sizeof init, &port2, 1, RINGPORT_FOREVER), "\"init\"");
    // What was posted is received all the same.
    ringport_port_free(window);
    ringport_port_free(port2);
    return child;
}

static void wait_for_frame(ringport_child *child) {
    int status;
    check(ringport_child_wait(child, &status), "the frame's end");
    ringport_child_free(child);
    if (WIFSIGNALED(status)) {
        fprintf(stderr, "multimessage: the frame ended with signal: %d\n", WTERMSIG(status));
        exit(EXIT_FAILURE);
    }
    if (WEXITSTATUS(status) != 0) {
        fprintf(stderr, "multimessage: the frame ended with exit status: %d\n", WEXITSTATUS(status));
        exit(EXIT_FAILURE);
    }
}

static int page(const char *program) {
    struct page page = {.over = false};
    ringport_port *port2;
    check(ringport_channel_new(NULL, &page.port1, &port2), "the channel");
    ringport_child *child = start_frame(program, port2);

    // The answer, which is longer than the line, must fit into a message too.
    page.longest = ringport_port_max_message_len(page.port1) - BEFORE_LEN - AFTER_LEN;
    page.line = malloc(page.longest);
    if (page.line == NULL) {
        fail("a line", strerror(errno));
    }
    check(ringport_loop_new(&page.events), "the loop");
    check(ringport_loop_add(page.events, page.port1), "port1");
    check(ringport_port_on_close(page.port1, on_close, &page, NULL), "port1");
    check(ringport_port_on_message(page.port1, on_answer, &page, NULL), "port1");
    run(&page);

    // The frame takes what is waiting for it, then the close, and ends.
    ringport_port_free(page.port1);
    ringport_loop_free(page.events);
    free(page.line);
    wait_for_frame(child);
    if (page.failed != NULL) {
        fail(page.failed, page.why);
    }
    return page.too_long == 0 ? EXIT_SUCCESS : 2;
}

int main(int argc, char **argv) {
    // A write that nobody reads is an error, not the end.
    signal(SIGPIPE, SIG_IGN);
    if (argc == 1) {
        return page(argv[0]);
    }
    if (argc == 2 && strcmp(argv[1], "frame") == 0) {
        return frame();
    }
    if (argc == 3 && strcmp(argv[1], "--frame") == 0) {
        return page(argv[2]);
    }
    fail("usage", "multimessage [--frame PROGRAM]");
    return EXIT_FAILURE;
}
