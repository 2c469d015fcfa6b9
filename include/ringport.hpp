// ringport for C++17: message ports in shared memory, over the C interface of ringport.h.
//
//     ringport::channel ends;
//     ends.port1.post("hello");
//     std::cout << ends.port2.recv().text() << '\n';
//
// What holds everywhere:
//
// - Objects own what they stand for and are moved, never copied. One that was moved from is empty: every call on it
//   fails, mostly with RINGPORT_NULL, or does nothing, and none crashes.
// - A call that fails throws `error` (`closed_error` when the channel has ended). It has done nothing then, and the
//   caller still owns what it passed. Calls that take `std::nothrow` first answer with the status instead.
// - A port, what came from it (messages, slots, batches) and a loop with all that is in it are used by one thread at a
//   time, and may be handed to another thread. Only a `waker` may be used by any thread at any time.
// - A view (`bytes`, `mutable_bytes`, `slice`, `string_view`) owns nothing: it ends with what it shows.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef RINGPORT_HPP
#define RINGPORT_HPP

#include "ringport.h"

#include <sys/wait.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <list>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#if __cplusplus >= 202002L
#include <ranges>
#endif

namespace ringport {

class endpoint;
class port;
class loop;

// ---------------------------------------------------------------------------------------------------- errors

/// Why a channel has ended.
enum class close_reason : std::int32_t {
    /// It has not, as far as is known here.
    open = RINGPORT_OPEN,
    /// By this side.
    closed_here = RINGPORT_CLOSED_HERE,
    /// By the peer, in good order.
    closed_by_peer = RINGPORT_CLOSED_BY_PEER,
    /// The peer is gone without closing: its process has died, or the port was discarded on its way.
    peer_gone = RINGPORT_PEER_GONE,
    /// The peer has broken the protocol.
    corrupt = RINGPORT_CORRUPT,
};

/// A call has failed, and has done nothing.
class error : public std::runtime_error {
public:
    /// The last failure of this thread, which was of this status.
    explicit error(ringport_status status)
        : std::runtime_error(describe(status)), status_(status), errno_(ringport_last_errno()) {}

    /// A failure that was found on this side of the C interface.
    error(ringport_status status, const std::string &text) : std::runtime_error(text), status_(status) {}

    /// What kind of failure it is.
    ringport_status status() const noexcept { return status_; }

    /// What the system said; no error if no system call was the cause.
    std::error_code system_error_code() const noexcept { return {errno_, std::generic_category()}; }

private:
    static std::string describe(ringport_status status) {
        const char *text = ringport_last_error();
        // That there is nothing yet is no failure, and has no words of its own.
        return status != RINGPORT_NOT_YET && *text != '\0' ? text : ringport_status_name(status);
    }

    ringport_status status_;
    int errno_ = 0;
};

namespace detail {

inline ringport::close_reason reason_of(const ringport_port *port) noexcept {
    ringport_close_reason reason = RINGPORT_OPEN;
    if (port != nullptr) {
        ringport_port_close_reason(port, &reason);
    }
    return static_cast<ringport::close_reason>(reason);
}

} // namespace detail

/// The channel has ended, and everything that was posted before has been received.
class closed_error : public error {
public:
    explicit closed_error(ringport::close_reason reason) : error(RINGPORT_CLOSED), reason_(reason) {}
    /// The last failure of this thread, which was that of this port, if there is one.
    explicit closed_error(const ringport_port *port) : error(RINGPORT_CLOSED), reason_(detail::reason_of(port)) {}

    /// Why.
    ringport::close_reason reason() const noexcept { return reason_; }

private:
    ringport::close_reason reason_;
};

/// The name of a status: "RINGPORT_FULL".
inline const char *status_name(ringport_status status) noexcept { return ringport_status_name(status); }

namespace detail {

[[noreturn]] inline void raise(ringport_status status, const ringport_port *port = nullptr) {
    if (status == RINGPORT_CLOSED) {
        throw closed_error(port);
    }
    throw error(status);
}

inline void check(ringport_status status, const ringport_port *port = nullptr) {
    if (status != RINGPORT_OK) {
        raise(status, port);
    }
}

/// Whether something was there; throws for all but that there was not.
inline bool check_there(ringport_status status, const ringport_port *port = nullptr) {
    if (status == RINGPORT_NOT_YET) {
        return false;
    }
    check(status, port);
    return true;
}

/// Whether there was room; throws for all but that there was none.
inline bool check_room(ringport_status status, const ringport_port *port) {
    if (status == RINGPORT_FULL || status == RINGPORT_TRANSFERS_FULL) {
        return false;
    }
    check(status, port);
    return true;
}

/// Owns a handle of the C interface.
template <class Handle, void (*Free)(Handle *)>
class owned {
public:
    owned() noexcept = default;
    explicit owned(Handle *handle) noexcept : handle_(handle) {}
    owned(owned &&other) noexcept : handle_(other.release()) {}
    owned &operator=(owned &&other) noexcept {
        // Releasing comes first, so that moving to itself changes nothing.
        Handle *handle = other.release();
        free(std::exchange(handle_, handle));
        return *this;
    }
    owned(const owned &) = delete;
    owned &operator=(const owned &) = delete;
    ~owned() { free(handle_); }

    Handle *get() const noexcept { return handle_; }
    Handle *release() noexcept { return std::exchange(handle_, nullptr); }

private:
    static void free(Handle *handle) noexcept {
        // Most that are dropped have been moved from: no call for those.
        if (handle != nullptr) {
            Free(handle);
        }
    }

    Handle *handle_ = nullptr;
};

/// Nanoseconds, rounded up; never negative, and the largest number for what is longer than that.
template <class Rep, class Period>
constexpr std::int64_t nanoseconds_of(std::chrono::duration<Rep, Period> duration) {
    const double seconds = std::chrono::duration<double>(duration).count();
    if (!(seconds > 0)) {
        return 0;
    }
    if (seconds >= 9.2e9) {
        return std::numeric_limits<std::int64_t>::max();
    }
    return std::int64_t{std::chrono::ceil<std::chrono::nanoseconds>(duration).count()};
}

} // namespace detail

// ---------------------------------------------------------------------------------------------------- time

struct no_wait_t {
    explicit no_wait_t() = default;
};
struct forever_t {
    explicit forever_t() = default;
};

/// To try once.
inline constexpr no_wait_t no_wait{};
/// To wait as long as it takes.
inline constexpr forever_t forever{};

/// How long a call may wait: `no_wait`, `forever`, or any duration of `std::chrono`.
///
/// A negative duration, such as the time left until a deadline that has passed, is no time at all, not for ever.
class timeout {
public:
    constexpr timeout(no_wait_t) noexcept : nanoseconds_(RINGPORT_NO_WAIT) {}
    constexpr timeout(forever_t) noexcept : nanoseconds_(RINGPORT_FOREVER) {}
    template <class Rep, class Period>
    constexpr timeout(std::chrono::duration<Rep, Period> duration)
        : nanoseconds_(detail::nanoseconds_of(duration)) {}

    /// As the C interface takes it.
    constexpr std::int64_t nanoseconds() const noexcept { return nanoseconds_; }

private:
    std::int64_t nanoseconds_;
};

// ---------------------------------------------------------------------------------------------------- bytes

namespace detail {

template <class Container>
using element_of = std::remove_pointer_t<decltype(std::declval<Container &>().data())>;

/// What means nothing in another process, though it can be copied.
template <class T>
struct is_view : std::is_pointer<T> {};
template <class Char, class Traits>
struct is_view<std::basic_string_view<Char, Traits>> : std::true_type {};

/// Whether it has `data()` and `size()`, and elements that are nothing but their bytes.
template <class Container, class = void>
struct is_contiguous : std::false_type {};
template <class Container>
struct is_contiguous<Container, std::void_t<element_of<Container>, decltype(std::declval<Container &>().size())>>
    : std::bool_constant<std::is_object_v<element_of<Container>> &&
                         std::is_trivially_copyable_v<element_of<Container>> &&
                         !is_view<std::remove_cv_t<element_of<Container>>>::value> {};

inline std::size_t length_of(const char *text, std::size_t most) noexcept {
    const void *end = std::memchr(text, 0, most);
    return end != nullptr ? static_cast<std::size_t>(static_cast<const char *>(end) - text) : most;
}

} // namespace detail

/// Bytes to read, wherever they lie: what is posted.
class bytes {
public:
    constexpr bytes() noexcept = default;
    bytes(const void *data, std::size_t size) noexcept
        : data_(static_cast<const std::byte *>(data)), size_(size) {}
    bytes(std::string_view text) noexcept : bytes(text.data(), text.size()) {}
    /// A text that ends with a zero, which does not belong to it.
    template <class Text, std::enable_if_t<std::is_same_v<Text, const char *> || std::is_same_v<Text, char *>, int> = 0>
    bytes(const Text &text) noexcept : bytes(std::string_view(text)) {}
    /// The same, or as much text as the array holds.
    template <std::size_t Size>
    bytes(const char (&text)[Size]) noexcept : bytes(text, detail::length_of(text, Size)) {}
    bytes(std::nullptr_t) = delete;
    /// All of an array.
    template <std::size_t Size>
    bytes(const std::byte (&array)[Size]) noexcept : bytes(array, Size) {}
    template <std::size_t Size>
    bytes(const unsigned char (&array)[Size]) noexcept : bytes(array, Size) {}
    /// What lies in a string, a vector, an array, a span, a message.
    template <class Container, std::enable_if_t<detail::is_contiguous<const Container>::value, int> = 0>
    bytes(const Container &container) noexcept
        : bytes(container.data(), static_cast<std::size_t>(container.size()) *
                                      sizeof(detail::element_of<const Container>)) {}

