//! The floor of long payloads: `memcpy` of the same size in one process, from one half of as much shared
//! memory as the ring has to the other half.

use std::hint::black_box;
use std::ptr;

use super::calls::{self, Mapping};
use super::clock::Nobody;
use super::{Waiting, lead};

/// The lead of a contender that copies `length` bytes a unit, and is alone.
pub fn run(length: usize, capacity: usize) {
    let file = calls::memory_file();
    calls::set_length(&file, capacity);
    let memory = Mapping::map(&file, capacity);
    let half = capacity / 2;
    assert!(length <= half);
    // SAFETY: the mapping has so many bytes, and nobody else has it.
    unsafe { ptr::write_bytes(memory.start(), 7, capacity) };
    let mut at = 0;
    lead(&mut Nobody, Waiting::Spin, |units| {
        for _ in 0..units {
            // SAFETY: `at + length` is at most `half`, so these lie in the first half and in the second.
            unsafe {
                let from = memory.start().add(at);
                ptr::copy_nonoverlapping(black_box(from), from.add(half), black_box(length));
            }
            at += length;
            if at + length > half {
                at = 0;
            }
        }
        String::new()
    });
    // SAFETY: the mapping has so many bytes, and nobody else has it.
    let last = unsafe { memory.start().add(half).read() };
    assert_eq!(last, 7);
    memory.unmap();
}
