// One thread, many ports: a mixer that hears of its clients by handlers.
//
// Clients come with a message that carries a port. The mixer puts each of these ports into its loop, adds up what
// arrives on it, and when it is closed answers on the port that brought it. One timer ends it if nobody comes. When the
// port that brings clients is closed, another one lets the sound fade; then nothing is left in the loop, and it ends.
//
// The clients are a second thread here; they might as well be processes.
//
// Compile it with
//
//     g++ -std=c++17 -pthread event_loop.cpp -o event_loop $(pkg-config --cflags --libs ringport)
//
// and run it:
//
//     $ ./event_loop
//     mixer: drums has come
//     mixer: drums has left, sum 60
//     client: the mixer says drums 60
//     mixer: voice has come
//     mixer: voice has left, sum 700
//     client: the mixer says voice 700
//     mixer: no more clients
//     mixer: silence

#include <ringport.hpp>

#include <chrono>
#include <cstdint>
#include <future>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace std::chrono_literals;
using ringport::loop;
using ringport::loop_port;
using ringport::message;

/// What is known of a client. The handlers of its port own it together.
struct track {
    std::string name;
    std::int64_t sum = 0;
};

/// Puts a client's port into the loop. `desk` is where it came from, and where the answer goes.
void add_client(loop &events, const loop_port &desk, message request) {
    const auto client = std::make_shared<track>(track{std::string(request.text())});
    std::cout << "mixer: " << client->name << " has come\n";
    events.add(request.take_port())
        .on_message([client](const message &sample) { client->sum += sample.as<std::int64_t>(); })
        .on_close([client, desk] {
            std::cout << "mixer: " << client->name << " has left, sum " << client->sum << std::endl;
            // A post that waited would keep all the others waiting; this one always finds room.
            if (!desk->post(client->name + " " + std::to_string(client->sum), ringport::no_wait)) {
                throw std::runtime_error("nobody reads the answers");
            }
        });
}

/// The mixer: runs until nothing is left.
void mix(ringport::port desk) {
    loop events;
    const ringport::timer_id watchdog =
        events.set_timeout(30s, [] { throw std::runtime_error("where is everybody?"); });
    events.add(std::move(desk))
        .on_message([](loop &inside, loop_port &from, message request) {
            add_client(inside, from, std::move(request));
        })
        .on_close([watchdog](loop &inside) {
            std::cout << "mixer: no more clients\n";
            inside.clear_timer(watchdog);
            inside.set_timeout(20ms, [] { std::cout << "mixer: silence\n"; });
        });
    // What a handler throws comes out here.
    events.run();
}

/// One client after the other.
void play(ringport::port desk) {
    const std::vector<std::pair<std::string, std::vector<std::int64_t>>> tracks = {{"drums", {10, 20, 30}},
                                                                                   {"voice", {300, 400}}};
    for (const auto &[name, samples] : tracks) {
        ringport::channel ends;
        desk.post(name, std::move(ends.port2));
        for (const std::int64_t &sample : samples) {
            ends.port1.post(ringport::bytes::of(sample));
        }
        ends.port1.close();
        const message answer = desk.recv();
        std::cout << "client: the mixer says " << answer.text() << std::endl;
    }
}

} // namespace

int main() {
    try {
        ringport::channel desk;
        std::future<void> clients = std::async(std::launch::async, play, std::move(desk.port1));
        mix(std::move(desk.port2));
        clients.get();
        return 0;
    } catch (const std::exception &error) {
        std::cerr << "event_loop: " << error.what() << '\n';
        return 1;
    }
}