    /// The bytes of one object.
    template <class T>
    static bytes of(const T &object) noexcept {
        static_assert(std::is_trivially_copyable_v<T>, "only the bytes of the object itself are posted");
        static_assert(!std::is_pointer_v<T>, "a pointer means nothing in another process");
        return {std::addressof(object), sizeof(T)};
    }

    const std::byte *data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }
    const std::byte *begin() const noexcept { return data_; }
    const std::byte *end() const noexcept { return data_ + size_; }

    std::string_view text() const noexcept { return {reinterpret_cast<const char *>(data_), size_}; }
    operator std::string_view() const noexcept { return text(); }

private:
    const std::byte *data_ = nullptr;
    std::size_t size_ = 0;
};

/// Bytes to write: room that was reserved.
class mutable_bytes {
public:
    constexpr mutable_bytes() noexcept = default;
    mutable_bytes(void *data, std::size_t size) noexcept : data_(static_cast<std::byte *>(data)), size_(size) {}
    template <class Container, std::enable_if_t<detail::is_contiguous<Container>::value &&
                                                    !std::is_const_v<detail::element_of<Container>>,
                                                int> = 0>
    mutable_bytes(Container &container) noexcept
        : mutable_bytes(container.data(),
                        static_cast<std::size_t>(container.size()) * sizeof(detail::element_of<Container>)) {}

    std::byte *data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }
    std::byte *begin() const noexcept { return data_; }
    std::byte *end() const noexcept { return data_ + size_; }

private:
    std::byte *data_ = nullptr;
    std::size_t size_ = 0;
};

/// Elements that lie one after the other in a message.
template <class T>
class slice {
public:
    constexpr slice() noexcept = default;
    constexpr slice(const T *data, std::size_t size) noexcept : data_(data), size_(size) {}

    constexpr const T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr const T *begin() const noexcept { return data_; }
    constexpr const T *end() const noexcept { return data_ + size_; }
    constexpr const T &operator[](std::size_t index) const noexcept { return data_[index]; }

private:
    const T *data_ = nullptr;
    std::size_t size_ = 0;
};

// ---------------------------------------------------------------------------------------------------- messages

/// A message that has arrived. It owns its bytes, and the ports that came along until they are taken; dropping it
/// closes those.
///
/// It may outlive its port. It belongs to the thread of the port unless it is `make_owned`.
class message {
public:
    /// None.
    message() noexcept = default;
    /// Takes over a message of the C interface.
    static message adopt(ringport_message *handle) noexcept { return message(handle); }

    explicit operator bool() const noexcept { return get() != nullptr; }
    ringport_message *get() const noexcept { return handle_.get(); }
    /// Gives up the handle: the caller frees it.
    [[nodiscard]] ringport_message *release() noexcept { return handle_.release(); }

    /// The bytes, aligned to 16. A message of no bytes is one all the same, and has an address.
    const std::byte *data() const noexcept {
        return static_cast<const std::byte *>(ringport_message_data(get()));
    }
    std::size_t size() const noexcept { return ringport_message_len(get()); }
    bool empty() const noexcept { return size() == 0; }
    ringport::bytes bytes() const noexcept { return {data(), size()}; }
    std::string_view text() const noexcept { return {reinterpret_cast<const char *>(data()), size()}; }

    /// A copy of the bytes as an object; nothing unless there are exactly as many as it has.
    ///
    /// That its values make sense is for the caller to check: the bytes are the peer's.
    template <class T>
    std::optional<T> try_as() const noexcept {
        static_assert(std::is_trivially_copyable_v<T>, "bytes make an object of a trivially copyable type only");
        static_assert(!std::is_same_v<T, bool>, "not every byte is a bool: take a number");
        if (get() == nullptr || size() != sizeof(T)) {
            return std::nullopt;
        }
        union object {
            char none;
            T value;
            object() noexcept : none() {}
        } copy;
        std::memcpy(static_cast<void *>(std::addressof(copy.value)), data(), sizeof(T));
        return copy.value;
    }

    /// The same, or throws RINGPORT_INVALID.
    template <class T>
    T as() const {
        if (std::optional<T> value = try_as<T>()) {
            return *value;
        }
        throw error(RINGPORT_INVALID, "a message of " + std::to_string(size()) + " bytes is no object of " +
                                          std::to_string(sizeof(T)));
    }

    /// Whether this shows the ring itself and not a copy (see `trust_peer`).
    bool is_in_place() const noexcept { return ringport_message_is_in_place(get()); }
    /// Makes it independent of its port, whose thread it then need not share.
    void make_owned() { detail::check(ringport_message_make_owned(get())); }

    /// How many ports came along, taken or not.
    std::size_t port_count() const noexcept { return ringport_message_port_count(get()); }
    /// Takes one, counted from 0. RINGPORT_DETACHED if it was taken before, RINGPORT_INVALID if there is none such.
    port take_port(std::size_t index = 0);
    ringport_status take_port(std::nothrow_t, std::size_t index, port &taken) noexcept;
    /// Takes those that were not taken yet, in order.
    std::vector<port> take_ports();

    /// The root of an rkyv archive, which lies at its end. `T` has the layout of the archived type: its scalars are
    /// little-endian, and what it points to is read with `string_at` and `slice_at`.
    ///
    /// Throws RINGPORT_BAD_ARCHIVE unless one fits. Whether it is one of that type only its poster knows.
    template <class T>
    const T &archived_root() const {
        static_assert(std::is_trivially_copyable_v<T>, "an archive shows plain data");
        const void *root = nullptr;
        detail::check(ringport_archived_root(data(), size(), sizeof(T), alignof(T), &root));
        return *static_cast<const T *>(root);
    }

    /// The text of an archived string, of which `at` are the eight bytes in this message. It is UTF-8.
    std::string_view string_at(const void *at) const {
        const char *text = nullptr;
        std::size_t length = 0;
        detail::check(ringport_archived_string(data(), size(), at, &text, &length));
        return {text, length};
    }

    /// The elements of an archived vector or boxed slice, of which `at` are the eight bytes in this message.
    template <class T>
    slice<T> slice_at(const void *at) const {
        static_assert(std::is_trivially_copyable_v<T>, "an archive shows plain data");
        const void *elements = nullptr;
        std::size_t count = 0;
        detail::check(ringport_archived_slice(data(), size(), at, sizeof(T), alignof(T), &elements, &count));
        return {static_cast<const T *>(elements), count};
    }

private:
    explicit message(ringport_message *handle) noexcept : handle_(handle) {}

    detail::owned<ringport_message, ringport_message_free> handle_;
};

// ---------------------------------------------------------------------------------------------------- posting

namespace detail {

/// A slot or a batch that is open. Its port knows of it, and one that goes before leaves it its handle: in a loop that is up to
/// the peer.
class reservation {
public:
    reservation(const reservation &) = delete;
    reservation &operator=(const reservation &) = delete;

    explicit operator bool() const noexcept { return port_ != nullptr; }

protected:
    reservation() noexcept = default;
    explicit reservation(endpoint &from) noexcept;
    ~reservation() { abort(); }

    /// The port's handle; null if nothing is open.
    ringport_port *port() const noexcept { return port_; }
    /// Gives it up.
    void abort() noexcept {
        if (port_ != nullptr) {
            ringport_abort(port_);
            end();
        }
    }
    /// It is over.
    void end() noexcept;
    /// Becomes what another was.
    void take(reservation &other) noexcept;

    /// Ends it when what was done with it has been told.
    struct ending {
        reservation &of;
        ~ending() { of.end(); }
    };

private:
    friend class ringport::endpoint;

    ringport_port *port_ = nullptr;
    /// Whose it is; null if that is gone.
    endpoint *from_ = nullptr;
    bool is_heir_ = false;
};

} // namespace detail

/// Room in the ring, to write a message where it will be read. Dropping it posts nothing.
///
/// One slot or batch a port; another post meanwhile is RINGPORT_BUSY. If the port goes before it, nothing can be posted.
class slot : public detail::reservation {
public:
    /// None.
    slot() noexcept = default;
    slot(slot &&other) noexcept : room_(std::exchange(other.room_, mutable_bytes())) { take(other); }
    slot &operator=(slot &&other) noexcept {
        if (this != &other) {
            abort();
            room_ = std::exchange(other.room_, mutable_bytes());
            take(other);
        }
        return *this;
    }

    /// The room, aligned to 16 or as was asked for. To be written only: what it holds before is nothing.
    mutable_bytes room() const noexcept { return room_; }
    std::byte *data() const noexcept { return room_.data(); }
    std::size_t size() const noexcept { return room_.size(); }

    /// Posts all of it.
    void commit() { commit(size()); }
    /// Posts its first `length` bytes. If there are not so many, the slot stays open; if the channel has been closed
    /// meanwhile, there is nothing left to be open.
    void commit(std::size_t length) {
        const ringport_status status = ringport_commit(port(), length);
        if (status == RINGPORT_TOO_LARGE) {
            detail::raise(status);
        }
        const ending with_this{*this};
        room_ = mutable_bytes();
        detail::check(status, port());
    }
    ringport_status commit(std::nothrow_t) noexcept { return commit(std::nothrow, size()); }
    ringport_status commit(std::nothrow_t, std::size_t length) noexcept {
        const ringport_status status = ringport_commit(port(), length);
        if (status != RINGPORT_TOO_LARGE) {
            room_ = mutable_bytes();
            end();
        }
        return status;
    }

