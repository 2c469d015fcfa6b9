// ringport::loop: handlers of ports, timers and wakes, and who owns what.
#include "check.hpp"
#include "counted.hpp"

#include <poll.h>
#include <sys/resource.h>

#include <chrono>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using check::counted;
using ringport::channel;
using ringport::loop;
using ringport::loop_port;
using ringport::message;
using ringport::port;
using reason = ringport::close_reason;

namespace {

void post_numbers(port &to, std::uint32_t count) {
    for (std::uint32_t number = 0; number < count; ++number) {
        to.post(ringport::bytes::of(number));
    }
}

/// Runs what can be run without waiting.
void run_dry(loop &events) {
    while (events.run_once(ringport::no_wait)) {
    }
}

void s24_s26_nothing_is_handled_before_the_start() {
    channel ends;
    loop events;
    int handled = 0;
    loop_port waiting = events.add(std::move(ends.port2));
    CHECK(!ends.port2);
    waiting.on_message_after_start([&handled] { ++handled; }).on_close([] {}).on_message_error([] {});
    ends.port1.post("waits");
    run_dry(events);
    CHECK(handled == 0);
    waiting.start();
    waiting.start();
    run_dry(events);
    CHECK(handled == 1);
}

void s28_one_call_per_message_in_order() {
    channel ends;
    loop events;
    std::uint32_t next = 0;
    events.add(std::move(ends.port2)).on_message([&next](loop &here, loop_port &, const message &one) {
        CHECK(one.as<std::uint32_t>() == next);
        if (++next == 1000) {
            here.stop();
        }
    });
    std::thread poster([&ends] { post_numbers(ends.port1, 1000); });
    events.run();
    poster.join();
    CHECK(next == 1000u);
}

void a_handler_takes_what_it_wants() {
    channel ends;
    loop events;
    int calls = 0;
    loop_port one = events.add(std::move(ends.port2));
    one.on_message([&calls](loop &, loop_port &, message) { ++calls; });
    post_numbers(ends.port1, 1);
    run_dry(events);
    one.on_message([&calls](loop_port &, message &&) { ++calls; });
    post_numbers(ends.port1, 1);
    run_dry(events);
    one.on_message([&calls](const message &) { ++calls; });
    post_numbers(ends.port1, 1);
    run_dry(events);
    one.on_message([&calls] { ++calls; });
    post_numbers(ends.port1, 1);
    run_dry(events);
    CHECK(calls == 4);
}

void s30_what_a_handler_posts_comes_in_a_later_turn() {
    channel ends;
    loop events;
    std::string seen;
    loop_port other = events.add(std::move(ends.port1));
    events.add(std::move(ends.port2)).on_message([&](loop_port &here) {
        seen += "(";
        here->post("answer");
        seen += ")";
    });
    other.on_message([&](loop &here) {
        seen += "answer";
        here.stop();
    });
    other->post("question");
    events.run();
    CHECK(seen == "()answer");
}

void s31_a_handler_is_told_the_port() {
    channel ends;
    loop events;
    loop_port one = events.add(std::move(ends.port1));
    loop_port other = events.add(std::move(ends.port2));
    CHECK(one != other);
    const loop_port copy = other;
    other.on_message([copy, &one](loop_port &here) {
        CHECK(here == copy);
        CHECK(here != one);
    });
    one->post("x");
    CHECK(events.run_once(50s));
}

void s27_a_handler_may_replace_itself() {
    channel ends;
    int alive = 0;
    {
        loop events;
        std::string seen;
        loop_port here = events.add(std::move(ends.port2));
        here.on_message([&, token = counted(alive)](loop_port &self) {
            self.on_message([&, second = counted(alive)] { seen += "second "; });
            // What it owns is still its own.
            seen += "first ";
        });
        post_numbers(ends.port1, 3);
        run_dry(events);
        CHECK(seen == "first second second ");
        CHECK(alive == 1);
    }
    CHECK(alive == 0);
}

void s38_a_port_moves_away_from_its_own_handler() {
    channel ends;
    channel carrier;
    int alive = 0;
    loop events;
    int handled = 0;
    loop_port leaving = events.add(std::move(ends.port2));
    leaving.on_close([token = counted(alive)] { CHECK(!"it has not ended"); });
    leaving.on_message([&, token = counted(alive)](loop &here, loop_port &self, message one) {
        CHECK(one.as<std::uint32_t>() == static_cast<std::uint32_t>(handled));
        if (++handled == 3) {
            port itself = here.remove(self);
            CHECK(!self);
            CHECK_THROWS(RINGPORT_NULL, self->post("not from here"));
            carrier.port1.post("the rest", std::move(itself));
            CHECK(alive >= 1); // this one still runs
        }
    });
    post_numbers(ends.port1, 10);
    run_dry(events);
    CHECK(handled == 3);
    CHECK(alive == 0);
    port received = carrier.port2.recv().take_port();
    for (std::uint32_t number = 3; number < 10; ++number) {
        CHECK(received.recv().as<std::uint32_t>() == number);
    }
    CHECK_THROWS(RINGPORT_NOT_IN_LOOP, leaving.start());
    CHECK_THROWS(RINGPORT_NOT_IN_LOOP, events.remove(leaving));
    CHECK_THROWS(RINGPORT_NOT_IN_LOOP, leaving.on_close([] {}));
}

void s48_one_close_event_after_the_last_message() {
    channel ends;
    int alive = 0;
    loop events;
    std::string seen;
    loop_port here = events.add(std::move(ends.port2));
    here.on_message([&, token = counted(alive)](const message &one) { seen += std::string(one.text()) + " "; });
    here.on_close([&, token = counted(alive)](loop &, loop_port &self, reason why) {
        CHECK(why == reason::closed_by_peer);
        CHECK(self->close_reason() == reason::closed_by_peer);
        seen += "closed";
    });
    ends.port1.post("one");
    ends.port1.post("two");
    ends.port1.close();
    events.run(); // until nothing is left
    CHECK(seen == "one two closed");
    CHECK(!here);
    CHECK(!*here);
    CHECK(alive == 0);
}

void s49_the_closing_side_gets_no_close_event() {
    channel ends;
    int alive = 0;
    loop events;
    loop_port here = events.add(std::move(ends.port2));
    here.on_message([&, token = counted(alive)](loop_port &self) { self->close(); });
    here.on_close([token = counted(alive)] { CHECK(!"told what it knows"); });
    ends.port1.post("one");
    ends.port1.post("discarded");
    events.run();
    CHECK(!here);
    CHECK(alive == 0);
    CHECK_THROWS(RINGPORT_CLOSED, ends.port1.recv());
}

void s55_the_close_event_needs_no_start() {
    channel ends;
    loop events;
    bool told = false;
    events.add(std::move(ends.port2)).on_close([&told] { told = true; });
    ends.port1.reset();
    events.run();
    CHECK(told);
}

void a_close_handler_may_keep_the_port_from_being_freed() {
    channel ends;
    loop events;
    port kept;
    events.add(std::move(ends.port2)).on_close([&kept](loop &here, loop_port &self) {
        try {
            kept = here.remove(self);
        } catch (const ringport::error &error) {
            CHECK(error.status() == RINGPORT_NOT_IN_LOOP);
        }
    });
    ends.port1.close();
    events.run();
    if (kept) {
        CHECK(kept.close_reason() == reason::closed_by_peer);
    }
}

void s39_a_port_out_of_a_message_is_added() {
    channel carrier;
    channel gift;
    loop events;
    std::string seen;
    gift.port1.post("waited in it");
    events.add(std::move(carrier.port2)).on_message([&seen](loop &here, loop_port &, message one) {
        loop_port added = here.add(one.take_port());
        added.on_message([&seen](loop &outer, loop_port &self, const message &inner) {
            seen = inner.text();
            self->post("got it");
            outer.stop();
        });
    });
    carrier.port1.post("a port", std::move(gift.port2));
    events.run();
    CHECK(seen == "waited in it");
    CHECK(gift.port1.recv().text() == "got it");
}

void there_is_a_call_when_there_is_room() {
    channel ends({4096, 4096, false, false});
    int alive = 0;
    loop events;
    int rooms = 0;
    loop_port here = events.add(std::move(ends.port1));
    const std::string text(1000, 'x');
    while (here->post(text, ringport::no_wait)) {
    }
    here.on_room(text.size(), [&, token = counted(alive)](loop_port &self) {
        ++rooms;
        CHECK(self->post(text, ringport::no_wait));
    });
    CHECK(!events.run_once(ringport::no_wait));
    CHECK(alive == 1);
    while (ends.port2.try_recv()) {
    }
    CHECK(events.run_once(50s));
    CHECK(rooms == 1);
    CHECK(alive == 0);
    here.on_room_with_ports(10, [&](loop &inside, loop_port &self) {
        ++rooms;
        channel gift;
        self->post("with a port", std::move(gift.port1));
        inside.stop();
    });
    events.run();
    CHECK(rooms == 2);
}

void there_is_a_call_when_there_is_room_for_ports() {
    channel carrier;
    loop events;
    int rooms = 0;
    loop_port here = events.add(std::move(carrier.port1));
    bool full = false;
    std::vector<port> peers;
    while (!full) {
        channel gift;
        full = !here->post("", std::move(gift.port1), ringport::no_wait);
        peers.push_back(std::move(gift.port2));
    }
    here.on_room_with_ports(10, [&rooms] { ++rooms; });
    CHECK(!events.run_once(ringport::no_wait)); // though there is room for a message without
    CHECK(here->post("0123456789", ringport::no_wait));
    carrier.port2.recv();
    CHECK(events.run_once(50s));
    CHECK(rooms == 1);
}

/// Leaves the process no descriptor.
class no_descriptors {
public:
    no_descriptors() {
        getrlimit(RLIMIT_NOFILE, &before_);
        rlimit none = before_;
        none.rlim_cur = 0;
        setrlimit(RLIMIT_NOFILE, &none);
    }
    no_descriptors(const no_descriptors &) = delete;
    no_descriptors &operator=(const no_descriptors &) = delete;
    ~no_descriptors() { setrlimit(RLIMIT_NOFILE, &before_); }

private:
    rlimit before_ = {};
};

void s46_what_cannot_be_received_is_told_and_not_lost() {
    if (check::under_valgrind()) {
        return;
    }
    channel carrier;
    channel gift;
    loop events;
    std::optional<no_descriptors> lacking;
    bool received = false;
    int alive = 0;
    loop_port here = events.add(std::move(carrier.port2));
    here.on_message_error([&, token = counted(alive)](loop &, loop_port &, ringport_status status) {
        CHECK(status == RINGPORT_SYSTEM);
        lacking.reset();
    });
    here.on_message([&](loop &inside, loop_port &, message one) {
        CHECK(one.take_ports().size() == 1u);
        received = true;
        inside.stop();
    });
    carrier.port1.post("with a port", std::move(gift.port2));
    lacking.emplace();
    events.run();
    CHECK(received);
    CHECK(!lacking);
    CHECK(alive == 1);
    events.remove(here);
    CHECK(alive == 0);
}

void timers_fire_once_or_again_and_again() {
    loop events;
    int alive = 0;
    std::string seen;
    events.set_timeout(2ms, [&, token = counted(alive)] { seen += "once "; });
    int left = 3;
    std::optional<ringport::timer_id> again;
    again = events.set_interval(4ms, [&, token = counted(alive)](loop &here) {
        seen += "again ";
        if (--left == 0) {
            CHECK(here.clear_timer(*again));
            CHECK(!here.clear_timer(*again));
        }
    });
    const ringport::timer_id cleared = events.set_timeout(0s, [&, token = counted(alive)] { CHECK(!"cleared"); });
    CHECK(alive == 3);
    CHECK(events.clear_timer(cleared));
    CHECK(alive == 2);
    events.run();
    CHECK(seen == "once again again again ");
    CHECK(alive == 0);
    bool fired = false;
    events.set_timeout(-5s, [&fired] { fired = true; });
    events.run();
    CHECK(fired);
}

void a_waker_wakes_from_any_thread() {
    int alive = 0;
    ringport::waker outlives;
    {
        loop events;
        int wakes = 0;
        ringport::waker waker = events.make_waker();
        outlives = events.make_waker();
        events.on_wake([&, token = counted(alive)](loop &here) {
            ++wakes;
            here.stop();
        });
        std::thread other([&waker] {
            waker.wake();
            CHECK(waker.wake(std::nothrow) == RINGPORT_OK);
        });
        events.run();
        other.join();
        CHECK(wakes >= 1);
        CHECK(alive == 1);
    }
    CHECK(alive == 0);
    outlives.wake();
}

void a_loop_runs_until_it_is_stopped_or_empty() {
    loop events;
    events.run(); // nothing is left at once
    CHECK(!events.run_once(50s));
    channel ends;
    events.add(std::move(ends.port1));
    CHECK(!events.run_once(1ms));
    events.stop();
    events.run();
    events.set_timeout(1ms, [](loop &here) {
        CHECK_THROWS(RINGPORT_BUSY, here.run());
        CHECK_THROWS(RINGPORT_BUSY, here.run_once(1ms));
        here.stop();
    });
    events.run();
}

void what_is_left_is_dispatched_when_it_runs_again() {
    channel ends;
    loop events;
    int handled = 0;
    events.add(std::move(ends.port2)).on_message([&handled](loop &here) {
        ++handled;
        here.stop();
    });
    post_numbers(ends.port1, 3);
    for (int round = 1; round <= 3; ++round) {
        events.run();
        CHECK(handled == round);
    }
}

void a_loop_may_be_moved_with_all_that_is_in_it() {
    channel ends;
    int alive = 0;
    int handled = 0;
    loop events;
    loop_port here = events.add(std::move(ends.port2));
    loop *expected = nullptr;
    here.on_message([&, token = counted(alive)](loop &inside) {
        CHECK(&inside == expected);
        ++handled;
    });
    loop second = std::move(events);
    expected = &second;
    CHECK(!events);
    post_numbers(ends.port1, 1);
    run_dry(second);
    CHECK(handled == 1);
    events = std::move(second);
    expected = &events;
    loop &same = events;
    events = std::move(same);
    post_numbers(ends.port1, 1);
    run_dry(events);
    CHECK(handled == 2);
    events = loop(); // what was in it ends
    CHECK(alive == 0);
    CHECK(!here);
    CHECK_THROWS(RINGPORT_CLOSED, ends.port1.recv());
}

void a_loop_may_be_moved_by_a_handler() {
    channel ends;
    loop events;
    loop other;
    int handled = 0;
    events.add(std::move(ends.port2)).on_message([&](loop &here, loop_port &, message) {
        if (++handled == 1) {
            other = std::move(here);
        } else {
            CHECK(&here == &other);
            here.stop();
        }
    });
    post_numbers(ends.port1, 2);
    events.run();
    CHECK(handled == 2);
    CHECK(!events);
    CHECK(static_cast<bool>(other));
}

void a_loop_may_be_dropped_by_a_handler() {
    channel ends;
    int alive = 0;
    auto events = std::make_unique<loop>();
    int handled = 0;
    loop_port here = events->add(std::move(ends.port2));
    here.on_message([&, token = counted(alive)] {
        ++handled;
        events.reset();
        CHECK(alive == 1); // this one runs
    });
    post_numbers(ends.port1, 2);
    events->run();
    CHECK(handled == 1);
    CHECK(alive == 0);
    CHECK(!here);
}

void a_port_in_a_loop_is_used_but_not_moved() {
    channel ends;
    loop events;
    loop_port here = events.add(std::move(ends.port1));
    here->post("posted");
    CHECK(ends.port2.recv().text() == "posted");
    ends.port2.post("received");
    CHECK((*here).recv().text() == "received");
    ringport::slot slot = here->reserve(4);
    CHECK_THROWS(RINGPORT_BUSY, events.remove(here));
    slot.abort();
    port back = events.remove(here);
    CHECK(!here);
    back.post("out again");
    CHECK(ends.port2.recv().text() == "out again");
    loop other;
    here = events.add(std::move(back));
    CHECK_THROWS(RINGPORT_NOT_IN_LOOP, other.remove(here));
    CHECK(static_cast<bool>(here));
}

void an_add_that_fails_leaves_the_port() {
    loop events;
    port none;
    CHECK_THROWS(RINGPORT_NULL, events.add(std::move(none)));
    channel ends;
    {
        const ringport::slot open = ends.port1.reserve(4);
        CHECK_THROWS(RINGPORT_BUSY, events.add(std::move(ends.port1)));
    }
    ends.port1.post("still here");
    CHECK(ends.port2.recv().text() == "still here");
    CHECK(!events.run_once(50s)); // it is empty
}

void handlers_are_dropped_with_the_loop() {
    int alive = 0;
    channel ends;
    std::optional<loop_port> kept;
    {
        loop events;
        kept = events.add(std::move(ends.port2));
        kept->on_message([token = counted(alive)] {}).on_message_error([token = counted(alive)] {});
        kept->on_close([token = counted(alive)] {}).on_room(100'000, [token = counted(alive)] {});
        events.set_timeout(1h, [token = counted(alive)] {});
        events.on_wake([token = counted(alive)] {});
        CHECK(alive == 6);
        kept->on_message([token = counted(alive)] {}).on_message_error([token = counted(alive)] {});
        kept->on_close([token = counted(alive)] {}).on_room(100'000, [token = counted(alive)] {});
        events.on_wake([token = counted(alive)] {});
        CHECK(alive == 6);
    }
    CHECK(alive == 0);
    CHECK(!*kept);
    CHECK_THROWS(RINGPORT_NOT_IN_LOOP, kept->start());
}

void a_handler_may_own_its_own_port() {
    channel ends;
    channel other;
    {
        loop events;
        loop_port here = events.add(std::move(ends.port2));
        // And another, as a port can only be moved.
        here.on_message([here, mine = std::move(other.port1)]() mutable { mine.post("from the handler"); });
        ends.port1.post("x");
        run_dry(events);
    }
    CHECK(other.port2.recv().text() == "from the handler");
    CHECK_THROWS(RINGPORT_CLOSED, other.port2.recv());
}

void a_loop_nests_in_another_by_its_descriptor() {
    channel ends;
    loop events;
    int handled = 0;
    events.set_wait_strategy(ringport::wait_strategy::block);
    events.add(std::move(ends.port2)).on_message([&handled] { ++handled; });
    pollfd polled = {events.fd(), POLLIN, 0};
    run_dry(events);
    CHECK(poll(&polled, 1, 0) == 0);
    std::thread poster([&ends] { ends.port1.post("x"); });
    CHECK(poll(&polled, 1, 50'000) == 1);
    while (handled == 0) {
        events.run_once(50s);
    }
    poster.join();
}

void many_ports_come_and_go() {
    loop events;
    int closed = 0;
    for (int round = 0; round < 100; ++round) {
        channel ends;
        events.add(std::move(ends.port1)).on_message([](loop_port &self, const message &one) {
            self->post(one);
        }).on_close([&closed] { ++closed; });
        ends.port2.post("echo");
        while (!ends.port2.try_recv()) {
            events.run_once(50s);
        }
        ends.port2.close();
    }
    events.run();
    CHECK(closed == 100);
}

} // namespace

int main() {
    return check::run(
        "cpp_loop", s24_s26_nothing_is_handled_before_the_start, s28_one_call_per_message_in_order,
        a_handler_takes_what_it_wants, s30_what_a_handler_posts_comes_in_a_later_turn, s31_a_handler_is_told_the_port,
        s27_a_handler_may_replace_itself, s38_a_port_moves_away_from_its_own_handler,
        s48_one_close_event_after_the_last_message, s49_the_closing_side_gets_no_close_event,
        s55_the_close_event_needs_no_start, a_close_handler_may_keep_the_port_from_being_freed,
        s39_a_port_out_of_a_message_is_added, there_is_a_call_when_there_is_room,
        there_is_a_call_when_there_is_room_for_ports,
        s46_what_cannot_be_received_is_told_and_not_lost, timers_fire_once_or_again_and_again,
        a_waker_wakes_from_any_thread, a_loop_runs_until_it_is_stopped_or_empty,
        what_is_left_is_dispatched_when_it_runs_again, a_loop_may_be_moved_with_all_that_is_in_it,
        a_loop_may_be_moved_by_a_handler, a_loop_may_be_dropped_by_a_handler,
        a_port_in_a_loop_is_used_but_not_moved, an_add_that_fails_leaves_the_port,
        handlers_are_dropped_with_the_loop, a_handler_may_own_its_own_port,
        a_loop_nests_in_another_by_its_descriptor, many_ports_come_and_go);
}
