// What the C++ test programs share: a check that says what it saw, a watchdog, and a count of descriptors.
#ifndef RINGPORT_TESTS_CHECK_HPP
#define RINGPORT_TESTS_CHECK_HPP

#include "ringport.hpp"

#include <dirent.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <type_traits>

namespace check {

template <class T, class = void>
struct is_shown : std::false_type {};
template <class T>
struct is_shown<T, std::void_t<decltype(std::declval<std::ostream &>() << std::declval<const T &>())>>
    : std::true_type {};

/// A value as text.
template <class T>
std::string show(const T &value) {
    std::ostringstream out;
    if constexpr (std::is_same_v<T, ringport_status>) {
        out << ringport_status_name(value);
    } else if constexpr (std::is_enum_v<T>) {
        out << static_cast<long long>(value);
    } else if constexpr (is_shown<T>::value) {
        out << std::boolalpha << value;
    } else {
        out << "(an object)";
    }
    return out.str();
}

struct outcome {
    bool good;
    std::string seen;
};

/// The left side of a comparison, which keeps both sides for the report.
template <class L>
struct left {
    const L &value;

    template <class R>
    outcome operator==(const R &right) const {
        return {value == right, show(value) + " == " + show(right)};
    }
    template <class R>
    outcome operator!=(const R &right) const {
        return {value != right, show(value) + " != " + show(right)};
    }
    template <class R>
    outcome operator<(const R &right) const {
        return {value < right, show(value) + " < " + show(right)};
    }
    template <class R>
    outcome operator>(const R &right) const {
        return {right < value, show(value) + " > " + show(right)};
    }
    template <class R>
    outcome operator>=(const R &right) const {
        return {!(value < right), show(value) + " >= " + show(right)};
    }
    operator outcome() const { return {static_cast<bool>(value), show(static_cast<bool>(value))}; }
};

/// Takes the left side: `->*` binds tighter than any comparison.
struct start {
    template <class L>
    left<L> operator->*(const L &value) const {
        return {value};
    }
};

inline void judge(const outcome &seen, const char *file, int line, const char *expression) {
    if (!seen.good) {
        std::cerr << file << ':' << line << ": " << expression << "\n    is not so: " << seen.seen << std::endl;
        std::exit(1);
    }
}

/// The status of the error that the call throws; RINGPORT_OK if it throws none.
template <class Call>
ringport_status thrown_by(Call call) {
    try {
        call();
    } catch (const ringport::error &error) {
        return error.status();
    }
    return RINGPORT_OK;
}

/// Whether valgrind runs this program. It has no limits of its own on descriptors that come in messages.
inline bool under_valgrind() {
    const char *preloaded = std::getenv("LD_PRELOAD");
    return preloaded != nullptr && std::strstr(preloaded, "vgpreload") != nullptr;
}

/// Whether a loop can watch processes here: an older valgrind does not know the system call.
inline bool can_watch_processes() {
    const long fd = syscall(SYS_pidfd_open, getpid(), 0);
    return fd >= 0 && close(static_cast<int>(fd)) == 0;
}

/// Descriptors that this process has open.
inline std::size_t descriptors() {
    DIR *directory = opendir("/proc/self/fd");
    if (directory == nullptr) {
        std::perror("/proc/self/fd");
        std::exit(1);
    }
    std::size_t count = 0;
    while (readdir(directory) != nullptr) {
        ++count;
    }
    closedir(directory);
    return count;
}

} // namespace check

/// Ends the program unless the expression, at best a comparison, is true.
#define CHECK(...) ::check::judge(::check::start() ->* __VA_ARGS__, __FILE__, __LINE__, #__VA_ARGS__)

/// Ends the program unless the expression throws a `ringport::error` of this status.
#define CHECK_THROWS(wanted, ...) CHECK(::check::thrown_by([&] { static_cast<void>(__VA_ARGS__); }) == (wanted))

namespace check {

/// Runs the tests of a program: within a minute, and leaving no descriptor open.
template <class... Tests>
int run(const char *name, Tests... tests) {
    alarm(60);
    try {
        const std::size_t before = descriptors();
        (tests(), ...);
        CHECK(descriptors() == before);
    } catch (const std::exception &error) {
        std::cerr << name << " has thrown: " << error.what() << std::endl;
        return 1;
    }
    std::cout << "ok " << name << std::endl;
    return 0;
}

} // namespace check

#endif