    /// Posts nothing, and gives the room back.
    void abort() noexcept {
        room_ = mutable_bytes();
        reservation::abort();
    }

    /// Makes the eight bytes `at`, in the room, an archived string. The text lies in the room before them, or has at
    /// most eight bytes.
    void archive_string(void *at, std::string_view text) {
        detail::check(ringport_archive_string(data(), size(), at, text.data(), text.size()));
    }
    /// Makes the eight bytes `at`, in the room, an archived vector. The elements lie in the room before them.
    template <class T>
    void archive_slice(void *at, const T *elements, std::size_t count) {
        static_assert(std::is_trivially_copyable_v<T>, "an archive holds plain data");
        detail::check(ringport_archive_slice(data(), size(), at, elements, count));
    }

private:
    friend class endpoint;
    slot(endpoint &from, void *data, std::size_t size) noexcept : reservation(from), room_(data, size) {}

    mutable_bytes room_;
};

/// Messages that become receivable all at once, for the price of little more than one. Dropping it posts none.
///
/// One slot or batch a port; another post meanwhile is RINGPORT_BUSY. If the port goes before it, nothing can be posted.
class batch : public detail::reservation {
public:
    /// None.
    batch() noexcept = default;
    batch(batch &&other) noexcept { take(other); }
    batch &operator=(batch &&other) noexcept {
        if (this != &other) {
            abort();
            take(other);
        }
        return *this;
    }

    /// Adds a message; `false` if there is no room for it: publish, and begin another batch.
    [[nodiscard]] bool post(bytes data) { return detail::check_room(post(std::nothrow, data), port()); }
    ringport_status post(std::nothrow_t, bytes data) noexcept {
        return ringport_batch_post(port(), data.data(), data.size());
    }

    /// Posts what was added, and says how many messages that were. The batch is over.
    std::size_t publish() {
        std::size_t count = 0;
        const ending with_this{*this};
        detail::check(ringport_batch_publish(port(), &count), port());
        return count;
    }
    ringport_status publish(std::nothrow_t, std::size_t &count) noexcept {
        // Whatever comes of it, the batch is over.
        const ending with_this{*this};
        return ringport_batch_publish(port(), &count);
    }

    /// Posts nothing.
    void abort() noexcept { reservation::abort(); }

private:
    friend class endpoint;
    explicit batch(endpoint &from) noexcept : reservation(from) {}
};

/// Ports that are to travel in a message: `std::move(a)`, `{std::move(a), std::move(b)}`, or `std::move(ports)` of a
/// vector or an array.
///
/// They are moved by the post, if it succeeds: then they are empty, and a vector keeps its length. If it fails they
/// stay what they were, with who passed them.
class transfer {
public:
    /// One of a list. Nothing but a reference.
    class item {
    public:
        item(port &&one) noexcept : port_(&one) {}

    private:
        friend class transfer;
        port *port_;
    };

    transfer(port &&one) noexcept;
    // A list ends with the call that it is written in, so nobody keeps one of these.
    transfer(const transfer &) = delete;
    transfer &operator=(const transfer &) = delete;
    // The list lives as long as the call that it is written in, which is as long as this is needed.
    transfer(std::initializer_list<item> items) noexcept : count_(items.size()) { items_ = std::data(items); }
    transfer(std::vector<port> &&ports) noexcept;
    template <std::size_t Count>
    transfer(std::array<port, Count> &&ports) noexcept;

    std::size_t size() const noexcept { return count_; }

private:
    friend class endpoint;
    port &operator[](std::size_t index) const noexcept;
    ringport_status post(ringport_port *carrier, bytes data, timeout within) const noexcept;
    ringport_status post(ringport_port *carrier, bytes data, timeout within, ringport_port **handles) const noexcept;

    const item *items_ = nullptr;
    port *ports_ = nullptr;
    std::size_t count_;
};

// ---------------------------------------------------------------------------------------------------- receiving

/// Goes through the messages of a port as they arrive; see `endpoint::messages`.
class message_iterator {
public:
    using value_type = message;
    using difference_type = std::ptrdiff_t;
    using pointer = message *;
    using reference = message &;
    using iterator_category = std::input_iterator_tag;

    /// Where the channel has ended.
    struct sentinel {};

    message_iterator(message_iterator &&) noexcept = default;
    message_iterator &operator=(message_iterator &&) noexcept = default;

    message &operator*() const noexcept { return current_; }
    message *operator->() const noexcept { return &current_; }
    inline message_iterator &operator++();
    void operator++(int) { ++*this; }

    friend bool operator==(const message_iterator &at, sentinel) noexcept { return !at.current_; }
    friend bool operator!=(const message_iterator &at, sentinel) noexcept { return static_cast<bool>(at.current_); }
    friend bool operator==(sentinel, const message_iterator &at) noexcept { return !at.current_; }
    friend bool operator!=(sentinel, const message_iterator &at) noexcept { return static_cast<bool>(at.current_); }

private:
    friend class endpoint;
    explicit message_iterator(endpoint &from) : from_(&from) { ++*this; }

    endpoint *from_;
    // Whoever goes through the messages may take the one at hand.
    mutable message current_;
};

/// The messages of a port; see `endpoint::messages`.
class message_range {
public:
    explicit message_range(endpoint &from) noexcept : from_(&from) {}
    inline message_iterator begin() const;
    message_iterator::sentinel end() const noexcept { return {}; }

private:
    endpoint *from_;
};

// ---------------------------------------------------------------------------------------------------- ports

/// How a port waits.
enum class wait_strategy : std::int32_t {
    /// Spins for a while that it learns, then sleeps.
    adaptive = RINGPORT_WAIT_ADAPTIVE,
    /// Never sleeps: for those who own their CPU.
    spin = RINGPORT_WAIT_SPIN,
    /// Sleeps at once.
    block = RINGPORT_WAIT_BLOCK,
};

/// What is waited for by a port's descriptor.
enum class interest : std::int32_t {
    message = RINGPORT_MESSAGE,
    room = RINGPORT_ROOM,
    message_or_room = RINGPORT_MESSAGE_OR_ROOM,
    transfer = RINGPORT_TRANSFER,
    message_or_transfer = RINGPORT_MESSAGE_OR_TRANSFER,
};

/// A port as its two descriptors.
struct port_fds {
    int segment = -1;
    int doorbell = -1;
};

/// One end of a channel, wherever it is held, by a `port` or by a loop: all that can be done with it but give it away.
class endpoint {
public:
    endpoint(const endpoint &) = delete;
    endpoint &operator=(const endpoint &) = delete;

    /// Whether there is a port: not one that was moved from or transferred.
    explicit operator bool() const noexcept { return handle_ != nullptr; }
    /// The port of the C interface. It stays this object's.
    ringport_port *get() const noexcept { return handle_; }

    /// Bytes of the ring to the peer; 0 if there is no port.
    std::size_t capacity() const noexcept { return ringport_port_capacity(handle_); }
    /// Bytes that a message may have.
    std::size_t max_message_len() const noexcept { return ringport_port_max_message_len(handle_); }
    /// Bytes of the ring that wait to be received here, headers included; by the peer's word.
    std::size_t pending() const noexcept { return ringport_port_pending(handle_); }

    /// Posts a message; waits as long as the queue is full. When it returns, the message can be received, whatever this
    /// process does next.
    void post(bytes data) { detail::check(post(std::nothrow, data), handle_); }
    /// The same, but waits so long; `false` if there was no room in time.
    [[nodiscard]] bool post(bytes data, timeout within) {
        return detail::check_room(post(std::nothrow, data, within), handle_);
    }
    ringport_status post(std::nothrow_t, bytes data, timeout within = forever) noexcept {
        return ringport_post(handle_, data.data(), data.size(), within.nanoseconds());
    }

    /// Posts a message with ports in it, which are moved if that succeeds, and stay if it fails: see `transfer`.
    void post(bytes data, transfer &&ports) {
        detail::check(post(std::nothrow, data, std::move(ports)), handle_);
    }
    /// The same, but waits so long; `false` if there was no room in time, and the ports stay.
    [[nodiscard]] bool post(bytes data, transfer &&ports, timeout within) {
        return detail::check_room(post(std::nothrow, data, std::move(ports), within), handle_);
    }
    ringport_status post(std::nothrow_t, bytes data, transfer &&ports, timeout within = forever) noexcept {
        return ports.post(handle_, data, within);
    }

    /// Reserves room for a message of at most `size` bytes, to be written in place and committed.
    slot reserve(std::size_t size) {
        slot reserved;
        detail::check(reserve(std::nothrow, size, reserved), handle_);
        return reserved;
    }
    /// The same, but waits so long; nothing if there was no room in time.
    [[nodiscard]] std::optional<slot> reserve(std::size_t size, timeout within) {
        slot reserved;
        if (!detail::check_room(reserve(std::nothrow, size, reserved, within), handle_)) {
            return std::nullopt;
        }
        return reserved;
    }
    ringport_status reserve(std::nothrow_t, std::size_t size, slot &reserved, timeout within = forever) noexcept {
        void *data = nullptr;
        const ringport_status status = ringport_reserve(handle_, size, within.nanoseconds(), &data);
        if (status == RINGPORT_OK) {
            reserved = slot(*this, data, size);
        }
        return status;
    }
    /// The same with an alignment, a power of two up to 128; waits.
    slot reserve_aligned(std::size_t size, std::size_t alignment) {
        void *data = nullptr;
        detail::check(ringport_reserve_aligned(handle_, size, alignment, &data), handle_);
        return slot(*this, data, size);
    }

