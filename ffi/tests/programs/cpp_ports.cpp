// Posting and receiving in C++: every form of both, slots, batches, settings, the end of a channel.
#include "check.hpp"

#include <poll.h>

#include <chrono>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using ringport::channel;
using ringport::message;
using ringport::port;
using reason = ringport::close_reason;

namespace {

struct reading {
    std::uint32_t sensor;
    float value;
};

bool is_aligned(const void *data, std::size_t alignment) {
    return reinterpret_cast<std::uintptr_t>(data) % alignment == 0;
}

/// Fills the queue with messages of this size, and says how many it took.
int fill(ringport::endpoint &to, std::size_t size) {
    const std::string text(size, 'x');
    int count = 0;
    while (to.post(text, ringport::no_wait)) {
        ++count;
    }
    return count;
}

void s01_s02_two_ports_talk_both_ways() {
    channel ends;
    ends.port1.post("there");
    ends.port2.post("and back");
    CHECK(ends.port2.recv().text() == "there");
    CHECK(ends.port1.recv().text() == "and back");
    CHECK(!ends.port1.try_recv());
    CHECK(!ends.port2.try_recv());
}

void what_is_asked_for_is_what_one_gets() {
    ringport::channel_options options;
    options.capacity_1_to_2 = 4096;
    options.capacity_2_to_1 = 16384;
    const channel ends(options);
    CHECK(ends.port1.capacity() == 4096u);
    CHECK(ends.port2.capacity() == 16384u);
    CHECK(ends.port1.max_message_len() == 4096u / 2 - 24);
    options.capacity_1_to_2 = 5000;
    CHECK_THROWS(RINGPORT_CAPACITY, channel(options));
}

void s05_messages_arrive_in_order_and_whole() {
    channel ends;
    std::thread poster([&ends] {
        for (std::uint32_t number = 0; number < 20'000; ++number) {
            const std::vector<std::uint32_t> numbers(number % 50, number);
            ends.port1.post(numbers);
        }
    });
    for (std::uint32_t number = 0; number < 20'000; ++number) {
        const message one = ends.port2.recv();
        CHECK(one.size() == number % 50 * sizeof number);
        for (std::size_t at = 0; at < one.size(); at += sizeof number) {
            std::uint32_t seen = 0;
            std::memcpy(&seen, one.data() + at, sizeof seen);
            CHECK(seen == number);
        }
    }
    poster.join();
}

void s06_what_was_posted_does_not_change() {
    channel ends;
    std::string text = "before";
    ends.port1.post(text);
    text = "after!";
    CHECK(ends.port2.recv().text() == "before");
}

void s09_an_empty_message_is_a_message() {
    channel ends;
    CHECK(!ends.port2.try_recv());
    ends.port1.post({});
    ends.port1.post("");
    for (int round = 0; round < 2; ++round) {
        const std::optional<message> none = ends.port2.try_recv();
        CHECK(none.has_value());
        CHECK(none->empty());
        CHECK(none->data() != nullptr);
    }
    CHECK(!ends.port2.try_recv());
}

void s11_a_full_queue_says_so_and_drops_nothing() {
    channel ends({4096, 4096, false, false});
    const int fitted = fill(ends.port1, 100);
    CHECK(fitted >= 20);
    CHECK(!ends.port1.post(std::string(100, 'y'), 1ms));
    CHECK(ends.port1.post(std::nothrow, std::string(100, 'y'), ringport::no_wait) == RINGPORT_FULL);
    for (int count = 0; count < fitted; ++count) {
        CHECK(ends.port2.recv().text() == std::string(100, 'x'));
    }
    CHECK(!ends.port2.try_recv());
    CHECK(ends.port1.post("room again", ringport::no_wait));
}

void s11_a_post_waits_for_room() {
    channel ends({4096, 4096, false, false});
    const int fitted = fill(ends.port1, 100);
    std::thread poster([&ends] {
        ends.port1.post("as long as it takes");
        CHECK(ends.port1.post("a while", 50s));
    });
    for (int count = 0; count < fitted; ++count) {
        CHECK(ends.port2.recv().size() == 100u);
    }
    CHECK(ends.port2.recv().text() == "as long as it takes");
    CHECK(ends.port2.recv().text() == "a while");
    poster.join();
}

void s17_receiving_waits_or_does_not() {
    channel ends;
    CHECK(!ends.port2.try_recv());
    CHECK(!ends.port2.recv_for(1ms));
    message none;
    CHECK(ends.port2.recv(std::nothrow, none, ringport::no_wait) == RINGPORT_NOT_YET);
    CHECK(!none);
    std::thread poster([&ends] { ends.port1.post("late"); });
    CHECK(ends.port2.recv_for(50s)->text() == "late");
    poster.join();
}

void s18_a_message_shows_objects() {
    channel ends;
    const reading sent = {7, 1.5F};
    ends.port1.post(ringport::bytes::of(sent));
    const message one = ends.port2.recv();
    CHECK(one.as<reading>().sensor == 7u);
    CHECK(one.try_as<reading>()->value == 1.5F);
    CHECK(!one.try_as<std::uint32_t>());
    CHECK_THROWS(RINGPORT_INVALID, one.as<std::uint32_t>());
    CHECK(is_aligned(one.data(), 16));
    CHECK(one.bytes().size() == sizeof sent);
}

void a_message_can_be_posted_on() {
    channel first;
    channel second;
    first.port1.post("pass it on");
    second.port1.post(first.port2.recv());
    CHECK(second.port2.recv().text() == "pass it on");
}

void s21_several_messages_may_be_held() {
    channel ends;
    ends.port2.trust_peer();
    for (const char *text : {"one", "two", "three"}) {
        ends.port1.post(text);
    }
    message last;
    CHECK(ends.port2.recv(std::nothrow, last) == RINGPORT_OK);
    const message first = std::move(last);
    last = ends.port2.recv();
    CHECK(last.text() == "two");
    last = ends.port2.recv();
    CHECK(first.text() == "one");
    CHECK(last.text() == "three");
    CHECK(last.is_in_place());
}

void s60_reading_in_place_is_a_choice() {
    channel ends;
    ends.port1.post("copied");
    CHECK(!ends.port2.recv().is_in_place());
    ends.port2.trust_peer();
    ends.port1.post("in place");
    message one = ends.port2.recv();
    CHECK(one.is_in_place());
    one.make_owned();
    CHECK(!one.is_in_place());
    CHECK(one.text() == "in place");
}

void a_message_outlives_its_port_and_its_thread() {
    message kept;
    {
        channel ends;
        ends.port1.post("kept");
        kept = ends.port2.recv();
        kept.make_owned();
    }
    std::thread([one = std::move(kept)] { CHECK(one.text() == "kept"); }).join();
    CHECK(!kept);
}

void a_range_ends_with_the_channel() {
    channel ends;
    for (std::uint32_t number = 0; number < 3; ++number) {
        ends.port1.post(ringport::bytes::of(number));
    }
    ends.port1.close();
    std::uint32_t sum = 0;
    std::vector<message> kept;
    for (auto &one : ends.port2) {
        sum = sum * 10 + one.as<std::uint32_t>();
        kept.push_back(std::move(one));
    }
    CHECK(sum == 12u);
    CHECK(kept[2].as<std::uint32_t>() == 2u);
    CHECK(ends.port2.close_reason() == reason::closed_by_peer);
    for (message &one : ends.port2.messages()) {
        CHECK(one.size() == 99u); // there is none
    }
}

void a_range_gives_room_back_before_it_waits() {
    channel ends({4096, 4096, false, false});
    ends.port2.trust_peer();
    const int fitted = fill(ends.port1, 1000);
    std::thread poster([&ends] {
        ends.port1.post(std::string(2000, 'z')); // needs most of the ring
        ends.port1.close();
    });
    int count = 0;
    for (const message &one : ends.port2.messages()) {
        CHECK(one.size() == (count < fitted ? 1000u : 2000u));
        ++count;
    }
    CHECK(count == fitted + 1);
    poster.join();
}

void a_range_throws_what_is_no_end() {
    port none;
    CHECK_THROWS(RINGPORT_NULL, none.begin());
    const auto go_through = [&none] {
        for (const message &one : none.messages()) {
            CHECK(one.size() == 99u);
        }
    };
    CHECK_THROWS(RINGPORT_NULL, go_through());
}

void a_slot_is_posted_when_it_is_committed() {
    channel ends;
    ringport::slot slot = ends.port1.reserve(100);
    CHECK(slot.size() == 100u);
    CHECK(is_aligned(slot.data(), 16));
    std::memcpy(slot.data(), "written in place", 16);
    CHECK(!ends.port2.try_recv());
    slot.commit(16);
    CHECK(!slot);
    CHECK(ends.port2.recv().text() == "written in place");
    const std::optional<ringport::slot> all = ends.port1.reserve(3, 1s);
    CHECK(all.has_value());
}

void a_slot_that_is_dropped_posts_nothing() {
    channel ends;
    {
        const ringport::slot dropped = ends.port1.reserve(8);
        CHECK(ends.port1.post(std::nothrow, "meanwhile") == RINGPORT_BUSY);
    }
    ringport::slot aborted = ends.port1.reserve(8);
    aborted.abort();
    CHECK(aborted.commit(std::nothrow) != RINGPORT_OK);
    ends.port1.post("afterwards");
    CHECK(ends.port2.recv().text() == "afterwards");
    CHECK(!ends.port2.try_recv());
}

void a_slot_may_be_moved_and_its_port_too() {
    channel ends;
    ringport::slot slot = ends.port1.reserve(4);
    port moved = std::move(ends.port1);
    ringport::slot other = std::move(slot);
    CHECK(!slot);
    CHECK(slot.size() == 0u);
    std::memcpy(other.room().data(), "four", 4);
    ringport::slot &same = other;
    other = std::move(same);
    other.commit();
    CHECK(ends.port2.recv().text() == "four");
    slot = moved.reserve(4);
    other = std::move(slot);
    CHECK(other.commit(std::nothrow, 5) == RINGPORT_TOO_LARGE);
    CHECK(static_cast<bool>(other));
    other = ringport::slot();
    moved.post("free again");
    CHECK(ends.port2.recv().text() == "free again");
}

void a_slot_takes_the_alignment_asked_for() {
    channel ends;
    ringport::slot slot = ends.port1.reserve_aligned(64, 128);
    CHECK(is_aligned(slot.data(), 128));
    slot.commit();
    CHECK(ends.port2.recv().size() == 64u);
    CHECK_THROWS(RINGPORT_ALIGNMENT, ends.port1.reserve_aligned(64, 3));
}

void a_slot_ends_with_its_channel() {
    channel ends;
    ringport::slot slot = ends.port1.reserve(4);
    ends.port1.close();
    CHECK_THROWS(RINGPORT_CLOSED, slot.commit());
    CHECK(!slot);
    channel others;
    ringport::batch batch = others.port1.begin_batch();
    CHECK(batch.post("never"));
    others.port1.close();
    CHECK_THROWS(RINGPORT_CLOSED, batch.publish());
    CHECK(!batch);
}

void a_slot_waits_so_long_for_room() {
    channel ends({4096, 4096, false, false});
    fill(ends.port1, 1000);
    CHECK(!ends.port1.reserve(1000, 1ms));
    ringport::slot none;
    CHECK(ends.port1.reserve(std::nothrow, 1000, none, ringport::no_wait) == RINGPORT_FULL);
    CHECK(!none);
}

void a_batch_is_seen_all_at_once() {
    channel ends;
    ringport::batch batch = ends.port1.begin_batch();
    CHECK(batch.post("one"));
    CHECK(batch.post(std::nothrow, "two") == RINGPORT_OK);
    CHECK(!ends.port2.try_recv());
    CHECK(ends.port1.post(std::nothrow, "meanwhile") == RINGPORT_BUSY);
    ringport::batch moved = std::move(batch);
    CHECK(moved.publish() == 2u);
    CHECK(!moved);
    CHECK(ends.port2.recv().text() == "one");
    CHECK(ends.port2.recv().text() == "two");
    CHECK(moved.post(std::nothrow, "three") != RINGPORT_OK);
}

void a_batch_that_is_dropped_posts_nothing() {
    channel ends;
    {
        ringport::batch batch = ends.port1.begin_batch();
        CHECK(batch.post("never"));
        ringport::batch &same = batch;
        batch = std::move(same);
        CHECK(static_cast<bool>(batch));
    }
    ends.port1.post("afterwards");
    CHECK(ends.port2.recv().text() == "afterwards");
}

void a_batch_says_when_it_is_full() {
    channel ends({4096, 4096, false, false});
    ringport::batch batch = ends.port1.begin_batch();
    std::size_t count = 0;
    while (batch.post(std::string(500, 'b'))) {
        ++count;
    }
    CHECK(count >= 4u);
    std::size_t published = 0;
    CHECK(batch.publish(std::nothrow, published) == RINGPORT_OK);
    CHECK(published == count);
    for (; count > 0; --count) {
        CHECK(ends.port2.recv().size() == 500u);
    }
}

void s47_closing_ends_both_sides() {
    channel ends;
    CHECK(ends.port1.close_reason() == reason::open);
    ends.port1.close();
    ends.port1.close();
    CHECK(ends.port1.close_reason() == reason::closed_here);
    CHECK_THROWS(RINGPORT_CLOSED, ends.port1.post("too late"));
    CHECK_THROWS(RINGPORT_CLOSED, ends.port2.recv());
    CHECK(ends.port2.close_reason() == reason::closed_by_peer);
}

void s47_dropping_a_port_closes_it() {
    channel ends;
    ends.port1 = port();
    CHECK_THROWS(RINGPORT_CLOSED, ends.port2.recv());
    CHECK(ends.port2.close_reason() == reason::closed_by_peer);
}

void s48_what_was_posted_comes_before_the_close() {
    channel ends;
    ends.port1.post("first");
    ends.port1.post("second");
    ends.port1.close();
    CHECK(ends.port2.recv().text() == "first");
    CHECK(ends.port2.recv().text() == "second");
    for (int round = 0; round < 2; ++round) {
        try {
            ends.port2.recv();
            CHECK(!"a message after the close");
        } catch (const ringport::closed_error &error) {
            CHECK(error.reason() == reason::closed_by_peer);
        }
    }
}

void s49_what_is_unread_on_the_closing_side_is_discarded() {
    channel ends;
    ends.port1.post("unread");
    ends.port2.close();
    CHECK_THROWS(RINGPORT_CLOSED, ends.port2.recv());
    CHECK(ends.port2.close_reason() == reason::closed_here);
}

void a_port_tells_what_it_has_done() {
    channel ends;
    ends.port1.post("four");
    CHECK(ends.port2.pending() >= 4u);
    ends.port2.recv();
    CHECK(ends.port2.pending() == 0u);
    CHECK(ends.port1.stats().messages_posted == 1u);
    CHECK(ends.port1.stats().bytes_posted == 4u);
    CHECK(ends.port2.stats().messages_received == 1u);
    CHECK(ends.port2.stats().bytes_received == 4u);
}

void a_wait_strategy_is_kept() {
    channel ends;
    CHECK(ends.port1.wait_strategy() == ringport::wait_strategy::adaptive);
    ends.port1.set_wait_strategy(ringport::wait_strategy::block);
    CHECK(ends.port1.wait_strategy() == ringport::wait_strategy::block);
    std::thread poster([&ends] { ends.port2.post("wake up"); });
    CHECK(ends.port1.recv().text() == "wake up");
    poster.join();
}

bool becomes_readable(int fd) {
    pollfd polled = {fd, POLLIN, 0};
    return poll(&polled, 1, 50'000) == 1;
}

void somebody_elses_loop_polls_the_descriptor() {
    channel ends;
    const int fd = ends.port2.fd();
    CHECK(!ends.port2.arm(ringport::interest::message));
    std::thread poster([&ends] { ends.port1.post("polled"); });
    std::optional<message> got;
    while (!(got = ends.port2.try_recv())) {
        CHECK((ends.port2.arm(ringport::interest::message) || becomes_readable(fd)));
    }
    CHECK(got->text() == "polled");
    poster.join();
    CHECK(ends.port1.arm(ringport::interest::room, 100));
    fill(ends.port1, 1000);
    CHECK(ends.port1.arm(std::nothrow, ringport::interest::room, 1000) == RINGPORT_NOT_YET);
    while (ends.port2.try_recv()) {
    }
    CHECK(becomes_readable(ends.port1.fd()));
}

void several_ports_are_waited_for() {
    std::vector<channel> ends(3);
    const ringport::wait_set all = {ends[0].port2, ends[1].port2, ends[2].port2};
    CHECK(!ringport::wait_any(all, ringport::no_wait));
    ends[1].port1.post("me");
    const port moved = std::move(ends[1].port2);
    CHECK(ringport::wait_any(all) == 1u);
    CHECK(ringport::wait_any({ends[0].port2, moved}, 50s).value_or(9) == 1u);
    std::size_t index = 9;
    CHECK(ringport::wait_any(std::nothrow, all, 1ms, index) == RINGPORT_OK);
    CHECK(index == 1u);
    std::vector<port> ports;
    ports.push_back(std::move(ends[0].port2));
    ports.push_back(std::move(ends[2].port2));
    std::thread poster([&ends] { ends[2].port1.post("and me"); });
    CHECK(ringport::wait_any(ports) == 1u);
    poster.join();
}

void a_handle_goes_out_and_comes_back() {
    channel ends;
    ringport_port *handle = ends.port1.release();
    CHECK(!ends.port1);
    port back = port::adopt(handle);
    CHECK(back.get() == handle);
    back.post("still there");
    message one = ends.port2.recv();
    const message again = message::adopt(one.release());
    CHECK(!one);
    CHECK(again.text() == "still there");
}

} // namespace

int main() {
    return check::run(
        "cpp_ports", s01_s02_two_ports_talk_both_ways, what_is_asked_for_is_what_one_gets,
        s05_messages_arrive_in_order_and_whole, s06_what_was_posted_does_not_change,
        s09_an_empty_message_is_a_message, s11_a_full_queue_says_so_and_drops_nothing, s11_a_post_waits_for_room,
        s17_receiving_waits_or_does_not, s18_a_message_shows_objects, a_message_can_be_posted_on,
        s21_several_messages_may_be_held, s60_reading_in_place_is_a_choice,
        a_message_outlives_its_port_and_its_thread, a_range_ends_with_the_channel,
        a_range_gives_room_back_before_it_waits, a_range_throws_what_is_no_end,
        a_slot_is_posted_when_it_is_committed, a_slot_that_is_dropped_posts_nothing,
        a_slot_may_be_moved_and_its_port_too, a_slot_takes_the_alignment_asked_for, a_slot_waits_so_long_for_room,
        a_slot_ends_with_its_channel,
        a_batch_is_seen_all_at_once, a_batch_that_is_dropped_posts_nothing, a_batch_says_when_it_is_full,
        s47_closing_ends_both_sides, s47_dropping_a_port_closes_it, s48_what_was_posted_comes_before_the_close,
        s49_what_is_unread_on_the_closing_side_is_discarded, a_port_tells_what_it_has_done,
        a_wait_strategy_is_kept, somebody_elses_loop_polls_the_descriptor, several_ports_are_waited_for,
        a_handle_goes_out_and_comes_back);
}
