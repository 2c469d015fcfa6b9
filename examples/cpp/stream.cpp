// Frames that are written where they will be read, and read where they were written: nobody copies.
//
// A camera reserves room in the ring for each frame, draws the frame into it, and commits. The viewer trusts the
// camera, a thread of the same program here, so it looks at each frame in the ring itself; what strangers post it would
// rather have copied, and that is what happens unless one says otherwise. After the frames come a hundred notes in one
// batch: they can be received all at once, or not at all.
//
// Compile it with
//
//     g++ -std=c++17 -pthread stream.cpp -o stream $(pkg-config --cflags --libs ringport)
//
// and run it:
//
//     $ ./stream
//     500 frames of 262144 bytes, 500 of them in place, brightness 15945216
//     100 notes, the last one is "note 99"

#include <ringport.hpp>

#include <cstddef>
#include <cstring>
#include <future>
#include <iostream>
#include <stdexcept>
#include <string>

namespace {

constexpr int frames = 500;
constexpr int notes = 100;
constexpr std::size_t frame_size = 256 * 1024;

/// Draws a frame, all of one shade.
void draw(int number, ringport::mutable_bytes frame) {
    std::memset(frame.data(), number % 256, frame.size());
}

/// Closes the channel at its end, by dropping the port.
void record(ringport::port viewer) {
    for (int number = 0; number < frames; ++number) {
        ringport::slot frame = viewer.reserve(frame_size);
        draw(number, frame.room());
        frame.commit();
    }
    ringport::batch batch = viewer.begin_batch();
    for (int number = 0; number < notes; ++number) {
        if (!batch.post("note " + std::to_string(number))) {
            throw std::runtime_error("the notes do not fit the ring");
        }
    }
    batch.publish();
}

/// How bright a frame is: the sum of a few of its points.
long brightness(const ringport::message &frame) {
    long sum = 0;
    for (std::size_t at = 0; at < frame.size(); at += 1024) {
        sum += static_cast<long>(frame.data()[at]);
    }
    return sum;
}

void watch(ringport::port camera) {
    camera.trust_peer();
    long light = 0;
    int in_place = 0;
    for (int number = 0; number < frames; ++number) {
        const ringport::message frame = camera.recv();
        light += brightness(frame);
        in_place += frame.is_in_place() ? 1 : 0;
    }
    std::cout << frames << " frames of " << frame_size << " bytes, " << in_place << " of them in place, brightness "
              << light << '\n';
    int count = 0;
    std::string last;
    for (const ringport::message &note : camera) {
        ++count;
        last = note.text();
    }
    std::cout << count << " notes, the last one is \"" << last << "\"\n";
}

} // namespace

int main() {
    try {
        ringport::channel_options options;
        options.capacity_1_to_2 = 8 * frame_size; // some frames ahead
        ringport::channel ends(options);
        std::future<void> camera = std::async(std::launch::async, record, std::move(ends.port1));
        watch(std::move(ends.port2));
        camera.get();
        return 0;
    } catch (const std::exception &error) {
        std::cerr << "stream: " << error.what() << '\n';
        return 1;
    }
}