    /// Begins a batch.
    batch begin_batch() {
        detail::check(ringport_batch_begin(handle_), handle_);
        return batch(*this);
    }

    /// Waits for a message.
    message recv() {
        message received;
        detail::check(recv(std::nothrow, received), handle_);
        return received;
    }
    /// Waits for a message so long; nothing if there was none in time.
    [[nodiscard]] std::optional<message> recv_for(timeout within) {
        message received;
        if (!detail::check_there(recv(std::nothrow, received, within), handle_)) {
            return std::nullopt;
        }
        return received;
    }
    /// The message that is there, if any.
    [[nodiscard]] std::optional<message> try_recv() { return recv_for(no_wait); }
    /// The message takes the place of what `received` held before. RINGPORT_NOT_YET if there was none in time.
    ringport_status recv(std::nothrow_t, message &received, timeout within = forever) noexcept {
        ringport_message *handle = nullptr;
        const ringport_status status = ringport_recv(handle_, within.nanoseconds(), &handle);
        if (status == RINGPORT_OK) {
            received = message::adopt(handle);
        }
        return status;
    }

    /// The messages as they arrive, until the channel has ended: `for (ringport::message &message : port.messages())`.
    /// Each ends with its round unless it is moved away. Whatever else goes wrong is thrown.
    message_range messages() & noexcept { return message_range(*this); }
    // It would end before the loop over it. (A loop over the port itself keeps it.)
    message_range messages() && = delete;
    /// The same: `for (auto &message : port)`.
    message_iterator begin() { return message_iterator(*this); }
    message_iterator::sentinel end() const noexcept { return {}; }

    /// Ends the channel for both ends. The peer gets what was posted before; what is unread here is discarded.
    /// Closing again, or closing nothing, does nothing.
    void close() noexcept { ringport_port_close(handle_); }
    /// Why the channel has ended, as far as is known here.
    ringport::close_reason close_reason() const {
        ringport_close_reason reason = RINGPORT_OPEN;
        detail::check(ringport_port_close_reason(handle_, &reason), handle_);
        return static_cast<ringport::close_reason>(reason);
    }

    /// From now on messages are shown where they lie in the ring, not copied. Call it only if the peer's process is
    /// trusted as this one is: it can change a message while it is read.
    void trust_peer() { detail::check(ringport_port_trust_peer(handle_), handle_); }

    void set_wait_strategy(ringport::wait_strategy strategy) {
        detail::check(ringport_port_set_wait_strategy(handle_, static_cast<std::int32_t>(strategy)), handle_);
    }
    ringport::wait_strategy wait_strategy() const {
        ringport_wait_strategy strategy = RINGPORT_WAIT_ADAPTIVE;
        detail::check(ringport_port_wait_strategy(handle_, &strategy), handle_);
        return static_cast<ringport::wait_strategy>(strategy);
    }

    /// What this port has done since it is here.
    ringport_stats stats() const {
        ringport_stats stats = {};
        stats.size = sizeof stats;
        detail::check(ringport_port_stats(handle_, &stats), handle_);
        return stats;
    }

    /// The descriptor for another loop to poll for reading. It stays the port's.
    int fd() {
        int fd = -1;
        detail::check(ringport_port_fd(handle_, &fd), handle_);
        return fd;
    }
    /// Whether what is waited for is there already. Otherwise `fd` becomes readable when it is, unless the port is used
    /// meanwhile: check, arm, and poll if that says `false`. `size` is that of the message to be posted.
    [[nodiscard]] bool arm(interest what, std::size_t size = 0) {
        return detail::check_there(arm(std::nothrow, what, size), handle_);
    }
    ringport_status arm(std::nothrow_t, interest what, std::size_t size = 0) noexcept {
        return ringport_port_arm(handle_, static_cast<std::int32_t>(what), size);
    }

protected:
    endpoint() noexcept = default;
    explicit endpoint(ringport_port *handle) noexcept : handle_(handle) {}
    endpoint(endpoint &&other) noexcept { take(other); }
    ~endpoint() { free(); }

    /// Becomes what another was. Nothing was here before.
    void take(endpoint &other) noexcept {
        handle_ = std::exchange(other.handle_, nullptr);
        open_ = std::exchange(other.open_, nullptr);
        if (open_ != nullptr) {
            open_->from_ = this;
        }
    }
    void abort_open() noexcept {
        if (open_ != nullptr) {
            open_->abort();
        }
    }
    /// Gives up the handle, to whoever asks.
    ringport_port *give_up() noexcept {
        if (open_ != nullptr) {
            std::exchange(open_, nullptr)->from_ = nullptr;
        }
        return std::exchange(handle_, nullptr);
    }
    /// Closes the port. Its handle is freed, as soon as nothing is reserved.
    void free() noexcept {
        detail::reservation *heir = open_;
        ringport_port *handle = give_up();
        if (heir != nullptr) {
            ringport_port_close(handle);
            heir->is_heir_ = true;
        } else {
            ringport_port_free(handle);
        }
    }

    ringport_port *handle_ = nullptr;

private:
    friend class detail::reservation;

    /// What is reserved.
    detail::reservation *open_ = nullptr;
};

inline detail::reservation::reservation(endpoint &from) noexcept : port_(from.handle_), from_(&from) {
    from.open_ = this;
}

inline void detail::reservation::end() noexcept {
    if (from_ != nullptr) {
        std::exchange(from_, nullptr)->open_ = nullptr;
    }
    ringport_port *handle = std::exchange(port_, nullptr);
    if (std::exchange(is_heir_, false)) {
        ringport_port_free(handle);
    }
}

inline void detail::reservation::take(reservation &other) noexcept {
    port_ = std::exchange(other.port_, nullptr);
    from_ = std::exchange(other.from_, nullptr);
    is_heir_ = std::exchange(other.is_heir_, false);
    if (from_ != nullptr) {
        from_->open_ = this;
    }
}

/// One end of a channel, and its only holder. Dropping it closes it.
class port : public endpoint {
public:
    /// None.
    port() noexcept = default;
    port(port &&other) noexcept = default;
    port &operator=(port &&other) noexcept {
        if (this != &other) {
            free();
            take(other);
        }
        return *this;
    }

    /// Takes over a port of the C interface.
    static port adopt(ringport_port *handle) noexcept { return port(handle); }
    /// Gives up the handle: the caller frees it. What is reserved is given back.
    [[nodiscard]] ringport_port *release() noexcept {
        abort_open();
        return give_up();
    }
    /// Closes and frees it; nothing is left.
    void reset() noexcept { free(); }

    /// Takes the port apart into its descriptors, which are the caller's. Nothing is left here. The port has moved, not
    /// closed: what waits to be received stays with it.
    port_fds into_fds() {
        port_fds fds;
        detail::check(ringport_port_into_fds(handle_, &fds.segment, &fds.doorbell), handle_);
        reset();
        return fds;
    }
    /// Makes a port of its descriptors, and takes them over. If that throws, they are still the caller's.
    static port from_fds(port_fds fds) {
        ringport_port *handle = nullptr;
        detail::check(ringport_port_from_fds(fds.segment, fds.doorbell, &handle));
        return port(handle);
    }

    /// Sends the port over a connected Unix socket, to `receive_over`. Nothing is left here.
    void send_over(int socket) {
        detail::check(ringport_port_send(handle_, socket), handle_);
        reset();
    }
    /// Receives a port that was sent so; waits for it. closed_error, of no channel and so with the reason `open`, when the
    /// socket's other end is closed.
    static port receive_over(int socket) {
        ringport_port *handle = nullptr;
        detail::check(ringport_port_receive(socket, RINGPORT_FOREVER, &handle));
        return port(handle);
    }
    /// The same, or nothing when none has come in time.
    [[nodiscard]] static std::optional<port> receive_over_for(int socket, timeout within) {
        ringport_port *handle = nullptr;
        if (!detail::check_there(ringport_port_receive(socket, within.nanoseconds(), &handle))) {
            return std::nullopt;
        }
        return port(handle);
    }

private:
    explicit port(ringport_port *handle) noexcept : endpoint(handle) {}
};

/// Settings of a new channel. Zero means the default.
struct channel_options {
    /// Bytes of the ring from `port1` to `port2`, and of the other: powers of two, from 4 KiB to 1 GiB.
    std::size_t capacity_1_to_2 = 0;
    std::size_t capacity_2_to_1 = 0;
    /// Whether the memory is committed at once.
    bool prefault = false;
    /// Whether it is kept from being paged out.
    bool lock_memory = false;

    /// As the C interface takes them.
    ringport_channel_options to_c() const noexcept {
        ringport_channel_options options = {};
        options.size = sizeof options;
        options.capacity_1_to_2 = capacity_1_to_2;
        options.capacity_2_to_1 = capacity_2_to_1;
        options.prefault = prefault;
        options.lock_memory = lock_memory;
        return options;
    }
};

/// A new channel: two ports, entangled with each other and with nobody else.
struct channel {
    port port1;
    port port2;

    explicit channel(const channel_options &options = {}) {
        const ringport_channel_options given = options.to_c();
        ringport_port *one = nullptr;
        ringport_port *two = nullptr;
        detail::check(ringport_channel_new(&given, &one, &two));
        port1 = port::adopt(one);
        port2 = port::adopt(two);
    }
};

