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
#[inline(always)]
pub unsafe fn fill_at(start: *mut u8, length: usize, sequence: u64) {
    #[cfg(target_arch = "x86_64")]
    if length >= LONG && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what it needs; for the rest the caller vouches.
        return unsafe { fill_wide(start, length, sequence) };
    }
    // SAFETY: the caller vouches for it.
    unsafe { fill_words(start, length, sequence) }
}

/// Payloads from here on are written and read in the widest steps there are, as `memcpy` does it. Whoever makes
/// long messages makes them so.
const LONG: usize = 4096;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn fill_wide(start: *mut u8, length: usize, sequence: u64) {
    // SAFETY: the caller vouches for it.
    unsafe { fill_words(start, length, sequence) }
}

#[inline(always)]
unsafe fn fill_words(start: *mut u8, length: usize, sequence: u64) {
    for at in 0..length / 8 {
        let word = sequence.wrapping_add(STEP.wrapping_mul(at as u64));
        // SAFETY: within the length, of which the caller said that it may be written.
        unsafe { start.cast::<u64>().add(at).write_unaligned(word.to_le()) };
    }
}

/// Reads all words of a message and adds them up.
#[inline(always)]
pub fn sum(payload: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if payload.len() >= LONG && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what it needs.
        return unsafe { sum_wide(payload) };
    }
    sum_words(payload)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_wide(payload: &[u8]) -> u64 {
    sum_words(payload)
}

#[inline(always)]
fn sum_words(payload: &[u8]) -> u64 {
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
