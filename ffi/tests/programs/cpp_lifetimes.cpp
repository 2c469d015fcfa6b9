// What goes before what depends on it: ports before their slots and batches, loops and references in the hands of handlers.
#include "check.hpp"

#include <sys/socket.h>

#include <chrono>
#include <optional>

using namespace std::chrono_literals;

namespace {

/// A port in a loop whose peer has closed, so that it has left.
void run_to_the_close(ringport::loop &loop, const ringport::loop_port &port, ringport::port &peer) {
    peer.reset();
    while (port) {
        CHECK(loop.run_once(20s));
    }
}

void a_slot_outlives_its_port_in_a_loop() {
    for (const bool by_the_loop : {false, true}) {
        ringport::channel ends;
        std::optional<ringport::loop> loop(std::in_place);
        const ringport::loop_port port = loop->add(std::move(ends.port2));
        ringport::slot slot = port->reserve(1000);
        if (by_the_loop) {
            loop.reset();
        } else {
            run_to_the_close(*loop, port, ends.port1);
        }
        CHECK(!port);
        std::memset(slot.data(), 1, slot.size());
        CHECK_THROWS(RINGPORT_TOO_LARGE, slot.commit(1001));
        CHECK(static_cast<bool>(slot));
        ringport::slot moved = std::move(slot);
        CHECK_THROWS(RINGPORT_CLOSED, moved.commit());
        CHECK(!slot);
        CHECK(!moved);
    }
}

void a_batch_outlives_its_port_in_a_loop() {
    ringport::channel ends;
    ringport::loop loop;
    const ringport::loop_port port = loop.add(std::move(ends.port2));
    ringport::batch batch;
    CHECK(!batch);
    CHECK(batch.post(std::nothrow, "x") == RINGPORT_NULL);
    batch = port->begin_batch();
    CHECK(batch.post("x"));
    run_to_the_close(loop, port, ends.port1);
    CHECK(batch.post(std::nothrow, "y") == RINGPORT_CLOSED);
    std::size_t count = 0;
    CHECK(batch.publish(std::nothrow, count) == RINGPORT_CLOSED);
    CHECK(!batch);
    CHECK(count == 0u);
}

void a_slot_outlives_a_port_that_is_dropped_which_closes_at_once() {
    ringport::channel ends;
    ringport::slot slot = ends.port1.reserve(8);
    ends.port1.reset();
    CHECK_THROWS(RINGPORT_CLOSED, ends.port2.recv());
    CHECK(slot.commit(std::nothrow) == RINGPORT_CLOSED);
}

void a_slot_goes_along_when_its_port_is_moved() {
    ringport::channel ends;
    ringport::slot slot = ends.port1.reserve(2);
    ringport::port moved = std::move(ends.port1);
    ringport::port assigned;
    assigned = std::move(moved);
    std::memcpy(slot.data(), "ok", 2);
    slot.commit();
    CHECK(ends.port2.recv().text() == "ok");
    // Nothing is left that would keep the next one out.
    assigned.post("next");
    CHECK(ends.port2.recv().text() == "next");
}

/// All that owns a port's reference is its handler.
struct session {
    std::optional<ringport::loop_port> port;
};

session *session_in_its_handler(ringport::loop &loop, ringport::port &&port) {
    const auto all = std::make_shared<session>();
    all->port = loop.add(std::move(port));
    all->port->on_message([all] {});
    return all.get();
}

void what_leaves_may_be_owned_by_its_handler() {
    ringport::channel ends;
    ringport::loop loop;
    ringport::port back = loop.remove(*session_in_its_handler(loop, std::move(ends.port1))->port);
    back.post("still here");
    CHECK(ends.port2.recv().text() == "still here");

    session *const other = session_in_its_handler(loop, std::move(back));
    int messages = 0;
    other->port->on_message([&messages] { ++messages; }).on_close([] {}).start();
    ends.port2.post("to the new one");
    CHECK(loop.run_once(20s));
    CHECK(messages == 1);
}

/// Drops a loop as it is dropped itself.
struct end_of_loop {
    std::optional<ringport::loop> *loop;