/// Ports to wait for together. It owns none of them, and does not mind that the objects are moved.
class wait_set {
public:
    wait_set(std::initializer_list<std::reference_wrapper<const endpoint>> ports) {
        handles_.reserve(ports.size());
        for (const endpoint &one : ports) {
            handles_.push_back(one.get());
        }
    }
    wait_set(const std::vector<port> &ports) {
        handles_.reserve(ports.size());
        for (const endpoint &one : ports) {
            handles_.push_back(one.get());
        }
    }

    ringport_port *const *data() const noexcept { return handles_.data(); }
    std::size_t size() const noexcept { return handles_.size(); }

private:
    std::vector<ringport_port *> handles_;
};

/// Waits so long until one of the ports has a message, or has ended, and says which.
inline ringport_status wait_any(std::nothrow_t, const wait_set &ports, timeout within, std::size_t &index) noexcept {
    return ringport_wait_any(ports.data(), ports.size(), within.nanoseconds(), &index);
}
/// The same: nothing if there was none in time.
[[nodiscard]] inline std::optional<std::size_t> wait_any(const wait_set &ports, timeout within) {
    std::size_t index = 0;
    if (!detail::check_there(wait_any(std::nothrow, ports, within, index))) {
        return std::nullopt;
    }
    return index;
}
/// The same, as long as it takes.
inline std::size_t wait_any(const wait_set &ports) {
    std::size_t index = 0;
    detail::check(wait_any(std::nothrow, ports, forever, index));
    return index;
}

// What could not be said before a port was known.

inline port message::take_port(std::size_t index) {
    port taken;
    detail::check(take_port(std::nothrow, index, taken));
    return taken;
}

inline ringport_status message::take_port(std::nothrow_t, std::size_t index, port &taken) noexcept {
    ringport_port *handle = nullptr;
    const ringport_status status = ringport_message_take_port(get(), index, &handle);
    if (status == RINGPORT_OK) {
        taken = port::adopt(handle);
    }
    return status;
}

inline std::vector<port> message::take_ports() {
    const std::size_t count = port_count();
    std::vector<port> ports;
    // Before anything is taken, as this may throw.
    ports.reserve(count);
    for (std::size_t index = 0; index < count; ++index) {
        port taken;
        const ringport_status status = take_port(std::nothrow, index, taken);
        if (status == RINGPORT_OK) {
            ports.push_back(std::move(taken));
        } else if (status != RINGPORT_DETACHED) {
            detail::raise(status);
        }
    }
    return ports;
}

inline transfer::transfer(port &&one) noexcept : ports_(&one), count_(1) {}

inline transfer::transfer(std::vector<port> &&ports) noexcept : ports_(ports.data()), count_(ports.size()) {}

template <std::size_t Count>
transfer::transfer(std::array<port, Count> &&ports) noexcept : ports_(ports.data()), count_(Count) {}

inline port &transfer::operator[](std::size_t index) const noexcept {
    return items_ != nullptr ? *items_[index].port_ : ports_[index];
}

inline ringport_status transfer::post(ringport_port *carrier, bytes data, timeout within) const noexcept {
    if (count_ <= RINGPORT_MAX_PORTS) {
        std::array<ringport_port *, RINGPORT_MAX_PORTS> handles;
        return post(carrier, data, within, handles.data());
    }
    // Too many; but that is not the first thing to be checked.
    std::unique_ptr<ringport_port *[]> handles(new (std::nothrow) ringport_port *[count_]);
    return handles ? post(carrier, data, within, handles.get()) : RINGPORT_NO_MEMORY;
}

inline ringport_status transfer::post(ringport_port *carrier, bytes data, timeout within,
                                      ringport_port **handles) const noexcept {
    for (std::size_t index = 0; index < count_; ++index) {
        handles[index] = (*this)[index].get();
    }
    const ringport_status status =
        ringport_post_with_ports(carrier, data.data(), data.size(), handles, count_, within.nanoseconds());
    if (status == RINGPORT_OK) {
        for (std::size_t index = 0; index < count_; ++index) {
            (*this)[index].reset();
        }
    }
    return status;
}

inline message_iterator &message_iterator::operator++() {
    // First, so that its room is the peer's while this waits.
    current_ = message();
    const ringport_status status = from_->recv(std::nothrow, current_);
    if (status != RINGPORT_CLOSED) {
        detail::check(status);
    }
    return *this;
}

inline message_iterator message_range::begin() const { return from_->begin(); }

// ---------------------------------------------------------------------------------------------------- processes

/// How a process has ended.
class exit_status {
public:
    exit_status() noexcept = default;
    explicit exit_status(int wait_status) noexcept : raw_(wait_status) {}

    bool success() const noexcept { return raw_ == 0; }
    /// What it gave to `exit`; nothing if a signal ended it.
    std::optional<int> code() const noexcept {
        return WIFEXITED(raw_) ? std::optional<int>(WEXITSTATUS(raw_)) : std::nullopt;
    }
    /// The signal that ended it.
    std::optional<int> signal() const noexcept {
        return WIFSIGNALED(raw_) ? std::optional<int>(WTERMSIG(raw_)) : std::nullopt;
    }
    /// As `waitpid` gives it.
    int raw() const noexcept { return raw_; }

private:
    int raw_ = 0;
};

/// A process that was spawned. Dropping it neither ends the process nor waits for its end.
class child {
public:
    child() noexcept = default;
    static child adopt(ringport_child *handle) noexcept { return child(handle); }

    explicit operator bool() const noexcept { return get() != nullptr; }
    ringport_child *get() const noexcept { return handle_.get(); }

    /// Its process id; 0 if there is none.
    std::int32_t id() const noexcept { return ringport_child_id(get()); }
    /// Waits until it has ended.
    exit_status wait() {
        int status = 0;
        detail::check(ringport_child_wait(get(), &status));
        return exit_status(status);
    }
    /// How it has ended, if it has.
    [[nodiscard]] std::optional<exit_status> try_wait() {
        int status = 0;
        if (!detail::check_there(ringport_child_try_wait(get(), &status))) {
            return std::nullopt;
        }
        return exit_status(status);
    }
    /// Ends it with SIGKILL.
    void kill() { detail::check(ringport_child_kill(get())); }

private:
    explicit child(ringport_child *handle) noexcept : handle_(handle) {}

    detail::owned<ringport_child, ringport_child_free> handle_;
};

/// Settings of a new process.
struct spawn_options {
    /// Entries "NAME=value" in place of this process's environment.
    std::optional<std::vector<std::string>> environment = {};
    /// Where it starts; empty: here.
    std::string directory = {};
    /// Its standard input, output and error output; -1: as here. They stay the caller's.
    std::array<int, 3> standard_streams = {-1, -1, -1};
};

/// A process, and the port to it.
struct worker {
    ringport::port port;
    ringport::child child;
};

namespace detail {

inline std::vector<const char *> pointers_to(const std::vector<std::string> &texts) {
    std::vector<const char *> pointers;
    pointers.reserve(texts.size() + 1);
    for (const std::string &text : texts) {
        pointers.push_back(text.c_str());
    }
    pointers.push_back(nullptr);
    return pointers;
}

} // namespace detail

/// Starts a program with a port to this process, which it gets from `parent_port`. `argv[0]` is the program, looked up
/// in PATH.
inline worker spawn(const std::vector<std::string> &argv, const spawn_options &options = {}) {
    const std::vector<const char *> arguments = detail::pointers_to(argv);
    std::vector<const char *> environment;
    ringport_spawn_options given = {};
    given.size = sizeof given;
    if (options.environment) {
        environment = detail::pointers_to(*options.environment);
        given.environment = environment.data();
    }
    given.directory = options.directory.empty() ? nullptr : options.directory.c_str();
    given.standard_streams = options.standard_streams.data();
    ringport_port *port = nullptr;
    ringport_child *child = nullptr;
    detail::check(ringport_spawn(arguments.data(), &given, &port, &child));
    return {ringport::port::adopt(port), ringport::child::adopt(child)};
}

/// The port to the process that has spawned this one; nothing if none has, or when it was asked for before.
inline std::optional<port> parent_port() {
    ringport_port *handle = nullptr;
    const ringport_status status = ringport_parent_port(&handle);
    if (status == RINGPORT_NO_PARENT) {
        return std::nullopt;
    }
    detail::check(status);
    return port::adopt(handle);
}

// ---------------------------------------------------------------------------------------------------- strangers

/// Who a client is, by the kernel's word.
using credentials = ringport_credentials;

/// Whom a listener admits.
struct listener_options {
    /// Users besides this process's own; or any.
    std::vector<std::uint32_t> users = {};
    bool any_user = false;
    /// The largest ring that a client may bring, in bytes; 0: 64 MiB.
    std::size_t largest_capacity = 0;
    /// Clients that may wait to be accepted; 0: 128.
    std::uint16_t backlog = 0;
};

/// A client that was accepted.
struct accepted {
    ringport::port port;
    ringport::credentials client = {};
};

/// Where processes that know an address meet this one. Dropping it ends the listening, not what was accepted.
class listener {
public:
    listener() noexcept = default;
    /// Listens at a name, or at a path, recognised by a `/`. RINGPORT_IN_USE when somebody listens there.
    explicit listener(const std::string &address, const listener_options &options = {}) {
        ringport_listener_options given = {};
        given.size = sizeof given;
        given.users = options.users.empty() ? nullptr : options.users.data();
        given.user_count = options.users.size();
        given.any_user = options.any_user;
        given.largest_capacity = options.largest_capacity;
        given.backlog = options.backlog;
        ringport_listener *handle = nullptr;
        detail::check(ringport_listen(address.c_str(), &given, &handle));
        handle_ = owned_handle(handle);
    }

