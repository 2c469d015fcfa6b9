// rkyv archives written and read in C++: a root with a short string, a long one, and a vector.
#include "check.hpp"

#include <cstring>
#include <vector>

using ringport::channel;
using ringport::message;

namespace {

/// As rkyv lays out `struct { id: u64, name: String, remark: String, values: Vec<i32> }` behind `#[repr(C)]`.
struct record {
    std::uint64_t id;
    std::uint32_t name[2];
    std::uint32_t remark[2];
    std::uint32_t values[2];
};

constexpr std::string_view remark = "a remark that does not fit into eight bytes";

/// Posts a record: what it points to comes first, the root last.
void post_record(ringport::port &to) {
    const std::vector<std::int32_t> values = {3, -1, 4};
    const std::size_t values_at = 48;
    const std::size_t root_at = 64;
    ringport::slot slot = to.reserve(root_at + sizeof(record));
    std::memset(slot.data(), 0, slot.size());
    std::memcpy(slot.data(), remark.data(), remark.size());
    std::memcpy(slot.data() + values_at, values.data(), values.size() * sizeof values[0]);
    auto *root = new (slot.data() + root_at) record{};
    root->id = 42;
    slot.archive_string(root->name, "Ada");
    slot.archive_string(root->remark, {reinterpret_cast<const char *>(slot.data()), remark.size()});
    slot.archive_slice(root->values, reinterpret_cast<const std::int32_t *>(slot.data() + values_at), values.size());
    slot.commit();
}

void what_was_archived_is_read() {
    channel ends;
    post_record(ends.port1);
    const message one = ends.port2.recv();
    const auto &root = one.archived_root<record>();
    CHECK(root.id == 42u);
    CHECK(one.string_at(root.name) == "Ada");
    CHECK(one.string_at(root.remark) == remark);
    const ringport::slice<std::int32_t> values = one.slice_at<std::int32_t>(root.values);
    CHECK(values.size() == 3u);
    int sum = 0;
    for (const std::int32_t value : values) {
        sum = sum * 10 + value;
    }
    CHECK(sum == 294);
    CHECK(values[1] == -1);
}

void an_archive_that_leads_out_of_the_message_is_none() {
    channel ends;
    record bad = {};
    bad.remark[0] = 0x80000000U | 40; // the form of a long string
    bad.remark[1] = 0x70000000U;
    bad.values[0] = 0x70000000U;
    bad.values[1] = 5;
    ends.port1.post(ringport::bytes::of(bad));
    const message one = ends.port2.recv();
    const auto &root = one.archived_root<record>();
    CHECK_THROWS(RINGPORT_BAD_ARCHIVE, one.slice_at<std::int32_t>(root.values));
    CHECK_THROWS(RINGPORT_BAD_ARCHIVE, one.string_at(root.remark));
}

void a_root_that_does_not_fit_is_none() {
    channel ends;
    ends.port1.post("short");
    ends.port1.post("");
    const message one = ends.port2.recv();
    CHECK_THROWS(RINGPORT_BAD_ARCHIVE, one.archived_root<record>());
    const message none = ends.port2.recv();
    CHECK_THROWS(RINGPORT_BAD_ARCHIVE, none.archived_root<std::uint32_t>());
}

} // namespace

int main() {
    return check::run("cpp_archive", what_was_archived_is_read, an_archive_that_leads_out_of_the_message_is_none,
                      a_root_that_does_not_fit_is_none);
}
