// Ports in messages, as descriptors, and over sockets: what succeeds moves them, what fails leaves them.
#include "check.hpp"

#include <fcntl.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <vector>

using namespace std::chrono_literals;
using ringport::channel;
using ringport::message;
using ringport::port;
using reason = ringport::close_reason;

namespace {

/// That the port still is what it was, by a message there and back.
void check_alive(port &one, port &other) {
    one.post("there");
    CHECK(other.recv().text() == "there");
    other.post("back");
    CHECK(one.recv().text() == "back");
}

void s16_what_has_travelled_is_empty_here() {
    channel carrier;
    channel gift;
    carrier.port1.post("take this", std::move(gift.port2));
    CHECK(!gift.port2);
    CHECK(gift.port2.get() == nullptr);
    CHECK(gift.port2.post(std::nothrow, "too late") == RINGPORT_NULL);
    CHECK_THROWS(RINGPORT_NULL, gift.port2.recv());
    message one = carrier.port2.recv();
    CHECK(one.text() == "take this");
    CHECK(one.port_count() == 1u);
    port received = one.take_port();
    check_alive(received, gift.port1);
}

void s18_ports_arrive_in_the_order_listed() {
    channel carrier;
    std::vector<channel> gifts(5);
    carrier.port1.post("two", {std::move(gifts[0].port2), std::move(gifts[1].port2)});
    std::array<port, 2> pair = {std::move(gifts[2].port2), std::move(gifts[3].port2)};
    carrier.port1.post("an array", std::move(pair));
    std::vector<port> list;
    list.push_back(std::move(gifts[4].port2));
    carrier.port1.post("a vector", std::move(list));
    CHECK(list.size() == 1u);
    CHECK(!list[0]);
    CHECK(!pair[1]);
    for (std::size_t number = 0; number < 5;) {
        for (const port &received : carrier.port2.recv().take_ports()) {
            gifts[number].port1.post("number");
            CHECK(received.pending() >= 6u);
            ++number;
        }
    }
}

void s33_waiting_messages_go_with_their_port() {
    channel carrier;
    channel gift;
    for (std::uint32_t number = 0; number < 100; ++number) {
        gift.port1.post(ringport::bytes::of(number));
    }
    carrier.port1.post({}, std::move(gift.port2));
    gift.port1.post("posted while it is under way");
    port received = carrier.port2.recv().take_port();
    for (std::uint32_t number = 0; number < 100; ++number) {
        CHECK(received.recv().as<std::uint32_t>() == number);
    }
    CHECK(received.recv().text() == "posted while it is under way");
}

void s12_s13_a_post_that_fails_keeps_the_ports() {
    channel carrier;
    channel gift;
    channel other;
    CHECK_THROWS(RINGPORT_SELF_TRANSFER, carrier.port1.post("", std::move(carrier.port1)));
    CHECK_THROWS(RINGPORT_DUPLICATE_PORT, carrier.port1.post("", {std::move(gift.port1), std::move(gift.port1)}));
    CHECK_THROWS(RINGPORT_OWN_PEER, carrier.port1.post("", {std::move(gift.port1), std::move(carrier.port2)}));
    other.port1.close();
    CHECK_THROWS(RINGPORT_CLOSED_PORT, carrier.port1.post("", {std::move(gift.port1), std::move(other.port1)}));
    const std::string large(carrier.port1.max_message_len() + 1, 'x');
    CHECK_THROWS(RINGPORT_TOO_LARGE, carrier.port1.post(large, std::move(gift.port1)));
    port none;
    CHECK_THROWS(RINGPORT_NULL, carrier.port1.post("", {std::move(gift.port1), std::move(none)}));
    CHECK(other.port1.get() != nullptr);
    check_alive(gift.port1, gift.port2);
    check_alive(carrier.port1, carrier.port2);
    CHECK(!carrier.port2.try_recv());
}

void s13_the_list_is_checked_in_order() {
    channel carrier;
    channel gift;
    gift.port1.close();
    // Itself before twice, twice before closed, closed before the peer.
    CHECK(carrier.port1.post(std::nothrow, "",
                             {std::move(gift.port1), std::move(gift.port1), std::move(carrier.port1)}) ==
          RINGPORT_SELF_TRANSFER);
    CHECK(carrier.port1.post(std::nothrow, "", {std::move(gift.port1), std::move(gift.port1)}) ==
          RINGPORT_DUPLICATE_PORT);
    CHECK(carrier.port1.post(std::nothrow, "", {std::move(carrier.port2), std::move(gift.port1)}) ==
          RINGPORT_CLOSED_PORT);
    CHECK(carrier.port1.post(std::nothrow, "", {std::move(carrier.port2)}) == RINGPORT_OWN_PEER);
}

void s40_so_many_ports_and_no_more() {
    channel carrier;
    std::vector<port> peers;
    std::vector<port> ports;
    for (std::size_t count = 0; count <= RINGPORT_MAX_PORTS; ++count) {
        channel one;
        peers.push_back(std::move(one.port1));
        ports.push_back(std::move(one.port2));
    }
    CHECK_THROWS(RINGPORT_TOO_MANY_PORTS, carrier.port1.post("", std::move(ports)));
    check_alive(ports.back(), peers.back());
    ports.pop_back();
    carrier.port1.post("", std::move(ports));
    std::vector<port> received = carrier.port2.recv().take_ports();
    CHECK(received.size() == std::size_t{RINGPORT_MAX_PORTS});
    check_alive(received[125], peers[125]);
}

void s11_a_full_queue_keeps_the_ports() {
    channel carrier({4096, 4096, false, false});
    channel gift;
    const std::string text(1000, 'x');
    while (carrier.port1.post(text, ringport::no_wait)) {
    }
    CHECK(!carrier.port1.post(text, std::move(gift.port1), 1ms));
    CHECK(carrier.port1.post(std::nothrow, text, std::move(gift.port1), ringport::no_wait) == RINGPORT_FULL);
    check_alive(gift.port1, gift.port2);
    while (carrier.port2.try_recv()) {
    }
    CHECK(carrier.port1.post(text, std::move(gift.port1), 50s));
    CHECK(!gift.port1);
}

void so_many_messages_with_ports_wait_and_no_more() {
    channel carrier;
    std::vector<channel> gifts(65);
    for (std::size_t at = 0; at < 64; ++at) {
        carrier.port1.post("", std::move(gifts[at].port2));
    }
    CHECK(carrier.port1.post(std::nothrow, "", std::move(gifts[64].port2), ringport::no_wait) ==
          RINGPORT_TRANSFERS_FULL);
    CHECK(!carrier.port1.post("", std::move(gifts[64].port2), 1ms));
    check_alive(gifts[64].port1, gifts[64].port2);
    CHECK(carrier.port2.recv().port_count() == 1u);
    CHECK(carrier.port1.post("", std::move(gifts[64].port2), 50s));
}

void a_port_is_taken_once() {
    channel carrier;
    std::array<channel, 3> gifts;
    carrier.port1.post(
        "", {std::move(gifts[0].port2), std::move(gifts[1].port2), std::move(gifts[2].port2)});
    message one = carrier.port2.recv();
    port second = one.take_port(1);
    CHECK_THROWS(RINGPORT_DETACHED, one.take_port(1));
    CHECK_THROWS(RINGPORT_INVALID, one.take_port(3));
    port same;
    CHECK(one.take_port(std::nothrow, 1, same) == RINGPORT_DETACHED);
    CHECK(!same);
    CHECK(one.port_count() == 3u);
    std::vector<port> rest = one.take_ports();
    CHECK(rest.size() == 2u);
    check_alive(rest[1], gifts[2].port1);
    check_alive(second, gifts[1].port1);
    CHECK(one.take_ports().empty());
}

void s44_what_is_not_taken_is_closed() {
    channel carrier;
    channel gift;
    carrier.port1.post("", std::move(gift.port2));
    {
        const message dropped = carrier.port2.recv();
        CHECK(gift.port1.close_reason() == reason::open);
    }
    CHECK_THROWS(RINGPORT_CLOSED, gift.port1.recv_for(50s));
}

void s44_what_is_never_received_is_closed() {
    channel gift;
    {
        channel carrier;
        carrier.port1.post("", std::move(gift.port2));
    }
    CHECK_THROWS(RINGPORT_CLOSED, gift.port1.recv_for(50s));
    CHECK(gift.port1.close_reason() == reason::peer_gone);
}

void s42_a_port_whose_peer_is_closed_can_travel() {
    channel carrier;
    channel gift;
    gift.port1.post("last words");
    gift.port1.close();
    carrier.port1.post("", std::move(gift.port2));
    port received = carrier.port2.recv().take_port();
    CHECK(received.recv().text() == "last words");
    CHECK_THROWS(RINGPORT_CLOSED, received.recv());
}

void a_port_is_two_descriptors_and_comes_back() {
    channel ends;
    ends.port1.post("waits");
    const ringport::port_fds fds = ends.port2.into_fds();
    CHECK(!ends.port2);
    CHECK(fcntl(fds.segment, F_GETFD) != -1);
    CHECK(fcntl(fds.doorbell, F_GETFD) != -1);
    CHECK_THROWS(RINGPORT_NULL, ends.port2.into_fds());
    port back = port::from_fds(fds);
    CHECK(back.recv().text() == "waits");
    check_alive(back, ends.port1);
}

void descriptors_that_are_no_port_stay_the_callers() {
    std::array<int, 2> sockets = {-1, -1};
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets.data()) == 0);
    CHECK_THROWS(RINGPORT_NOT_A_PORT, port::from_fds({sockets[0], sockets[1]}));
    CHECK(fcntl(sockets[0], F_GETFD) != -1);
    CHECK(close(sockets[0]) == 0);
    CHECK(close(sockets[1]) == 0);
    CHECK_THROWS(RINGPORT_INVALID, port::from_fds({-1, -1}));
}

