// A thing that handlers own in the tests, to see that each handler is dropped exactly once.
#ifndef RINGPORT_TESTS_COUNTED_HPP
#define RINGPORT_TESTS_COUNTED_HPP

#include <memory>

namespace check {

/// It can only be moved, as much that handlers own can. How many there are is seen from outside.
class counted {
public:
    explicit counted(int &alive) : alive_(&alive, drop) { ++alive; }

private:
    static void drop(int *alive) { --*alive; }
    std::unique_ptr<int, void (*)(int *)> alive_;
};

} // namespace check

#endif
