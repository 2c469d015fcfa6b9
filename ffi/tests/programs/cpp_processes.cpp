// Processes and the ports to them. The program starts itself once more in other roles.
#include "check.hpp"
#include "counted.hpp"

#include <fcntl.h>
#include <signal.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using check::counted;
using ringport::channel;
using ringport::message;
using ringport::port;
using reason = ringport::close_reason;

namespace {

std::string program;

ringport::worker start(const char *role, const ringport::spawn_options &options = {}) {
    return ringport::spawn({program, role}, options);
}

/// Sends back what it gets, until the channel ends.
int echo() {
    std::optional<port> parent = ringport::parent_port();
    CHECK(parent.has_value());
    CHECK(!ringport::parent_port()); // once
    for (const message &one : *parent) {
        parent->post(one);
    }
    return parent->close_reason() == reason::closed_by_peer ? 7 : 1;
}

/// Posts, and dies.
int die() {
    port parent = std::move(ringport::parent_port().value());
    parent.post("last words");
    raise(SIGKILL);
    return 1;
}

/// Answers on a port that it gets in a message.
int answer() {
    port parent = std::move(ringport::parent_port().value());
    for (port &one : parent.recv().take_ports()) {
        one.post("hello from " + std::to_string(getpid()) + " after " + std::string(one.recv().text()));
    }
    return 0;
}

/// Says where it is and what is in its environment.
int tell() {
    std::array<char, 4096> directory = {};
    CHECK(getcwd(directory.data(), directory.size()) != nullptr);
    const char *value = std::getenv("RINGPORT_TEST");
    const char *path = std::getenv("PATH");
    std::cout << directory.data() << ' ' << (value != nullptr ? value : "nothing") << ' '
              << (path != nullptr ? "a path" : "no path") << std::endl;
    return 0;
}

void a_worker_answers() {
    ringport::worker worker = start("echo");
    CHECK(worker.child.id() > 0);
    for (const char *text : {"one", "", "three"}) {
        worker.port.post(text);
        CHECK(worker.port.recv().text() == text);
    }
    CHECK(!worker.child.try_wait());
    worker.port.close();
    const ringport::exit_status ended = worker.child.wait();
    CHECK(ended.code().value_or(-1) == 7);
    CHECK(!ended.success());
}

void s51_death_is_closing() {
    ringport::worker worker = start("die");
    CHECK(worker.port.recv().text() == "last words");
    CHECK_THROWS(RINGPORT_CLOSED, worker.port.recv());
    CHECK(worker.port.close_reason() == reason::peer_gone);
    CHECK(worker.child.wait().signal().value_or(-1) == SIGKILL);
}

void a_child_can_be_killed() {
    ringport::worker worker = start("echo");
    worker.port.post("there?");
    CHECK(worker.port.recv().text() == "there?");
    worker.child.kill();
    CHECK_THROWS(RINGPORT_CLOSED, worker.port.recv());
    CHECK(worker.child.wait().signal().value_or(-1) == SIGKILL);
    CHECK(worker.child.try_wait()->signal().value_or(-1) == SIGKILL);
}

void s32_a_port_goes_to_another_process() {
    ringport::worker worker = start("answer");
    channel gift;
    gift.port1.post("a message that waited");
    worker.port.post("", std::move(gift.port2));
    CHECK(gift.port1.recv().text() ==
          "hello from " + std::to_string(worker.child.id()) + " after a message that waited");
    CHECK(worker.child.wait().success());
}

void a_child_starts_where_and_with_what_one_says() {
    std::array<int, 2> pipe = {-1, -1};
    CHECK(pipe2(pipe.data(), O_CLOEXEC) == 0);
    ringport::spawn_options options;
    options.environment = std::vector<std::string>{"RINGPORT_TEST=something"};
    // What it is linked with may be found by this alone.
    if (const char *libraries = std::getenv("LD_LIBRARY_PATH")) {
        options.environment->push_back(std::string("LD_LIBRARY_PATH=") + libraries);
    }
    options.directory = "/";
    options.standard_streams = {-1, pipe[1], -1};
    ringport::worker worker = start("tell", options);
    CHECK(worker.child.wait().success());
    CHECK(close(pipe[1]) == 0);
    std::array<char, 100> said = {};
    CHECK(read(pipe[0], said.data(), said.size() - 1) > 0);
    CHECK(std::string(said.data()) == "/ something no path\n");
    CHECK(close(pipe[0]) == 0);
}

void nobody_has_started_this_one() { CHECK(!ringport::parent_port()); }

void what_cannot_be_started_is_an_error() {
    CHECK_THROWS(RINGPORT_SPAWN, ringport::spawn({"/nowhere/to/be/found"}));
    CHECK_THROWS(RINGPORT_INVALID, ringport::spawn({}));
    ringport::spawn_options options;
    options.environment = std::vector<std::string>{"no equals sign"};
    CHECK_THROWS(RINGPORT_INVALID, start("echo", options));
}

void a_loop_hears_of_a_death_by_both() {
    if (!check::can_watch_processes()) {
        return;
    }
    ringport::loop events;
    ringport::worker worker = start("die");
    std::string seen;
    events.add(std::move(worker.port))
        .on_message([&seen](const message &one) { seen = one.text(); })
        .on_close([&seen](ringport::close_reason why) {
            CHECK(why == reason::peer_gone);
            seen += ", then gone";
        });
    std::optional<int> signal;
    events.add(std::move(worker.child), [&signal](ringport::exit_status ended) { signal = ended.signal(); });
    CHECK(!worker.port);
    CHECK(!worker.child);
    events.run(); // until neither is left
    CHECK(seen == "last words, then gone");
    CHECK(signal.value_or(-1) == SIGKILL);
}

void a_loop_tells_how_it_was() {
    if (!check::can_watch_processes()) {
        return;
    }
    int alive = 0;
    ringport::loop events;
    ringport::worker worker = start("echo");
    std::optional<int> code;
    const ringport::loop_child here = events.add(
        std::move(worker.child), [&, token = counted(alive)](ringport_status status, ringport::exit_status ended) {
            CHECK(status == RINGPORT_OK);
            code = ended.code();
        });
    worker.port.close();
    events.run();
    CHECK(code.value_or(-1) == 7);
    CHECK(!here);
    CHECK(alive == 0);
    CHECK_THROWS(RINGPORT_NOT_IN_LOOP, events.remove(here));
}

void a_child_is_taken_out_of_its_loop() {
    if (!check::can_watch_processes()) {
        return;
    }
    int alive = 0;
    ringport::loop events;
    ringport::worker worker = start("echo");
    const ringport::loop_child here =
        events.add(std::move(worker.child), [token = counted(alive)] { CHECK(!"it was taken out"); });
    ringport::child child = events.remove(here);
    CHECK(!here);
    CHECK(alive == 0);
    events.run();
    worker.port.close();
    CHECK(child.wait().code().value_or(-1) == 7);
    ringport::child none;
    CHECK_THROWS(RINGPORT_NULL, events.add(std::move(none), [] {}));
}

void s63_a_fork_leaves_its_parents_ports_alone() {
    channel ends;
    ringport::loop events;
    const pid_t forked = fork();
    if (forked == 0) {
        const bool refused = ends.port1.post(std::nothrow, "from the child") == RINGPORT_FORKED &&
                             check::thrown_by([&events] { events.run(); }) == RINGPORT_FORKED;
        {
            const port dropped = std::move(ends.port1);
        }
        // Another program says how it went: so nothing has to be said about what lives on here.
        const char *answer = refused ? "true" : "false";
        execlp(answer, answer, nullptr);
        _exit(2);
    }
    int status = -1;
    CHECK(waitpid(forked, &status, 0) == forked);
    CHECK(ringport::exit_status(status).success());
    ends.port1.post("from the parent");
    CHECK(ends.port2.recv().text() == "from the parent");
}

} // namespace

int main(int count, char **arguments) {
    alarm(60);
    // Not the first argument, which may be a relative path: one test starts it elsewhere.
    program = std::filesystem::read_symlink("/proc/self/exe").string();
    const std::string role = count > 1 ? arguments[1] : "";
    if (role == "echo") {
        return echo();
    }
    if (role == "die") {
        return die();
    }
    if (role == "answer") {
        return answer();
    }
    if (role == "tell") {
        return tell();
    }
    return check::run("cpp_processes", a_worker_answers, s51_death_is_closing, a_child_can_be_killed,
                      s32_a_port_goes_to_another_process, a_child_starts_where_and_with_what_one_says,
                      nobody_has_started_this_one, what_cannot_be_started_is_an_error, a_loop_hears_of_a_death_by_both,
                      a_loop_tells_how_it_was, a_child_is_taken_out_of_its_loop,
                      s63_a_fork_leaves_its_parents_ports_alone);
}