void a_port_goes_over_any_unix_socket() {
    std::array<int, 2> sockets = {-1, -1};
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets.data()) == 0);
    channel ends;
    ends.port1.post("waits");
    CHECK(!port::receive_over_for(sockets[1], ringport::no_wait));
    ends.port2.send_over(sockets[0]);
    CHECK(!ends.port2);
    port received = port::receive_over_for(sockets[1], std::chrono::seconds(20)).value();
    received.send_over(sockets[0]);
    received = port::receive_over(sockets[1]);
    CHECK(received.recv().text() == "waits");
    check_alive(received, ends.port1);
    CHECK(close(sockets[1]) == 0);
    bool failed = false;
    try {
        received.send_over(sockets[0]);
    } catch (const ringport::error &error) {
        failed = error.status() == RINGPORT_SYSTEM && error.system_error_code() == std::errc::broken_pipe;
    }
    CHECK(failed);
    check_alive(received, ends.port1);
    CHECK(close(sockets[0]) == 0);
}

void a_port_that_is_in_use_stays() {
    channel carrier;
    channel gift;
    {
        const ringport::slot open = gift.port1.reserve(8);
        CHECK_THROWS(RINGPORT_BUSY, carrier.port1.post("", std::move(gift.port1)));
        CHECK_THROWS(RINGPORT_BUSY, gift.port1.into_fds());
    }
    gift.port1.trust_peer();
    gift.port2.post("shown in place");
    {
        const message shown = gift.port1.recv();
        CHECK(shown.is_in_place());
        CHECK_THROWS(RINGPORT_BUSY, carrier.port1.post("", std::move(gift.port1)));
        CHECK(shown.text() == "shown in place");
    }
    check_alive(gift.port1, gift.port2);
    carrier.port1.post("", std::move(gift.port1));
    CHECK(!gift.port1);
}

void moving_to_itself_changes_nothing() {
    channel ends;
    port &same = ends.port1;
    ends.port1 = std::move(same);
    check_alive(ends.port1, ends.port2);
    ends.port2.post("kept");
    message one = ends.port1.recv();
    message &still = one;
    one = std::move(still);
    CHECK(one.text() == "kept");
}

} // namespace

int main() {
    return check::run(
        "cpp_transfer", s16_what_has_travelled_is_empty_here, s18_ports_arrive_in_the_order_listed,
        s33_waiting_messages_go_with_their_port, s12_s13_a_post_that_fails_keeps_the_ports,
        s13_the_list_is_checked_in_order, s40_so_many_ports_and_no_more, s11_a_full_queue_keeps_the_ports,
        so_many_messages_with_ports_wait_and_no_more, a_port_is_taken_once, s44_what_is_not_taken_is_closed,
        s44_what_is_never_received_is_closed, s42_a_port_whose_peer_is_closed_can_travel,
        a_port_is_two_descriptors_and_comes_back, descriptors_that_are_no_port_stay_the_callers,
        a_port_goes_over_any_unix_socket, a_port_that_is_in_use_stays, moving_to_itself_changes_nothing);
}
