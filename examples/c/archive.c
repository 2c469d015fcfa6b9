// A struct that Rust has posted, read in C where it arrived, and one that C builds where Rust will read it. The other half is
// examples/archive.rs: each of the two programs can start the other, and either can start itself.
//
// Compile it with
//
//     gcc -std=c99 archive.c -o archive $(pkg-config --cflags --libs ringport)
//
// and run it, with the program that it is to start:
//
//     $ ./archive ../../target/release/examples/archive
//     Rust reads observation 17 of BRK, Brocken in the Harz mountains, at 1700000000, calibrated
//     Rust reads that it lies at 51.75 10.625 and 1141 m, with a gust of 31.5 m/s
//     Rust reads 4 samples: 1.5 2.25 -3 0.125
//     C reads observation 18 of FELDBERG, Feldberg in the Black Forest, at -1, not calibrated
//     C reads that it lies at 47.875 8 and 1493 m, without a gust
//     C reads 3 samples: 8 -0.5 1024
//
// or have it started by the other:
//
//     $ ../../target/release/examples/archive ./archive
//     C reads observation 17 of BRK, Brocken in the Harz mountains, at 1700000000, calibrated
//     C reads that it lies at 51.75 10.625 and 1141 m, with a gust of 31.5 m/s
//     C reads 4 samples: 1.5 2.25 -3 0.125
//     Rust reads observation 18 of FELDBERG, Feldberg in the Black Forest, at -1, not calibrated
//     Rust reads that it lies at 47.875 8 and 1493 m, without a gust
//     Rust reads 3 samples: 8 -0.5 1024
//
// The bytes are the poster's. Rust validates all of them before it shows anything; C checks what it follows: the functions
// check texts and vectors, and what is left are the values that not every pattern of bits is, a bool and the byte of an Option.
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <ringport.h>

// What a String or a Vec is in an archive: eight bytes aligned to four, which only the functions of ringport look into. A
// text of up to eight bytes is in them; a longer one, and the elements of a vector, lie elsewhere in the message.
struct reference {
    uint32_t bytes[2];
};

// Option<f32>: one byte, 0 (None) or 1 (Some), then padding, then the value.
struct option_f32 {
    uint8_t is_some; // at 0
    float value;     // at 4
};

// A struct within another lies in it, as in C: 24 bytes, six of them padding at the end.
struct place {
    double latitude;  // at 0
    double longitude; // at 8
    int16_t height;   // at 16
};

// The Observation of archive.rs, with its fields in their order and C's padding.
struct observation {
    uint32_t number;          // at 0, then four bytes of padding
    int64_t time;             // at 8
    struct reference code;    // at 16, String
    struct reference name;    // at 24, String
    struct reference samples; // at 32, Vec<f32>
    struct option_f32 gust;   // at 40
    struct place place;       // at 48
    uint8_t is_calibrated;    // at 72, bool: 0 or 1; then padding up to 80
};

enum { OBSERVATION_ALIGN = 8, SAMPLE_ALIGN = 4 };

static void fail(const char *what, const char *why) {
    fprintf(stderr, "archive: %s: %s\n", what, why);
    exit(EXIT_FAILURE);
}

static void check(ringport_status status, const char *what) {
    if (status != RINGPORT_OK) {
        const char *why = ringport_last_error();
        fail(what, *why != '\0' ? why : ringport_status_name(status));
    }
}

// ---- Reading ----

// A bool of an archive, or the first byte of an Option.
static bool is_true(uint8_t byte, const char *what) {
    if (byte > 1) {
        fail(what, "it is neither 0 nor 1");
    }
    return byte == 1;
}

static void print_text(const ringport_message *message, const struct reference *at, const char *what) {
    const char *text;
    size_t len;
    check(ringport_archived_string(ringport_message_data(message), ringport_message_len(message), at, &text, &len), what);
    printf("%.*s", (int)len, text); // no NUL ends it
}

static void print_samples(const ringport_message *message, const struct reference *at) {
    const void *elements;
    size_t count;
    check(ringport_archived_slice(ringport_message_data(message), ringport_message_len(message), at, sizeof(float),
                                  SAMPLE_ALIGN, &elements, &count),
          "the samples");
    const float *samples = elements;
    printf("C reads %zu samples:", count);
    for (size_t index = 0; index < count; index++) {
        printf(" %g", samples[index]);
    }
    printf("\n");
}