    explicit operator bool() const noexcept { return get() != nullptr; }
    ringport_listener *get() const noexcept { return handle_.get(); }

    /// Waits for a client.
    accepted accept() {
        accepted client;
        detail::check(accept(std::nothrow, client));
        return client;
    }
    /// Waits for a client so long; nothing if there was none in time.
    [[nodiscard]] std::optional<accepted> accept_for(timeout within) {
        accepted client;
        if (!detail::check_there(accept(std::nothrow, client, within))) {
            return std::nullopt;
        }
        return client;
    }
    /// The client that is there, if any.
    [[nodiscard]] std::optional<accepted> try_accept() { return accept_for(no_wait); }
    /// RINGPORT_NOT_YET if there was none in time.
    ringport_status accept(std::nothrow_t, accepted &client, timeout within = forever) noexcept {
        ringport_port *handle = nullptr;
        ringport::credentials who = {};
        const ringport_status status = ringport_accept(get(), within.nanoseconds(), &handle, &who);
        if (status == RINGPORT_OK) {
            client = accepted{port::adopt(handle), who};
        }
        return status;
    }

    /// The descriptor to poll for reading. It stays the listener's.
    int fd() const {
        int fd = -1;
        detail::check(ringport_listener_fd(get(), &fd));
        return fd;
    }
    /// Where its socket is; empty if there is no listener.
    std::string path() const {
        const char *path = ringport_listener_path(get());
        return path != nullptr ? path : "";
    }

private:
    using owned_handle = detail::owned<ringport_listener, ringport_listener_free>;

    owned_handle handle_;
};

/// Settings of a connection.
struct connect_options {
    /// The channel to be made; `port1` is the one here.
    channel_options channel = {};
    /// How long the listener may take.
    ringport::timeout timeout = std::chrono::seconds(10);
};

/// Connects to a listener. RINGPORT_TIMED_OUT if it does not accept in time.
inline port connect(const std::string &address, const connect_options &options = {}) {
    ringport_connect_options given = {};
    given.size = sizeof given;
    given.channel = options.channel.to_c();
    given.timeout_ns = options.timeout.nanoseconds();
    ringport_port *handle = nullptr;
    detail::check(ringport_connect(address.c_str(), &given, &handle));
    return port::adopt(handle);
}

// ---------------------------------------------------------------------------------------------------- the loop

namespace detail {

template <class Handler, class... Arguments>
inline constexpr bool takes = std::is_invocable_v<Handler &, Arguments...>;

// Whether it takes the last of the arguments.
template <class Handler, class A, class B, class... C>
inline constexpr bool takes_last =
    takes<Handler, A, B, C...> || takes<Handler, B, C...> || takes<Handler, A, C...> || takes<Handler, C...>;
template <class Handler, class A, class B>
inline constexpr bool takes_last<Handler, A, B> = takes<Handler, A, B> || takes<Handler, B>;

/// Calls a handler with as many of the arguments as it takes, the later ones first. The last is its own to move from, or to
/// refer to.
template <class Handler, class A>
void call(Handler &handler, A &&a) {
    if constexpr (takes<Handler, A>) {
        handler(std::forward<A>(a));
    } else {
        static_assert(takes<Handler>, "the handler does not take what it is called with");
        handler();
    }
}
template <class Handler, class A, class B>
void call(Handler &handler, A &&a, B &&b) {
    if constexpr (takes<Handler, A, B>) {
        handler(std::forward<A>(a), std::forward<B>(b));
    } else if constexpr (takes<Handler, B>) {
        handler(std::forward<B>(b));
    } else if constexpr (!std::is_lvalue_reference_v<B> && takes_last<Handler, A, B &>) {
        call(handler, std::forward<A>(a), b);
    } else {
        call(handler, std::forward<A>(a));
    }
}
template <class Handler, class A, class B, class C>
void call(Handler &handler, A &&a, B &&b, C &&c) {
    if constexpr (takes<Handler, A, B, C>) {
        handler(std::forward<A>(a), std::forward<B>(b), std::forward<C>(c));
    } else if constexpr (takes<Handler, B, C>) {
        handler(std::forward<B>(b), std::forward<C>(c));
    } else if constexpr (takes<Handler, A, C>) {
        handler(std::forward<A>(a), std::forward<C>(c));
    } else if constexpr (takes<Handler, C>) {
        handler(std::forward<C>(c));
    } else if constexpr (!std::is_lvalue_reference_v<C> && takes_last<Handler, A, B, C &>) {
        call(handler, std::forward<A>(a), std::forward<B>(b), c);
    } else {
        call(handler, std::forward<A>(a), std::forward<B>(b));
    }
}

struct loop_state;

/// What was put into a loop. Both the loop and the user's references own it.
struct resident {
    /// Null once it has left the loop.
    loop_state *state = nullptr;
    std::list<std::shared_ptr<resident>>::iterator place = {};

    resident() = default;
    resident(const resident &) = delete;
    resident &operator=(const resident &) = delete;
    virtual ~resident() = default;
    /// Frees the handle.
    virtual void let_go() noexcept = 0;
};

/// What the callbacks and the `loop` object share. It stays where it is when the object is moved.
struct loop_state {
    ringport_loop *handle = nullptr;
    /// The object; null when that is gone while the loop still runs.
    loop *owner = nullptr;
    /// The first exception that a handler has thrown in this run.
    std::exception_ptr thrown = nullptr;
    std::list<std::shared_ptr<resident>> here = {};
    /// Those whose handles are to be freed when the C interface is done with them.
    std::list<std::shared_ptr<resident>> leaving = {};

    loop_state() { check(ringport_loop_new(&handle)); }
    loop_state(const loop_state &) = delete;
    loop_state &operator=(const loop_state &) = delete;
    ~loop_state() {
        // The ports in it are closed, and all handlers dropped.
        ringport_loop_free(handle);
        for (const std::shared_ptr<resident> &one : here) {
            one->state = nullptr;
        }
        leaving.splice(leaving.end(), here);
        bury();
    }

    void settle(const std::shared_ptr<resident> &one) {
        one->place = here.insert(here.end(), one);
        one->state = this;
    }

    void retire(resident &one) noexcept {
        if (one.state != nullptr) {
            one.state = nullptr;
            leaving.splice(leaving.end(), here, one.place);
        }
    }

    /// Frees the handles of those who have left. What they own may let others leave.
    void bury() noexcept {
        while (!leaving.empty()) {
            std::list<std::shared_ptr<resident>> gone;
            gone.swap(leaving);
            for (const std::shared_ptr<resident> &one : gone) {
                one->let_go();
            }
        }
    }

    /// Runs a handler. Nothing may be thrown through C: it is kept until the run has returned.
    template <class Handler, class... Arguments>
    void run_handler(Handler &handler, Arguments &&...arguments) noexcept {
        if (owner != nullptr) {
            try {
                call(handler, *owner, std::forward<Arguments>(arguments)...);
            } catch (...) {
                if (!thrown) {
                    thrown = std::current_exception();
                }
                ringport_loop_stop(handle);
            }
        }
        bury();
    }

    /// After a run: its status, unless a handler has thrown.
    ringport_status conclude(ringport_status status) {
        bury();
        if (thrown) {
            std::rethrow_exception(std::exchange(thrown, nullptr));
        }
        return status;
    }
};

/// A handler for what concerns the loop alone, owned by the C interface.
template <class Handler>
struct event_call {
    loop_state *state;
    Handler handler;

    static void run(ringport_loop *, void *user) noexcept {
        auto *self = static_cast<event_call *>(user);
        self->state->run_handler(self->handler);
    }
    static void free(void *user) noexcept { delete static_cast<event_call *>(user); }
};

/// The user's handler of a close.
template <class Who>
struct close_handler {
    close_handler() = default;
    close_handler(const close_handler &) = delete;
    close_handler &operator=(const close_handler &) = delete;
    virtual ~close_handler() = default;
    virtual void run(loop_state &state, Who &who, ringport::close_reason reason) noexcept = 0;
};

template <class Who, class Handler>
struct close_handler_of final : close_handler<Who> {
    Handler handler;

    template <class Given>
    explicit close_handler_of(Given &&given) : handler(std::forward<Given>(given)) {}
    void run(loop_state &state, Who &who, ringport::close_reason reason) noexcept override {
        state.run_handler(handler, who, reason);
    }
};

} // namespace detail

/// A port that is in a loop: to use it, and to say what is done when something arrives on it.
///
/// It points to the port (`port->post("x")`) and owns nothing; copies stand for the same port, and may outlive it and
/// the loop. Once the port has left the loop, by its end or by `loop::remove`, calls fail with RINGPORT_NOT_IN_LOOP
/// (those of the port itself with RINGPORT_NULL).
///
/// Handlers are any function objects, also such that can only be moved. The loop owns them: each is dropped when it is
/// replaced, when it has done its one duty, or when its port has left. One may leave out arguments that it does not
/// want: for messages it may take `(loop &, loop_port &, message)`, `(loop_port &, message)`, `(message)`, or nothing; and the
/// message by value or by reference.
/// References to the loop and to the port are valid until the handler returns. A handler may post, receive, add and
/// remove ports, set handlers and timers, and stop the loop. What it throws is thrown by `run`.
class loop_port {
public:
    // There is none that was moved from.
    loop_port(const loop_port &) noexcept = default;
    loop_port &operator=(const loop_port &) noexcept = default;

