// A program that starts itself once more as a worker, asks it things, and sees it out.
//
// The worker has no name and no address: the port to whoever has started it is simply there. It answers until that port
// is closed. What it is asked is a plain struct; what it answers is text. The last request brings a port along, on
// which the worker then counts to three.
//
// Compile it with
//
//     g++ -std=c++17 worker.cpp -o worker $(pkg-config --cflags --libs ringport)
//
// and run it:
//
//     $ ./worker
//     6 times 7 is 42
//     1000000 times -3 is -3000000
//     counting: 1 2 3, and no more (closed by the worker)
//     the worker has ended well, after 3 requests

#include <ringport.hpp>

#include <cstdint>
#include <iostream>
#include <string>

namespace {

struct product {
    std::int64_t one;
    std::int64_t other;
};

/// Posts the numbers up to three, and closes by dropping the port.
void count_on(ringport::port port) {
    for (std::int32_t number = 1; number <= 3; ++number) {
        port.post(ringport::bytes::of(number));
    }
}

/// The worker: answers until its parent closes, and gives the number of requests as its exit code.
int work(ringport::port parent) {
    int requests = 0;
    for (ringport::message &request : parent) {
        ++requests;
        if (request.port_count() > 0) {
            count_on(request.take_port());
            continue;
        }
        const auto asked = request.as<product>();
        parent.post(std::to_string(asked.one) + " times " + std::to_string(asked.other) + " is " +
                    std::to_string(asked.one * asked.other));
    }
    return requests;
}

/// The program itself.
void ask(const std::string &program) {
    ringport::worker worker = ringport::spawn({program});
    for (const product &request : {product{6, 7}, product{1'000'000, -3}}) {
        worker.port.post(ringport::bytes::of(request));
        std::cout << worker.port.recv().text() << '\n';
    }

    ringport::channel counting;
    worker.port.post("count on this", std::move(counting.port2));
    std::cout << "counting:";
    for (const ringport::message &number : counting.port1) {
        std::cout << ' ' << number.as<std::int32_t>();
    }
    const bool in_good_order = counting.port1.close_reason() == ringport::close_reason::closed_by_peer;
    std::cout << ", and no more (" << (in_good_order ? "closed by the worker" : "the worker is gone") << ")\n";

    worker.port.close();
    const ringport::exit_status status = worker.child.wait();
    if (!status.code()) {
        throw std::runtime_error("the worker was killed");
    }
    std::cout << "the worker has ended well, after " << *status.code() << " requests\n";
}

} // namespace

int main(int, char **arguments) {
    try {
        if (std::optional<ringport::port> parent = ringport::parent_port()) {
            return work(std::move(*parent));
        }
        ask(arguments[0]);
        return 0;
    } catch (const std::exception &error) {
        std::cerr << "worker: " << error.what() << '\n';
        return 1;
    }
}