    explicit end_of_loop(std::optional<ringport::loop> &loop) : loop(&loop) {}
    end_of_loop(end_of_loop &&other) noexcept : loop(std::exchange(other.loop, nullptr)) {}
    ~end_of_loop() {
        if (loop != nullptr) {
            loop->reset();
        }
    }
};

void a_handler_that_goes_may_take_the_loop_along() {
    ringport::channel ends;
    std::optional<ringport::loop> loop(std::in_place);
    const ringport::loop_port port = loop->add(std::move(ends.port1));
    ringport::loop_port(port).on_message([end = end_of_loop(loop)] {});
    ringport::port back = loop->remove(port);
    CHECK(!loop);
    CHECK(!port);
    back.post("still here");
    CHECK(ends.port2.recv().text() == "still here");

    loop.emplace();
    ringport::loop_port again = loop->add(std::move(back));
    again.on_close([end = end_of_loop(loop)] {});
    again = again.on_close([] {});
    CHECK(!loop);
    CHECK(!again);
    CHECK_THROWS(RINGPORT_CLOSED, ends.port2.recv());
}

/// Takes another port out of the loop as it is dropped.
struct removal {
    ringport::loop *loop;
    ringport::loop_port port;

    removal(ringport::loop &loop, const ringport::loop_port &port) : loop(&loop), port(port) {}
    removal(removal &&other) noexcept : loop(std::exchange(other.loop, nullptr)), port(other.port) {}
    ~removal() {
        if (loop != nullptr && port) {
            loop->remove(port);
        }
    }
};

void what_is_removed_is_given_back_whatever_its_handler_does() {
    char folder[] = "/tmp/ringport-XXXXXX";
    CHECK(mkdtemp(folder) != nullptr);
    {
        ringport::channel ends;
        ringport::loop loop;
        const ringport::loop_port port = loop.add(std::move(ends.port1));
        const ringport::loop_listener here =
            loop.add(ringport::listener(std::string(folder) + "/here"), [end = removal(loop, port)] {});
        const ringport::listener back = loop.remove(here);
        CHECK(static_cast<bool>(back));
        CHECK(!port);
    }
    CHECK(rmdir(folder) == 0);
}

void a_released_port_leaves_nothing_reserved() {
    ringport::channel ends;
    ringport::slot slot = ends.port1.reserve(8);
    const ringport::port again = ringport::port::adopt(ends.port1.release());
    CHECK(!slot);
    CHECK(slot.commit(std::nothrow) == RINGPORT_NULL);
}

void a_handler_takes_the_message_as_it_likes() {
    ringport::channel ends;
    ringport::loop loop;
    ringport::loop_port port = loop.add(std::move(ends.port2));
    std::string seen;
    const auto hear = [&](const char *text) {
        ends.port1.post(text);
        CHECK(loop.run_once(20s));
    };
    port.on_message([&](ringport::message &message) { seen += message.text(); });
    hear("a");
    port.on_message([&](const ringport::message &message) { seen += message.text(); });
    hear("b");
    port.on_message([&](ringport::message &&message) { seen += message.text(); });
    hear("c");
    port.on_message([&](auto &message) { seen += message.text(); });
    hear("d");
    port.on_message([&](ringport::loop &, auto &, auto &message) { seen += message.text(); });
    hear("e");
    CHECK(seen == "abcde");
}

void a_close_that_is_no_ports_has_its_own_words() {
    int sockets[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
    close(sockets[0]);
    try {
        ringport::port::receive_over(sockets[1]);
        CHECK(!"nobody is there");
    } catch (const ringport::closed_error &error) {
        CHECK(std::string(error.what()) == "the other end of the socket is closed");
        CHECK(error.reason() == ringport::close_reason::open);
    }
    close(sockets[1]);
}

} // namespace

int main() {
    return check::run("cpp_lifetimes", a_slot_outlives_its_port_in_a_loop, a_batch_outlives_its_port_in_a_loop,
                      a_slot_outlives_a_port_that_is_dropped_which_closes_at_once,
                      a_slot_goes_along_when_its_port_is_moved, what_leaves_may_be_owned_by_its_handler,
                      a_handler_that_goes_may_take_the_loop_along,
                      what_is_removed_is_given_back_whatever_its_handler_does,
                      a_released_port_leaves_nothing_reserved, a_handler_takes_the_message_as_it_likes,
                      a_close_that_is_no_ports_has_its_own_words);
}