    /// Whether it is still in the loop.
    explicit operator bool() const noexcept { return here_->state != nullptr; }
    /// The port; an empty one if it has left. A call that waits keeps the whole loop waiting.
    endpoint &operator*() const noexcept { return here_->port; }
    endpoint *operator->() const noexcept { return &here_->port; }

    friend bool operator==(const loop_port &a, const loop_port &b) noexcept { return a.here_ == b.here_; }
    friend bool operator!=(const loop_port &a, const loop_port &b) noexcept { return a.here_ != b.here_; }

    /// Has `handler(loop &, loop_port &, message)` called for each message, and starts the port.
    template <class Handler>
    loop_port on_message(Handler &&handler) {
        return set<message_call>(ringport_port_on_message, std::forward<Handler>(handler));
    }
    /// The same without starting it: messages wait until `start` is called.
    template <class Handler>
    loop_port on_message_after_start(Handler &&handler) {
        return set<message_call>(ringport_port_on_message_after_start, std::forward<Handler>(handler));
    }
    /// Has `handler(loop &, loop_port &, ringport_status)` called when a message could not be received, for lack of
    /// descriptors or memory. Nothing is lost, and it is tried again every 10 ms. Does not start the port.
    template <class Handler>
    loop_port on_message_error(Handler &&handler) {
        return set<error_call>(ringport_port_on_message_error, std::forward<Handler>(handler));
    }
    /// Has `handler(loop &, loop_port &, close_reason)` called once, when the channel has ended and every message
    /// before was handled, unless this side has closed it. Does not start the port. After it the port leaves the loop
    /// and is freed, unless the handler has removed it.
    template <class Handler>
    loop_port on_close(Handler &&handler) {
        state();
        const loop_port self = *this;
        std::unique_ptr<detail::close_handler<loop_port>> other =
            std::make_unique<detail::close_handler_of<loop_port, std::decay_t<Handler>>>(std::forward<Handler>(handler));
        here_->on_close.swap(other);
        return self;
    }
    /// Has `handler(loop &, loop_port &)` called once, when there is room for a message of `size` bytes: after a post
    /// that found none.
    template <class Handler>
    loop_port on_room(std::size_t size, Handler &&handler) {
        return set<room_call>(
            [size](ringport_port *handle, auto run, void *user, ringport_free_user free) {
                return ringport_port_on_room(handle, size, false, run, user, free);
            },
            std::forward<Handler>(handler));
    }
    /// The same for a message with ports.
    template <class Handler>
    loop_port on_room_with_ports(std::size_t size, Handler &&handler) {
        return set<room_call>(
            [size](ringport_port *handle, auto run, void *user, ringport_free_user free) {
                return ringport_port_on_room(handle, size, true, run, user, free);
            },
            std::forward<Handler>(handler));
    }
    /// Starts handling messages, for good.
    loop_port start() {
        state();
        detail::check(ringport_port_start(here_->port.get()), here_->port.get());
        return *this;
    }

private:
    friend class loop;

    struct residence final : detail::resident {
        ringport::port port = {};
        std::unique_ptr<detail::close_handler<loop_port>> on_close = nullptr;

        void let_go() noexcept override {
            port.reset();
            on_close.reset();
        }
    };

    // What the C interface gives back to callbacks; they contain a `loop_port`.
    template <class Handler>
    struct context;
    template <class Handler>
    struct message_call;
    template <class Handler>
    struct error_call;
    template <class Handler>
    struct room_call;
    struct close_call;

    explicit loop_port(std::shared_ptr<residence> here) noexcept : here_(std::move(here)) {}

    detail::loop_state &state() const {
        if (here_->state == nullptr) {
            throw error(RINGPORT_NOT_IN_LOOP, "the port is not in the loop any more");
        }
        return *here_->state;
    }

    template <template <class> class Call, class Setter, class Handler>
    loop_port set(Setter setter, Handler &&handler) {
        using kept = context<std::decay_t<Handler>>;
        // The handler that was there before goes, and with it perhaps all that owns this.
        const loop_port self = *this;
        std::unique_ptr<kept> user(new kept{&state(), self, std::forward<Handler>(handler)});
        ringport_port *handle = here_->port.get();
        detail::check(setter(handle, &Call<std::decay_t<Handler>>::run, user.get(), &kept::free), handle);
        static_cast<void>(user.release());
        return self;
    }

    std::shared_ptr<residence> here_;
};

/// Keeps the port's residence as long as the handler may be called.
template <class Handler>
struct loop_port::context {
    detail::loop_state *state;
    loop_port port;
    Handler handler;

    static void free(void *user) noexcept { delete static_cast<context *>(user); }
};

template <class Handler>
struct loop_port::message_call {
    static void run(ringport_loop *, ringport_port *, ringport_message *handle, void *user) noexcept {
        auto *self = static_cast<context<Handler> *>(user);
        self->state->run_handler(self->handler, self->port, message::adopt(handle));
    }
};

template <class Handler>
struct loop_port::error_call {
    static void run(ringport_loop *, ringport_port *, std::int32_t status, void *user) noexcept {
        auto *self = static_cast<context<Handler> *>(user);
        self->state->run_handler(self->handler, self->port, static_cast<ringport_status>(status));
    }
};

template <class Handler>
struct loop_port::room_call {
    static void run(ringport_loop *, ringport_port *, void *user) noexcept {
        auto *self = static_cast<context<Handler> *>(user);
        self->state->run_handler(self->handler, self->port);
    }
};

/// Set for every port, since its end is also that of its residence.
struct loop_port::close_call {
    detail::loop_state *state;
    loop_port port;

    static void run(ringport_loop *, ringport_port *, std::int32_t reason, void *user) noexcept {
        auto *self = static_cast<close_call *>(user);
        const auto handler = std::move(self->port.here_->on_close);
        if (handler) {
            handler->run(*self->state, self->port, static_cast<ringport::close_reason>(reason));
        }
    }
    static void free(void *user) noexcept {
        const std::unique_ptr<close_call> self(static_cast<close_call *>(user));
        self->state->retire(*self->port.here_);
    }
};

namespace detail {

/// A listener or a child in a loop.
template <class Handle>
struct residence_of final : resident {
    Handle handle = {};

    void let_go() noexcept override { handle = Handle(); }
};

/// Its handler, whose end is also that of the residence.
template <class Handle, class Handler>
struct source_call {
    loop_state *state;
    std::shared_ptr<residence_of<Handle>> here;
    Handler handler;

    static void free(void *user) noexcept {
        std::unique_ptr<source_call> self(static_cast<source_call *>(user));
        const std::shared_ptr<residence_of<Handle>> leaving = self->here;
        loop_state *const at = self->state;
        // First, as what the handler owns may have the loop free the handles of all that have left.
        self.reset();
        at->retire(*leaving);
    }
};

} // namespace detail

/// A listener or a child that is in a loop, for `loop::remove`. Copies stand for the same, and own nothing.
template <class Handle>
class loop_source {
public:
    // There is none that was moved from.
    loop_source(const loop_source &) noexcept = default;
    loop_source &operator=(const loop_source &) noexcept = default;

    /// Whether it is still in the loop.
    explicit operator bool() const noexcept { return here_->state != nullptr; }

private:
    friend class loop;
    explicit loop_source(std::shared_ptr<detail::residence_of<Handle>> here) noexcept : here_(std::move(here)) {}

    std::shared_ptr<detail::residence_of<Handle>> here_;
};

using loop_listener = loop_source<listener>;
using loop_child = loop_source<child>;

/// A timer of a loop.
enum class timer_id : std::uint64_t {};

/// Wakes a loop, from any thread. It may outlive the loop; then nothing happens.
class waker {
public:
    waker() noexcept = default;

    explicit operator bool() const noexcept { return handle_.get() != nullptr; }
    /// Has the loop call its wake handler: once for all wakes since the last time.
    void wake() const { detail::check(wake(std::nothrow)); }
    ringport_status wake(std::nothrow_t) const noexcept { return ringport_waker_wake(handle_.get()); }

private:
    friend class loop;
    explicit waker(ringport_waker *handle) noexcept : handle_(handle) {}

    detail::owned<ringport_waker, ringport_waker_free> handle_;
};

/// What comes to a listener in a loop.
struct arrival {
    /// RINGPORT_OK, or why a client could not be accepted; it is tried again then.
    ringport_status status;
    /// The port to it, in no loop yet; empty if it could not.
    ringport::port port;
    ringport::credentials client;
};

/// One thread, many ports: handlers that are called when something happens. It owns what was put into it. Dropping it
/// closes the ports, and ends the listening.
///
/// Handlers are only called by `run` and `run_once`, one at a time, never from inside a post. If one throws, the loop
/// stops, and `run` or `run_once` throws what it has thrown. The event counts as handled; nothing else is lost, and the
/// loop can be run again.
///
/// The object may be moved, also while handlers know of it: they get it as it is then. It may be dropped by a handler:
/// then it ends when that returns.
class loop {
public:
    loop() : state_(std::make_shared<detail::loop_state>()) { state_->owner = this; }
    loop(loop &&other) noexcept : state_(std::move(other.state_)) { own(); }
    loop &operator=(loop &&other) noexcept {
        if (this != &other) {
            leave();
            state_ = std::move(other.state_);
            own();
        }
        return *this;
    }
    loop(const loop &) = delete;
    loop &operator=(const loop &) = delete;
    ~loop() { leave(); }

    explicit operator bool() const noexcept { return state_ != nullptr; }
    /// The loop of the C interface. It stays this object's, and so do the ports in it.
    ringport_loop *get() const noexcept { return state_ ? state_->handle : nullptr; }