static void read_observation(ringport_port *port) {
    ringport_message *message;
    check(ringport_recv(port, RINGPORT_FOREVER, &message), "an observation");
    const void *root;
    check(ringport_archived_root(ringport_message_data(message), ringport_message_len(message), sizeof(struct observation),
                                 OBSERVATION_ALIGN, &root),
          "the observation");
    const struct observation *read = root;

    printf("C reads observation %u of ", (unsigned)read->number);
    print_text(message, &read->code, "the code");
    printf(", ");
    print_text(message, &read->name, "the name");
    printf(", at %" PRId64 ", %s\n", read->time, is_true(read->is_calibrated, "calibrated") ? "calibrated" : "not calibrated");
    printf("C reads that it lies at %g %g and %d m, ", read->place.latitude, read->place.longitude, read->place.height);
    if (is_true(read->gust.is_some, "the gust")) {
        printf("with a gust of %g m/s\n", read->gust.value);
    } else {
        printf("without a gust\n");
    }
    print_samples(message, &read->samples);
    // Before the other process goes on to print.
    fflush(stdout);
    ringport_message_free(message);
}

// ---- Writing ----

// What is to be posted, as C has it.
struct record {
    uint32_t number;
    int64_t time;
    const char *code, *name;
    const float *samples;
    size_t sample_count;
    const float *gust; // NULL: none
    struct place place;
    bool is_calibrated;
};

static size_t round_up(size_t offset, size_t align) {
    return (offset + align - 1) / align * align;
}

// Writes a text's eight bytes. A longer one is copied into the message, at `offset`; says where the next may be.
static size_t write_text(char *data, size_t len, struct reference *at, const char *text, size_t offset) {
    const size_t text_len = strlen(text);
    if (text_len > sizeof *at) {
        memcpy(data + offset, text, text_len);
        check(ringport_archive_string(data, len, at, data + offset, text_len), "a text");
        return offset + text_len;
    }
    check(ringport_archive_string(data, len, at, text, text_len), "a text");
    return offset;
}

// Builds the archive in the ring: what is pointed to first, and the root at the very end.
static void post_observation(ringport_port *port, const struct record *record) {
    const size_t texts = strlen(record->code) + strlen(record->name);
    const size_t samples = round_up(texts, SAMPLE_ALIGN);
    const size_t samples_size = record->sample_count * sizeof(float);
    const size_t root = round_up(samples + samples_size, OBSERVATION_ALIGN);
    const size_t len = root + sizeof(struct observation);
    void *room;
    check(ringport_reserve(port, len, RINGPORT_FOREVER, &room), "room");
    char *data = room;
    // Padding is part of the message too. The room holds what was in the ring before.
    memset(data, 0, len);

    struct observation *at = (void *)(data + root);
    at->number = record->number;
    at->time = record->time;
    at->gust.is_some = record->gust != NULL;
    at->gust.value = record->gust != NULL ? *record->gust : 0;
    at->place.latitude = record->place.latitude;
    at->place.longitude = record->place.longitude;
    at->place.height = record->place.height;
    at->is_calibrated = record->is_calibrated;
    const size_t next = write_text(data, len, &at->code, record->code, 0);
    write_text(data, len, &at->name, record->name, next);
    memcpy(data + samples, record->samples, samples_size);
    check(ringport_archive_slice(data, len, &at->samples, data + samples, record->sample_count), "the samples");
    check(ringport_commit(port, len), "an observation");
}

// ---- The two sides ----

// The one that starts: posts the first observation and reads the second.
static int start(const char *program) {
    static const float samples[] = {1.5F, 2.25F, -3.0F, 0.125F};
    static const float gust = 31.5F;
    const struct record brocken = {
        .number = 17,
        .time = INT64_C(1700000000),
        .code = "BRK",
        .name = "Brocken in the Harz mountains",
        .samples = samples,
        .sample_count = sizeof samples / sizeof *samples,
        .gust = &gust,
        .place = {.latitude = 51.75, .longitude = 10.625, .height = 1141},
        .is_calibrated = true,
    };
    const char *const argv[] = {program, NULL};
    ringport_port *port;
    ringport_child *child;
    check(ringport_spawn(argv, NULL, &port, &child), "the other program");
    post_observation(port, &brocken);
    read_observation(port);
    ringport_port_free(port);

    int status;
    check(ringport_child_wait(child, &status), "the other program's end");
    ringport_child_free(child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fail("the other program", "it has failed");
    }
    return EXIT_SUCCESS;
}

// The one that is started: reads the first and posts the second.
static int answer(ringport_port *port) {
    static const float samples[] = {8.0F, -0.5F, 1024.0F};
    const struct record feldberg = {
        .number = 18,
        .time = INT64_C(-1),
        .code = "FELDBERG",
        .name = "Feldberg in the Black Forest",
        .samples = samples,
        .sample_count = sizeof samples / sizeof *samples,
        .gust = NULL,
        .place = {.latitude = 47.875, .longitude = 8, .height = 1493},
        .is_calibrated = false,
    };
    read_observation(port);
    post_observation(port, &feldberg);
    ringport_port_free(port);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
    ringport_port *port;
    const ringport_status status = ringport_parent_port(&port);
    if (status == RINGPORT_OK) {
        return answer(port);
    }
    if (status != RINGPORT_NO_PARENT) {
        check(status, "the port to who has started this");
    }
    if (argc != 2) {
        fail("usage", "archive PROGRAM");
    }
    return start(argv[1]);
}
