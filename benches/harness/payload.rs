//! Payloads that are different each time, all of whose words are written by the producer and read by
//! the consumer, and whose sum both know.

/// Between neighbouring words, so that no two of a message are alike.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The words of message `sequence`.
pub fn words<const COUNT: usize>(sequence: u64) -> [u64; COUNT] {
    std::array::from_fn(|at| sequence.wrapping_add(STEP.wrapping_mul(at as u64)))
}

/// Writes all words of message `sequence`; the length is a multiple of 8.
pub fn fill(payload: &mut [u8], sequence: u64) {
    let mut word = sequence;
    for place in payload.chunks_exact_mut(8) {
        place.copy_from_slice(&word.to_le_bytes());
        word = word.wrapping_add(STEP);
    }
}

/// The same, of so many bytes at a place that is shared with another process.
///
/// # Safety
///
/// So many bytes from there on may be written.
pub unsafe fn fill_at(start: *mut u8, length: usize, sequence: u64) {
    let mut word = sequence;
    for at in 0..length / 8 {
        // SAFETY: within the length, of which the caller said that it may be written.
        unsafe { start.cast::<u64>().add(at).write_unaligned(word.to_le()) };
        word = word.wrapping_add(STEP);
    }
}

/// Reads all words of a message and adds them up.
pub fn sum(payload: &[u8]) -> u64 {
    let words = payload
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    words.fold(0, u64::wrapping_add)
}

/// What [`sum`] must give, in total, for `count` messages of `length` bytes, the first of which has
/// the number `sequence`.
pub fn expected(length: usize, sequence: u64, count: u64) -> u64 {
    let words = length as u64 / 8;
    let numbers = sequence as u128 * count as u128 + triangle(count);
    let steps = (STEP as u128).wrapping_mul(triangle(words)) as u64;
    (numbers as u64)
        .wrapping_mul(words)
        .wrapping_add(steps.wrapping_mul(count))
}

/// 0 + 1 + … + (count − 1).
fn triangle(count: u64) -> u128 {
    count as u128 * (count as u128).saturating_sub(1) / 2
}