    /// Puts a port into the loop, not started. If that throws, the caller still has the port.
    loop_port add(port &&joining) {
        detail::loop_state &at = state();
        auto here = std::make_shared<loop_port::residence>();
        std::unique_ptr<loop_port::close_call> user(new loop_port::close_call{&at, loop_port(here)});
        at.settle(here);
        const ringport_status status = enter(at, joining.get(), user.get());
        if (status != RINGPORT_OK) {
            // Nobody has seen it.
            at.here.erase(here->place);
            detail::raise(status, joining.get());
        }
        static_cast<void>(user.release());
        here->port = std::move(joining);
        return loop_port(std::move(here));
    }

    /// Takes a port out of the loop, with everything that waits on it. Its handlers are dropped; one that runs, when it
    /// returns. So a handler can give away the very port it runs on. RINGPORT_BUSY while a slot, a batch or a message
    /// read in place is open.
    port remove(const loop_port &leaving) {
        // The handlers that are dropped may be all that owns the loop, and what is leaving.
        const std::shared_ptr<detail::loop_state> at = shared_state();
        const std::shared_ptr<loop_port::residence> here = leaving.here_;
        leaving.state();
        detail::check(ringport_loop_remove(at->handle, here->port.get()), here->port.get());
        at->retire(*here);
        port left = std::move(here->port);
        at->bury();
        return left;
    }

    /// Has `handler(loop &, arrival)` called for each client.
    template <class Handler>
    loop_listener add(listener &&joining, Handler &&handler) {
        return add_source(ringport_loop_add_listener, &on_connect<std::decay_t<Handler>>, std::move(joining),
                          std::forward<Handler>(handler));
    }
    /// Takes a listener out of the loop. Clients wait on.
    listener remove(const loop_listener &leaving) {
        return remove_source(ringport_loop_remove_listener, leaving);
    }

    /// Has `handler(loop &, ringport_status, exit_status)` called when a process has ended; the status is not
    /// RINGPORT_OK if how cannot be told.
    template <class Handler>
    loop_child add(child &&joining, Handler &&handler) {
        return add_source(ringport_loop_add_child, &on_exit<std::decay_t<Handler>>, std::move(joining),
                          std::forward<Handler>(handler));
    }
    /// Takes a process out of the loop.
    child remove(const loop_child &leaving) { return remove_source(ringport_loop_remove_child, leaving); }

    /// Has `handler(loop &)` called once, after `delay` or a little later.
    template <class Rep, class Period, class Handler>
    timer_id set_timeout(std::chrono::duration<Rep, Period> delay, Handler &&handler) {
        return set_timer(ringport_loop_set_timeout, detail::nanoseconds_of(delay), std::forward<Handler>(handler));
    }
    /// Has `handler(loop &)` called every `period`. Times that were missed are left out.
    template <class Rep, class Period, class Handler>
    timer_id set_interval(std::chrono::duration<Rep, Period> period, Handler &&handler) {
        return set_timer(ringport_loop_set_interval, detail::nanoseconds_of(period), std::forward<Handler>(handler));
    }
    /// Whether the timer was still set. Its handler is dropped.
    bool clear_timer(timer_id timer) {
        const ringport_status status = ringport_loop_clear_timer(state().handle, static_cast<std::uint64_t>(timer));
        if (status == RINGPORT_NOT_IN_LOOP) {
            return false;
        }
        detail::check(status);
        return true;
    }

    /// Has `handler(loop &)` called when a waker was used.
    template <class Handler>
    void on_wake(Handler &&handler) {
        set_event(std::forward<Handler>(handler), [this](auto call, void *user, ringport_free_user free) {
            return ringport_loop_on_wake(get(), call, user, free);
        });
    }
    /// What wakes the loop from another thread.
    waker make_waker() const {
        ringport_waker *handle = nullptr;
        detail::check(ringport_loop_waker(get(), &handle));
        return waker(handle);
    }

    /// Calls handlers until `stop` is called, or nothing is left that could happen. Throws what a handler throws.
    void run() {
        // The object may be moved or dropped meanwhile.
        const std::shared_ptr<detail::loop_state> at = shared_state();
        detail::check(at->conclude(ringport_loop_run(at->handle)));
    }
    /// Waits so long until something happens, calls the handlers for what is there, and says whether there was
    /// anything. Throws what a handler throws.
    bool run_once(timeout within = forever) {
        const std::shared_ptr<detail::loop_state> at = shared_state();
        return detail::check_there(at->conclude(ringport_loop_run_once(at->handle, within.nanoseconds())));
    }
    /// Ends `run` after the handler that runs now. When nothing runs, the next run returns at once.
    void stop() { detail::check(ringport_loop_stop(get())); }

    /// The descriptor for a loop around this one: readable when `run_once` has something to do. It stays the loop's.
    int fd() {
        int fd = -1;
        detail::check(ringport_loop_fd(get(), &fd));
        return fd;
    }
    void set_wait_strategy(ringport::wait_strategy strategy) {
        detail::check(ringport_loop_set_wait_strategy(get(), static_cast<std::int32_t>(strategy)));
    }

private:
    void own() noexcept {
        if (state_) {
            state_->owner = this;
        }
    }

    void leave() noexcept {
        if (state_) {
            state_->owner = nullptr;
            // One that runs lives until that has returned.
            if (state_.use_count() > 1) {
                ringport_loop_stop(state_->handle);
            }
            state_.reset();
        }
    }

    const std::shared_ptr<detail::loop_state> &shared_state() const {
        if (!state_) {
            throw error(RINGPORT_NULL, "the loop was moved away");
        }
        return state_;
    }
    detail::loop_state &state() const { return *shared_state(); }

    static ringport_status enter(const detail::loop_state &at, ringport_port *joining, loop_port::close_call *user) {
        const ringport_status status = ringport_loop_add(at.handle, joining);
        if (status != RINGPORT_OK) {
            return status;
        }
        const ringport_status set =
            ringport_port_on_close(joining, &loop_port::close_call::run, user, &loop_port::close_call::free);
        if (set != RINGPORT_OK) {
            ringport_loop_remove(at.handle, joining);
        }
        return set;
    }

    template <class Handler>
    static void on_connect(ringport_loop *, std::int32_t status, ringport_port *handle,
                           const ringport_credentials *client, void *user) noexcept {
        auto *self = static_cast<detail::source_call<listener, Handler> *>(user);
        const credentials who = client != nullptr ? *client : credentials{};
        self->state->run_handler(self->handler,
                                 arrival{static_cast<ringport_status>(status), port::adopt(handle), who});
    }

    template <class Handler>
    static void on_exit(ringport_loop *, std::int32_t status, int wait_status, void *user) noexcept {
        auto *self = static_cast<detail::source_call<child, Handler> *>(user);
        self->state->run_handler(self->handler, static_cast<ringport_status>(status), exit_status(wait_status));
    }

    template <class Enter, class Call, class Handle, class Handler>
    loop_source<Handle> add_source(Enter enter_source, Call call, Handle &&joining, Handler &&handler) {
        using kept = detail::source_call<Handle, std::decay_t<Handler>>;
        detail::loop_state &at = state();
        auto here = std::make_shared<detail::residence_of<Handle>>();
        std::unique_ptr<kept> user(new kept{&at, here, std::forward<Handler>(handler)});
        at.settle(here);
        const ringport_status status = enter_source(at.handle, joining.get(), call, user.get(), &kept::free);
        if (status != RINGPORT_OK) {
            at.here.erase(here->place);
            detail::raise(status);
        }
        static_cast<void>(user.release());
        here->handle = std::move(joining);
        return loop_source<Handle>(std::move(here));
    }

    template <class Leave, class Handle>
    Handle remove_source(Leave leave_source, const loop_source<Handle> &leaving) {
        if (!leaving) {
            throw error(RINGPORT_NOT_IN_LOOP, "it is not in the loop any more");
        }
        // As for ports.
        const std::shared_ptr<detail::loop_state> at = shared_state();
        const std::shared_ptr<detail::residence_of<Handle>> here = leaving.here_;
        detail::check(leave_source(at->handle, here->handle.get()));
        at->retire(*here);
        Handle left = std::move(here->handle);
        at->bury();
        return left;
    }

    template <class Handler, class Setter>
    void set_event(Handler &&handler, Setter setter) {
        using kept = detail::event_call<std::decay_t<Handler>>;
        std::unique_ptr<kept> user(new kept{&state(), std::forward<Handler>(handler)});
        detail::check(setter(&kept::run, user.get(), &kept::free));
        static_cast<void>(user.release());
    }

    template <class Setter, class Handler>
    timer_id set_timer(Setter setter, std::int64_t nanoseconds, Handler &&handler) {
        std::uint64_t timer = 0;
        set_event(std::forward<Handler>(handler), [&](auto call, void *user, ringport_free_user free) {
            return setter(get(), static_cast<std::uint64_t>(nanoseconds), call, user, free, &timer);
        });
        return static_cast<timer_id>(timer);
    }

    std::shared_ptr<detail::loop_state> state_;
};

} // namespace ringport

#if __cplusplus >= 202002L
// Their elements do not end with them.
template <>
inline constexpr bool std::ranges::enable_borrowed_range<ringport::bytes> = true;
template <>
inline constexpr bool std::ranges::enable_borrowed_range<ringport::mutable_bytes> = true;
template <class T>
inline constexpr bool std::ranges::enable_borrowed_range<ringport::slice<T>> = true;
#endif

#endif
