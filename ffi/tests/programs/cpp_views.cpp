// What is passed to the calls of ringport.hpp: bytes of every kind, and times.
#include "check.hpp"

#include <array>
#include <chrono>
#include <vector>

#if __cplusplus >= 202002L
#include <concepts>
#include <span>
#endif

using namespace std::chrono_literals;
using ringport::bytes;
using ringport::mutable_bytes;
using ringport::timeout;

namespace {

struct reading {
    std::uint32_t sensor;
    float value;
};

static_assert(std::is_convertible_v<std::string, bytes> && std::is_convertible_v<const char *, bytes> &&
              std::is_convertible_v<std::string_view, bytes> && std::is_convertible_v<std::vector<reading>, bytes> &&
              std::is_convertible_v<ringport::message, bytes> && std::is_convertible_v<mutable_bytes, bytes>);
static_assert(!std::is_convertible_v<std::vector<std::string>, bytes>, "a string is more than its bytes");
static_assert(!std::is_convertible_v<std::vector<ringport::port>, bytes> && !std::is_convertible_v<int, bytes>);
static_assert(!std::is_convertible_v<std::vector<const char *>, bytes> &&
                  !std::is_convertible_v<std::vector<std::string_view>, bytes> &&
                  !std::is_convertible_v<ringport::wait_set, bytes> && !std::is_convertible_v<std::nullptr_t, bytes>,
              "addresses mean nothing in another process");
static_assert(!std::is_constructible_v<mutable_bytes, const std::vector<char> &>, "it is not to be written");
static_assert(std::is_constructible_v<mutable_bytes, std::vector<char> &>);

template <class T>
constexpr bool moves_only = std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T> &&
                            !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;
static_assert(moves_only<ringport::port> && moves_only<ringport::message> && moves_only<ringport::slot> &&
              moves_only<ringport::batch> && moves_only<ringport::child> && moves_only<ringport::listener> &&
              moves_only<ringport::loop> && moves_only<ringport::waker> && moves_only<ringport::message_iterator>);
static_assert(!std::is_constructible_v<ringport::endpoint> && !std::is_move_constructible_v<ringport::endpoint>,
              "a port in a loop cannot be moved away by its reference");
static_assert(!std::is_constructible_v<ringport::transfer, ringport::port &>, "what travels is moved, visibly");

static_assert(timeout(ringport::no_wait).nanoseconds() == RINGPORT_NO_WAIT);
static_assert(timeout(ringport::forever).nanoseconds() == RINGPORT_FOREVER);
static_assert(timeout(3us).nanoseconds() == 3000 && timeout(2s).nanoseconds() == 2'000'000'000);

void any_contiguous_container_is_its_bytes() {
    const std::vector<std::uint16_t> numbers = {1, 2, 3};
    CHECK(bytes(numbers).size() == 6u);
    CHECK(static_cast<const void *>(bytes(numbers).data()) == static_cast<const void *>(numbers.data()));
    const std::array<reading, 2> readings = {};
    CHECK(bytes(readings).size() == 2 * sizeof(reading));
    CHECK(bytes(std::string("ab\0c", 4)).size() == 4u);
    CHECK(bytes().size() == 0u);
    CHECK(bytes().empty());
}

void a_text_has_no_zero_at_its_end() {
    CHECK(bytes("hello").size() == 5u);
    CHECK(bytes("hello").text() == "hello");
    const char unended[] = {'a', 'b', 'c'};
    CHECK(bytes(unended).text() == "abc");
    char *const variable = const_cast<char *>("variable");
    CHECK(bytes(variable).text() == "variable");
    const std::uint8_t numbers[] = {1, 0, 2};
    CHECK(bytes(numbers).size() == 3u);
    CHECK(bytes(std::string("hello")).text() == "hello");
    const std::string_view seen = bytes(std::string_view("hello", 4));
    CHECK(seen == "hell");
}

void an_object_is_its_bytes() {
    const reading one = {7, 1.5F};
    CHECK(bytes::of(one).size() == sizeof one);
    CHECK(static_cast<const void *>(bytes::of(one).data()) == static_cast<const void *>(&one));
}

void mutable_bytes_write_through() {
    std::array<unsigned char, 4> room = {};
    const mutable_bytes all(room);
    CHECK(all.size() == 4u);
    for (std::byte &one : all) {
        one = std::byte{9};
    }
    CHECK(int{room[3]} == 9);
    CHECK(bytes(all).size() == 4u);
}

void a_negative_duration_is_no_time_and_not_for_ever() {
    CHECK(timeout(-1ns).nanoseconds() == RINGPORT_NO_WAIT);
    CHECK(timeout(-5h).nanoseconds() == RINGPORT_NO_WAIT);
    CHECK(timeout(std::chrono::duration<double>(-0.5)).nanoseconds() == RINGPORT_NO_WAIT);
    const double none = std::numeric_limits<double>::quiet_NaN();
    CHECK(timeout(std::chrono::duration<double>(none)).nanoseconds() == RINGPORT_NO_WAIT);
}

void a_duration_that_cannot_be_counted_is_the_longest() {
    const std::int64_t longest = std::numeric_limits<std::int64_t>::max();
    CHECK(timeout(std::chrono::hours::max()).nanoseconds() == longest);
    CHECK(timeout(std::chrono::seconds::max()).nanoseconds() == longest);
    const double ages = std::numeric_limits<double>::infinity();
    CHECK(timeout(std::chrono::duration<double>(ages)).nanoseconds() == longest);
}

void a_part_of_a_nanosecond_is_one() {
    CHECK(timeout(std::chrono::duration<double, std::nano>(0.25)).nanoseconds() == 1);
    CHECK(timeout(std::chrono::duration<double, std::milli>(1.5)).nanoseconds() == 1'500'000);
}

void an_exit_status_is_a_code_or_a_signal() {
    CHECK(ringport::exit_status().success());
    CHECK(ringport::exit_status(3 << 8).code().value_or(-1) == 3);
    CHECK(!ringport::exit_status(3 << 8).success());
    CHECK(!ringport::exit_status(3 << 8).signal());
    CHECK(ringport::exit_status(9).signal().value_or(-1) == 9);
    CHECK(!ringport::exit_status(9).code());
}

#if __cplusplus >= 202002L
static_assert(std::ranges::input_range<ringport::port> && std::ranges::input_range<ringport::message_range>);
static_assert(std::ranges::contiguous_range<bytes> && std::ranges::borrowed_range<bytes>);
static_assert(std::is_convertible_v<bytes, std::span<const std::byte>>);
static_assert(std::is_convertible_v<std::span<const std::byte>, bytes>);
static_assert(std::is_convertible_v<mutable_bytes, std::span<std::byte>>);
static_assert(std::is_convertible_v<std::span<std::byte>, bytes>);

void spans_go_both_ways() {
    const std::span<const std::byte> span = bytes("hello");
    CHECK(span.size() == 5u);
    CHECK(bytes(span).text() == "hello");
    std::array<unsigned char, 4> room = {};
    const std::span<std::byte> writable = mutable_bytes(room);
    writable[0] = std::byte{1};
    CHECK(int{room[0]} == 1);
}
#else
void spans_go_both_ways() {}
#endif

} // namespace

int main() {
    return check::run("cpp_views", any_contiguous_container_is_its_bytes, a_text_has_no_zero_at_its_end,
                      an_object_is_its_bytes, mutable_bytes_write_through,
                      a_negative_duration_is_no_time_and_not_for_ever,
                      a_duration_that_cannot_be_counted_is_the_longest, a_part_of_a_nanosecond_is_one,
                      an_exit_status_is_a_code_or_a_signal, spans_go_both_ways);
}
