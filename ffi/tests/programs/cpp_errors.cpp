// What calls say when they fail, in exceptions and in statuses; and that what is empty fails and does not crash.
#include "check.hpp"

#include <chrono>
#include <cstring>
#include <thread>

using namespace std::chrono_literals;
using ringport::channel;
using ringport::error;
using ringport::message;
using ringport::port;
using reason = ringport::close_reason;

namespace {

static_assert(std::is_base_of_v<std::runtime_error, error> && std::is_base_of_v<error, ringport::closed_error>);

void an_error_says_what_is_wrong() {
    channel ends;
    try {
        ends.port1.post(std::string(ends.port1.max_message_len() + 1, 'x'));
        CHECK(!"too large, and posted");
    } catch (const error &failed) {
        CHECK(failed.status() == RINGPORT_TOO_LARGE);
        const std::string text = failed.what();
        // It names both sizes.
        CHECK(text.find(std::to_string(ends.port1.max_message_len())) != std::string::npos);
        CHECK(text.find(std::to_string(ends.port1.max_message_len() + 1)) != std::string::npos);
        CHECK(!failed.system_error_code());
    }
    CHECK(std::string(ringport::status_name(RINGPORT_TOO_LARGE)) == "RINGPORT_TOO_LARGE");
}

void an_error_keeps_its_words() {
    channel ends;
    std::optional<error> kept;
    try {
        ends.port1.post(std::string(ends.port1.max_message_len() + 1, 'x'));
    } catch (const error &failed) {
        kept = failed;
    }
    const std::string text = kept->what();
    ends.port2.close();
    CHECK_THROWS(RINGPORT_CLOSED, ends.port1.recv());
    CHECK(kept->what() == text);
}

void an_error_says_what_the_system_said() {
    bool thrown = false;
    try {
        ringport::spawn({"/nowhere/to/be/found"});
    } catch (const error &failed) {
        thrown = true;
        CHECK(failed.status() == RINGPORT_SPAWN);
        CHECK((failed.system_error_code() == std::errc::no_such_file_or_directory));
        CHECK(std::strstr(failed.what(), "/nowhere/to/be/found") != nullptr);
    }
    CHECK(thrown);
}

void s53_a_closed_error_says_why() {
    channel here;
    here.port1.close();
    channel there;
    there.port2.close();
    channel gone;
    {
        // Discarded undelivered.
        channel carrier;
        carrier.port1.post("", std::move(gone.port2));
    }
    const auto reason_of = [](port &from) {
        try {
            static_cast<void>(from.recv_for(50s));
        } catch (const ringport::closed_error &closed) {
            CHECK(closed.status() == RINGPORT_CLOSED);
            CHECK(std::strlen(closed.what()) != 0u);
            return closed.reason();
        }
        return reason::open;
    };
    CHECK(reason_of(here.port1) == reason::closed_here);
    CHECK(reason_of(there.port1) == reason::closed_by_peer);
    CHECK(reason_of(gone.port1) == reason::peer_gone);
}

void every_posting_call_says_closed() {
    channel ends;
    ends.port2.close();
    CHECK_THROWS(RINGPORT_CLOSED, ends.port1.recv());
    CHECK_THROWS(RINGPORT_CLOSED, ends.port1.post("x"));
    CHECK_THROWS(RINGPORT_CLOSED, ends.port1.post("x", ringport::no_wait));
    CHECK_THROWS(RINGPORT_CLOSED, ends.port1.reserve(1));
    channel gift;
    CHECK_THROWS(RINGPORT_CLOSED, ends.port1.post("x", std::move(gift.port1)));
    gift.port2.post("still held");
    CHECK(gift.port1.recv().text() == "still held");
}

void a_status_is_an_answer_too() {
    channel ends;
    message none;
    ringport::slot no_slot;
    CHECK(ends.port1.post(std::nothrow, "x") == RINGPORT_OK);
    CHECK(ends.port2.recv(std::nothrow, none) == RINGPORT_OK);
    CHECK(ends.port2.recv(std::nothrow, none, 1ms) == RINGPORT_NOT_YET);
    CHECK(none.text() == "x"); // it keeps what it held
    CHECK(ends.port1.reserve(std::nothrow, 1u << 30, no_slot) == RINGPORT_TOO_LARGE);
    ends.port1.close();
    CHECK(ends.port2.recv(std::nothrow, none) == RINGPORT_CLOSED);
    static_assert(noexcept(ends.port1.post(std::nothrow, "x")) && noexcept(ends.port2.recv(std::nothrow, none)) &&
                  noexcept(no_slot.commit(std::nothrow)) &&
                  noexcept(ends.port1.reserve(std::nothrow, 1, no_slot)) &&
                  noexcept(ends.port1.arm(std::nothrow, ringport::interest::room)));
}

void s16_what_was_moved_from_fails_and_does_not_crash() {
    channel ends;
    const port elsewhere = std::move(ends.port1);
    port &none = ends.port1;
    message nothing;
    ringport::slot no_slot;
    CHECK(!none);
    none.close();
    none.reset();
    CHECK(none.capacity() == 0u);
    CHECK(none.max_message_len() == 0u);
    CHECK(none.pending() == 0u);
    CHECK_THROWS(RINGPORT_NULL, none.post("x"));
    CHECK_THROWS(RINGPORT_NULL, none.post("x", 1s));
    CHECK_THROWS(RINGPORT_NULL, none.post("x", std::move(ends.port2)));
    CHECK_THROWS(RINGPORT_NULL, none.reserve(1));
    CHECK_THROWS(RINGPORT_NULL, none.reserve_aligned(1, 16));
    CHECK_THROWS(RINGPORT_NULL, none.begin_batch());
    CHECK_THROWS(RINGPORT_NULL, none.recv());
    CHECK_THROWS(RINGPORT_NULL, none.try_recv());
    CHECK_THROWS(RINGPORT_NULL, none.close_reason());
    CHECK_THROWS(RINGPORT_NULL, none.trust_peer());
    CHECK_THROWS(RINGPORT_NULL, none.set_wait_strategy(ringport::wait_strategy::spin));
    CHECK_THROWS(RINGPORT_NULL, none.wait_strategy());
    CHECK_THROWS(RINGPORT_NULL, none.stats());
    CHECK_THROWS(RINGPORT_NULL, none.fd());
    CHECK_THROWS(RINGPORT_NULL, none.arm(ringport::interest::message));
    CHECK_THROWS(RINGPORT_NULL, none.into_fds());
    CHECK_THROWS(RINGPORT_NULL, none.send_over(0));
    CHECK_THROWS(RINGPORT_NULL, ringport::wait_any({none}));
    CHECK(none.recv(std::nothrow, nothing) == RINGPORT_NULL);
    CHECK(ends.port2.get() != nullptr);
}

void an_empty_message_object_fails_and_does_not_crash() {
    message none;
    CHECK(!none);
    CHECK(none.size() == 0u);
    CHECK(none.text().empty());
    CHECK(!none.is_in_place());
    CHECK(none.port_count() == 0u);
    CHECK(none.take_ports().empty());
    CHECK(!none.try_as<int>());
    CHECK_THROWS(RINGPORT_INVALID, none.as<int>());
    CHECK_THROWS(RINGPORT_NULL, none.take_port());
    CHECK_THROWS(RINGPORT_NULL, none.make_owned());
    // No bytes are no archive.
    CHECK_THROWS(RINGPORT_BAD_ARCHIVE, none.archived_root<std::uint32_t>());
    CHECK(check::thrown_by([&none] { none.string_at(nullptr); }) != RINGPORT_OK);
    CHECK(check::thrown_by([&none] { none.slice_at<int>(nullptr); }) != RINGPORT_OK);
}

void what_else_is_empty_fails_and_does_not_crash() {
    ringport::child no_child;
    CHECK(no_child.id() == 0);
    CHECK_THROWS(RINGPORT_NULL, no_child.wait());
    CHECK_THROWS(RINGPORT_NULL, no_child.try_wait());
    CHECK_THROWS(RINGPORT_NULL, no_child.kill());
    ringport::listener no_listener;
    CHECK(no_listener.path().empty());
    CHECK_THROWS(RINGPORT_NULL, no_listener.accept());
    CHECK_THROWS(RINGPORT_NULL, no_listener.try_accept());
    CHECK_THROWS(RINGPORT_NULL, no_listener.fd());
    const ringport::waker no_waker;
    CHECK_THROWS(RINGPORT_NULL, no_waker.wake());
    ringport::loop moved;
    const ringport::loop other = std::move(moved);
    channel ends;
    CHECK_THROWS(RINGPORT_NULL, moved.run());
    CHECK_THROWS(RINGPORT_NULL, moved.run_once(1ms));
    CHECK_THROWS(RINGPORT_NULL, moved.stop());
    CHECK_THROWS(RINGPORT_NULL, moved.fd());
    CHECK_THROWS(RINGPORT_NULL, moved.add(std::move(ends.port1)));
    CHECK_THROWS(RINGPORT_NULL, moved.set_timeout(1s, [] {}));
    CHECK_THROWS(RINGPORT_NULL, moved.on_wake([] {}));
    CHECK_THROWS(RINGPORT_NULL, moved.make_waker());
    CHECK_THROWS(RINGPORT_NULL, moved.clear_timer(ringport::timer_id{1}));
    CHECK_THROWS(RINGPORT_NULL, moved.set_wait_strategy(ringport::wait_strategy::block));
    CHECK(ends.port1.get() != nullptr);
}

void an_error_belongs_to_its_thread() {
    std::thread([] { CHECK_THROWS(RINGPORT_NULL, port().recv()); }).join();
    channel ends;
    ends.port2.close();
    CHECK_THROWS(RINGPORT_CLOSED, ends.port1.recv());
    std::thread([] { CHECK_THROWS(RINGPORT_NULL, port().recv()); }).join();
    CHECK(std::strstr(error(RINGPORT_CLOSED).what(), "closed") != nullptr);
}

} // namespace

int main() {
    return check::run("cpp_errors", an_error_says_what_is_wrong, an_error_keeps_its_words,
                      an_error_says_what_the_system_said, s53_a_closed_error_says_why,
                      every_posting_call_says_closed, a_status_is_an_answer_too,
                      s16_what_was_moved_from_fails_and_does_not_crash,
                      an_empty_message_object_fails_and_does_not_crash,
                      what_else_is_empty_fails_and_does_not_crash, an_error_belongs_to_its_thread);
}
