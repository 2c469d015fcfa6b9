// Exceptions in handlers: each comes out of the run, nothing is lost, and the loop can be run again.
#include "check.hpp"
#include "counted.hpp"

#include <sys/resource.h>
#include <sys/stat.h>

#include <array>
#include <chrono>
#include <thread>

using namespace std::chrono_literals;
using check::counted;
using ringport::channel;
using ringport::loop;
using ringport::loop_port;
using ringport::message;

namespace {

struct thrown {
    int number;
};

/// The number that the run throws; 0 if it throws none.
template <class Run>
int caught(Run run) {
    try {
        run();
    } catch (const thrown &one) {
        return one.number;
    }
    return 0;
}

int run(loop &events) {
    return caught([&events] { events.run(); });
}

int run_once(loop &events) {
    return caught([&events] { events.run_once(50s); });
}

/// That the loop still does what loops do.
void check_runs(loop &events) {
    bool fired = false;
    events.set_timeout(0s, [&fired](loop &here) {
        fired = true;
        here.stop();
    });
    events.run();
    CHECK(fired);
}

void from_a_message_handler() {
    channel ends;
    int alive = 0;
    {
        loop events;
        std::string seen;
        loop_port here = events.add(std::move(ends.port2));
        here.on_message([&, token = counted(alive)](loop &inside, loop_port &, const message &one) {
            seen += one.text();
            if (one.text() == "2") {
                throw thrown{2};
            }
            if (one.text() == "4") {
                inside.stop();
            }
        });
        for (const char *text : {"1", "2", "3", "4"}) {
            ends.port1.post(text);
        }
        CHECK(run(events) == 2);
        CHECK(seen == "12"); // none after it
        CHECK(static_cast<bool>(here));
        CHECK(run(events) == 0);
        CHECK(seen == "1234");
        CHECK(alive == 1);
    }
    CHECK(alive == 0);
}

void what_its_message_carried_is_closed() {
    channel carrier;
    channel gift;
    loop events;
    events.add(std::move(carrier.port2)).on_message([](message) { throw thrown{1}; });
    carrier.port1.post("", std::move(gift.port2));
    CHECK(run_once(events) == 1);
    CHECK_THROWS(RINGPORT_CLOSED, gift.port1.recv_for(50s));
    check_runs(events);
}

void from_a_close_handler() {
    channel ends;
    int alive = 0;
    loop events;
    loop_port here = events.add(std::move(ends.port2));
    here.on_close([token = counted(alive)] { throw thrown{3}; });
    ends.port1.close();
    CHECK(run(events) == 3);
    CHECK(!here); // it has left all the same
    CHECK(alive == 0);
    CHECK(run(events) == 0);
    check_runs(events);
}

void from_a_room_handler() {
    channel ends;
    int alive = 0;
    loop events;
    loop_port here = events.add(std::move(ends.port2));
    here.on_room(10, [token = counted(alive)] { throw thrown{4}; });
    CHECK(run(events) == 4);
    CHECK(alive == 0);
    here->post("it is still there");
    CHECK(ends.port1.recv().text() == "it is still there");
    check_runs(events);
}

void from_timers() {
    int alive = 0;
    {
        loop events;
        events.set_timeout(0s, [token = counted(alive)] { throw thrown{5}; });
        CHECK(run(events) == 5);
        CHECK(alive == 0);
        const ringport::timer_id again = events.set_interval(1ms, [token = counted(alive)] { throw thrown{6}; });
        CHECK(run(events) == 6);
        CHECK(run_once(events) == 6); // it goes on
        CHECK(alive == 1);
        CHECK(events.clear_timer(again));
        CHECK(alive == 0);
        check_runs(events);
    }
}

void from_a_wake_handler() {
    int alive = 0;
    {
        loop events;
        events.on_wake([token = counted(alive)] { throw thrown{7}; });
        const ringport::waker waker = events.make_waker();
        waker.wake();
        CHECK(run(events) == 7);
        waker.wake();
        CHECK(run_once(events) == 7);
        CHECK(alive == 1);
        check_runs(events);
    }
    CHECK(alive == 0);
}

void from_a_connect_handler() {
    std::array<char, 32> directory = {"/tmp/ringport-XXXXXX"};
    CHECK(mkdtemp(directory.data()) != nullptr);
    const std::string address = std::string(directory.data()) + "/here";
    int alive = 0;
    {
        loop events;
        int count = 0;
        events.add(ringport::listener(address), [&, token = counted(alive)](loop &, ringport::arrival one) {
            CHECK(one.status == RINGPORT_OK);
            CHECK(static_cast<bool>(one.port));
            ++count;
            throw thrown{8};
        });
        std::thread clients([&address] {
            ringport::connect(address);
            ringport::connect(address);
        });
        CHECK(run(events) == 8);
        CHECK(count == 1);
        CHECK(run(events) == 8); // the next one
        CHECK(count == 2);
        clients.join();
        check_runs(events);
        CHECK(alive == 1);
    }
    CHECK(alive == 0);
    CHECK(rmdir(directory.data()) == 0);
}

void from_an_exit_handler() {
    if (!check::can_watch_processes()) {
        return;
    }
    int alive = 0;
    loop events;
    ringport::worker worker = ringport::spawn({"true"});
    const ringport::loop_child here =
        events.add(std::move(worker.child), [token = counted(alive)] { throw thrown{9}; });
    CHECK(run(events) == 9);
    CHECK(!here);
    CHECK(alive == 0);
    check_runs(events);
}

void from_a_message_error_handler() {
    if (check::under_valgrind()) {
        return;
    }
    channel carrier;
    channel gift;
    int alive = 0;
    loop events;
    rlimit before = {};
    getrlimit(RLIMIT_NOFILE, &before);
    loop_port here = events.add(std::move(carrier.port2));
    here.on_message_error([&, token = counted(alive)] {
        setrlimit(RLIMIT_NOFILE, &before);
        throw thrown{10};
    });
    int ports = 0;
    here.on_message([&ports](loop &inside, loop_port &, message one) {
        ports += static_cast<int>(one.take_ports().size());
        inside.stop();
    });
    carrier.port1.post("", std::move(gift.port2));
    rlimit none = before;
    none.rlim_cur = 0;
    setrlimit(RLIMIT_NOFILE, &none);
    CHECK(run(events) == 10);
    CHECK(run(events) == 0); // the message is received after all
    CHECK(ports == 1);
    CHECK(alive == 1);
    events.remove(here);
    CHECK(alive == 0);
}

void the_first_one_wins() {
    channel ends;
    loop events;
    events.add(std::move(ends.port2)).on_message([](loop &inside) {
        inside.set_timeout(0s, [] { throw thrown{2}; });
        throw thrown{1};
    });
    ends.port1.post("x");
    CHECK(run(events) == 1);
    CHECK(run(events) == 2);
}

void errors_of_calls_in_handlers_come_out_too() {
    channel ends;
    loop events;
    events.add(std::move(ends.port2)).on_message([](loop_port &here, const message &) {
        here->post(std::string(here->max_message_len() + 1, 'x'));
    });
    ends.port1.post("x");
    CHECK_THROWS(RINGPORT_TOO_LARGE, events.run());
    check_runs(events);
}

void a_handler_that_throws_while_it_drops_the_loop() {
    channel ends;
    int alive = 0;
    auto events = std::make_unique<loop>();
    events->add(std::move(ends.port2)).on_message([&events, token = counted(alive)] {
        events.reset();
        throw thrown{11};
    });
    ends.port1.post("x");
    CHECK(caught([&events] { events->run(); }) == 11);
    CHECK(alive == 0);
}

void a_handler_that_throws_after_it_gave_its_port_away() {
    channel ends;
    int alive = 0;
    ringport::port taken;
    loop events;
    events.add(std::move(ends.port2)).on_message([&taken, token = counted(alive)](loop &here, loop_port &self) {
        taken = here.remove(self);
        throw thrown{12};
    });
    ends.port1.post("x");
    ends.port1.post("y");
    CHECK(run(events) == 12);
    CHECK(alive == 0);
    CHECK(taken.recv().text() == "y");
}

} // namespace

int main() {
    return check::run("cpp_exceptions", from_a_message_handler, what_its_message_carried_is_closed,
                      from_a_close_handler, from_a_room_handler, from_timers, from_a_wake_handler,
                      from_a_connect_handler, from_an_exit_handler, from_a_message_error_handler, the_first_one_wins,
                      errors_of_calls_in_handlers_come_out_too, a_handler_that_throws_while_it_drops_the_loop,
                      a_handler_that_throws_after_it_gave_its_port_away);
}
