// Strangers that meet at an address: listeners, clients, and listeners in a loop.
#include "check.hpp"
#include "counted.hpp"

#include <poll.h>
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using check::counted;
using ringport::accepted;
using ringport::listener;
using ringport::port;

namespace {

/// A directory of this program alone, for its sockets.
class place {
public:
    place() { CHECK(mkdtemp(directory_.data()) != nullptr); }
    place(const place &) = delete;
    place &operator=(const place &) = delete;
    /// Empty, as nothing is left behind.
    ~place() { CHECK(rmdir(directory_.data()) == 0); }

    std::string address() const { return std::string(directory_.data()) + "/here"; }

private:
    std::array<char, 32> directory_ = {"/tmp/ringport-XXXXXX"};
};

/// A client that asks one thing.
std::thread client_of(const std::string &address) {
    return std::thread([address] {
        port there = ringport::connect(address);
        there.post("hello");
        CHECK(there.recv().text() == "hello yourself");
    });
}

void answer(port &client) {
    CHECK(client.recv().text() == "hello");
    client.post("hello yourself");
}

void two_who_know_an_address_meet() {
    const place here;
    listener door(here.address());
    CHECK(door.path() == here.address());
    CHECK(!door.try_accept());
    CHECK(!door.accept_for(1ms));
    std::thread client = client_of(here.address());
    accepted one = door.accept();
    answer(one.port);
    client.join();
    CHECK(one.client.process_id == static_cast<std::uint32_t>(getpid()));
    CHECK(one.client.user_id == getuid());
    CHECK(one.client.group_id == getgid());
    client = client_of(here.address());
    std::optional<accepted> other = door.accept_for(50s);
    answer(other->port);
    client.join();
    accepted none;
    CHECK(door.accept(std::nothrow, none, ringport::no_wait) == RINGPORT_NOT_YET);
    CHECK(!none.port);
}

void a_channel_outlives_the_listener() {
    const place here;
    std::optional<accepted> one;
    port client;
    {
        listener door(here.address());
        std::thread connecting([&] { client = ringport::connect(here.address()); });
        one = door.accept();
        connecting.join();
        listener moved = std::move(door);
        CHECK(!door);
        CHECK(moved.path() == here.address());
        listener &same = moved;
        moved = std::move(same);
        CHECK(static_cast<bool>(moved));
    }
    client.post("still");
    CHECK(one->port.recv().text() == "still");
}

void a_listeners_descriptor_can_be_polled() {
    const place here;
    listener door(here.address());
    pollfd polled = {door.fd(), POLLIN, 0};
    CHECK(poll(&polled, 1, 0) == 0);
    std::thread client = client_of(here.address());
    std::optional<accepted> one;
    while (!(one = door.try_accept())) {
        CHECK(poll(&polled, 1, 50'000) == 1);
    }
    answer(one->port);
    client.join();
}

void the_client_chooses_its_channel() {
    const place here;
    ringport::listener_options options;
    options.largest_capacity = 65536;
    options.backlog = 4;
    options.users = {getuid()};
    listener door(here.address(), options);
    ringport::connect_options wishes;
    wishes.channel.capacity_1_to_2 = 4096;
    wishes.channel.capacity_2_to_1 = 8192;
    wishes.timeout = 50s;
    port client;
    std::thread connecting([&] { client = ringport::connect(here.address(), wishes); });
    const accepted one = door.accept();
    connecting.join();
    CHECK(one.port.capacity() == 8192u);
    CHECK(client.capacity() == 4096u);
    wishes.channel.capacity_1_to_2 = 1 << 20;
    std::atomic<bool> turned_away = false;
    std::thread greedy([&] {
        CHECK_THROWS(RINGPORT_CAPACITY, ringport::connect(here.address(), wishes));
        turned_away = true;
    });
    while (!turned_away) {
        CHECK(!door.accept_for(10ms));
    }
    greedy.join();
}

void what_cannot_meet_is_an_error() {
    const place here;
    CHECK_THROWS(RINGPORT_NOBODY_LISTENS, ringport::connect(here.address()));
    CHECK_THROWS(RINGPORT_ADDRESS, listener(""));
    listener door(here.address());
    CHECK_THROWS(RINGPORT_IN_USE, listener(here.address()));
    ringport::connect_options hurried;
    hurried.timeout = 1ms;
    CHECK_THROWS(RINGPORT_TIMED_OUT, ringport::connect(here.address(), hurried));
    hurried.timeout = ringport::no_wait;
    const auto start = std::chrono::steady_clock::now();
    CHECK_THROWS(RINGPORT_TIMED_OUT, ringport::connect(here.address(), hurried));
    // Not the ten seconds that are the default.
    CHECK((std::chrono::steady_clock::now() - start) < 8s);
}

void a_loop_accepts() {
    const place here;
    int alive = 0;
    ringport::loop events;
    int greeted = 0;
    int left = 0;
    std::optional<ringport::loop_listener> door;
    door = events.add(listener(here.address()), [&, token = counted(alive)](ringport::loop &inside,
                                                                          ringport::arrival one) {
        CHECK(one.status == RINGPORT_OK);
        CHECK(one.client.process_id == static_cast<std::uint32_t>(getpid()));
        inside.add(std::move(one.port))
            .on_message([&greeted](ringport::loop_port &from) {
                ++greeted;
                from->post("hello yourself");
            })
            .on_close([&](ringport::loop &outer) {
                if (++left == 3) {
                    // Nobody else is expected, so the loop ends by itself.
                    outer.remove(*door);
                }
            });
    });
    std::vector<std::thread> clients;
    for (int count = 0; count < 3; ++count) {
        clients.push_back(client_of(here.address()));
    }
    events.run();
    for (std::thread &client : clients) {
        client.join();
    }
    CHECK(greeted == 3);
    CHECK(!*door);
    CHECK(alive == 0);
}

void a_listener_comes_out_of_its_loop_as_it_was() {
    const place here;
    ringport::loop events;
    const ringport::loop_listener inside = events.add(listener(here.address()), [] { CHECK(!"it was taken out"); });
    listener door = events.remove(inside);
    CHECK(!inside);
    CHECK_THROWS(RINGPORT_NOT_IN_LOOP, events.remove(inside));
    std::thread client = client_of(here.address());
    accepted one = door.accept();
    answer(one.port);
    client.join();
    listener none;
    CHECK_THROWS(RINGPORT_NULL, events.add(std::move(none), [] {}));
}

void a_loop_that_ends_ends_the_listening() {
    const place here;
    {
        ringport::loop events;
        events.add(listener(here.address()), [] {});
    }
    CHECK_THROWS(RINGPORT_NOBODY_LISTENS, ringport::connect(here.address()));
}

} // namespace

int main() {
    return check::run("cpp_meeting", two_who_know_an_address_meet, a_channel_outlives_the_listener,
                      a_listeners_descriptor_can_be_polled, the_client_chooses_its_channel,
                      what_cannot_meet_is_an_error, a_loop_accepts, a_listener_comes_out_of_its_loop_as_it_was,
                      a_loop_that_ends_ends_the_listening);
}
