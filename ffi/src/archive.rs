//! Reading what Rust has serialised, and writing what it can read: rkyv 0.8 archives in its default format, which are little-
//! endian structs with relative pointers of 32 bits.

use crate::arguments::{area, bytes, null, output};
use crate::failure::{Answer, Failure, answer};
use crate::status::*;
use ringport_rs::rkyv;
use rkyv::string::ArchivedString;
use std::ffi::{c_char, c_void};

/// Bytes of an archived string, and of an archived vector or boxed slice.
const REFERENCE: usize = 8;
/// Bytes of a relative pointer.
const POINTER: usize = 4;
/// What they are aligned to.
const REFERENCE_ALIGN: usize = 4;
/// The longest string that lies in its eight bytes itself.
const INLINE: usize = 8;

/// ## Archives
///
/// Messages between Rust programs are rkyv 0.8 archives, which C can read and write. A derived struct is a C struct with the
/// fields in their order and with C's padding; the root of a message, the value that was posted, lies at its very end.
///
///     u8 … u64, i8 … i64, f32, f64    themselves, little-endian, aligned to their size
///     usize, isize                    32 bits
///     bool                            one byte, 0 or 1
///     char                            32 bits
///     String                          8 bytes aligned to 4: ringport_archived_string
///     Vec<T>, Box<[T]>                8 bytes aligned to 4: ringport_archived_slice
///     Box<T>                          4 bytes: ringport_archived_box
///     [T; N], tuples                  as in a struct
///     Option<T>                       one byte, 0 (None) or 1 (Some), padding, then the value
///     enum                            one byte, the number of the variant, padding, then its fields
///
/// What a value leads to (texts, elements, what is boxed) lies before it: in the order of its fields, each thing once; and what
/// elements lead to lies before the elements. Rust refuses an archive in which that is otherwise.
///
/// Finds the root of the archive that fills `data`: `root_size` bytes at its end, aligned to `root_align`, as `sizeof` and
/// `_Alignof` give them for the struct. Rust checks all of an archive; C checks what it follows, by these functions, and each
/// value that not every pattern of bits is (bool, enum). Answers RINGPORT_BAD_ARCHIVE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_archived_root(
    data: *const c_void,
    len: usize,
    root_size: usize,
    root_align: usize,
    root: *mut *const c_void,
) -> ringport_status {
    answer(|| {
        let (data, output) = (area(data, len)?, output(root, "root")?);
        let Some(start) = len.checked_sub(root_size) else {
            return Err(bad(format!(
                "{len} bytes are too short for a value of {root_size}"
            )));
        };
        let at = data.cast::<u8>().wrapping_add(start);
        check_align(at, root_align)?;
        output.write(at.cast());
        Ok(())
    })
}

/// Reads a string of an archive. `at` is where its 8 bytes are, inside `data`. `*text` points into `data`: UTF-8, `*text_len`
/// bytes, without a NUL at the end.
///
/// Answers RINGPORT_BAD_ARCHIVE if it does not lie in `data` as a whole, and before `at`, or is no UTF-8.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_archived_string(
    data: *const c_void,
    len: usize,
    at: *const c_void,
    text: *mut *const c_char,
    text_len: *mut usize,
) -> ringport_status {
    answer(|| {
        let data = bytes(data, len)?;
        let (text, text_len) = (output(text, "text")?, output(text_len, "text_len")?);
        let at = place(data, at, REFERENCE, "at")?;
        check_align(data.as_ptr().wrapping_add(at), REFERENCE_ALIGN)?;
        let found =
            rkyv::api::high::access_pos::<ArchivedString, rkyv::rancor::BoxedError>(data, at)
                .map_err(|error| bad(error.to_string()))?;
        text.write(found.as_ptr().cast());
        text_len.write(found.len());
        Ok(())
    })
}

/// Finds the elements of a vector or boxed slice of an archive. `at` is where its 8 bytes are, inside `data`; an element has
/// `element_size` bytes, aligned to `element_align`. `*elements` points into `data`, to `*count` of them. What is in them is
/// not looked at.
///
/// Answers RINGPORT_BAD_ARCHIVE if they do not lie in `data` as a whole, or not aligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_archived_slice(
    data: *const c_void,
    len: usize,
    at: *const c_void,
    element_size: usize,
    element_align: usize,
    elements: *mut *const c_void,
    count: *mut usize,
) -> ringport_status {
    answer(|| {
        let data = bytes(data, len)?;
        let (elements, output) = (output(elements, "elements")?, output(count, "count")?);
        let at = place(data, at, REFERENCE, "at")?;
        check_align(data.as_ptr().wrapping_add(at), REFERENCE_ALIGN)?;
        let (offset, found) = (word(data, at) as i32, word(data, at + POINTER));
        let size = (found as usize).checked_mul(element_size);
        let start = at.checked_add_signed(offset as isize);
        let inside = match (start, size) {
            (Some(start), Some(size)) => start <= len && size <= len - start,
            _ => false,
        };
        let Some(start) = start.filter(|_| inside) else {
            return Err(bad(format!(
                "{found} elements of {element_size} bytes, {offset} from byte {at} on, do not lie in {len} bytes"
            )));
        };
        let first = data.as_ptr().wrapping_add(start);
        check_align(first, element_align)?;
        elements.write(first.cast());
        output.write(found as usize);
        Ok(())
    })
}

/// Finds what a Box of an archive leads to. `at` is where its 4 bytes are, inside `data`; the value has `size` bytes, aligned to
/// `align`.
///
/// Answers RINGPORT_BAD_ARCHIVE if it does not lie in `data` as a whole, or not aligned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_archived_box(
    data: *const c_void,
    len: usize,
    at: *const c_void,
    size: usize,
    align: usize,
    value: *mut *const c_void,
) -> ringport_status {
    answer(|| {
        let (data, output) = (bytes(data, len)?, output(value, "value")?);
        let at = place(data, at, POINTER, "at")?;
        check_align(data.as_ptr().wrapping_add(at), REFERENCE_ALIGN)?;
        let offset = word(data, at) as i32;
        let start = at.checked_add_signed(offset as isize);
        let Some(start) = start.filter(|start| *start <= len && size <= len - start) else {
            return Err(bad(format!(
                "{size} bytes, {offset} from byte {at} on, do not lie in {len} bytes"
            )));
        };
        let first = data.as_ptr().wrapping_add(start);
        check_align(first, align)?;
        output.write(first.cast());
        Ok(())
    })
}

/// Writes the 8 bytes of a string to `at`, inside `data`, which is being filled. A text of up to 8 bytes is copied into them; a
/// longer one has to lie in `data` already.
///
/// Answers RINGPORT_BAD_ARCHIVE if `at` or the text does not lie in `data`, or `at` is not aligned to 4; RINGPORT_TOO_LARGE
/// for 1 GiB and more. Whether the text is UTF-8 is seen by who reads it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_archive_string(
    data: *mut c_void,
    len: usize,
    at: *mut c_void,
    text: *const c_char,
    text_len: usize,
) -> ringport_status {
    answer(|| {
        let from = target(data, len, at)?;
        if text_len <= INLINE {
            // What is left of the eight bytes is 0xff, which is in no text.
            let mut inline = [0xff; INLINE];
            inline[..text_len].copy_from_slice(bytes(text.cast(), text_len)?);
            at.cast::<[u8; INLINE]>().write_unaligned(inline);
            return Ok(());
        }
        if text_len >= 1 << 30 {
            return Err(too_long(text_len));
        }
        let to = place(area(data, len)?, text.cast(), text_len, "text")?;
        // The two upper bits of the first byte are 10 here, which begins no text.
        let n = text_len as u32;
        let marked = n & 0x3f | 0x80 | (n & !0x3f) << 2;
        write_words(at, marked, distance(from, to)?);
        Ok(())
    })
}

/// Writes the 8 bytes of a vector or boxed slice to `at`, inside `data`, which is being filled. Its `count` elements lie in
/// `data` from `elements` on, aligned as they need; if there are none, that is where they would lie.
///
/// Answers RINGPORT_BAD_ARCHIVE if `at` or the first element does not lie in `data`, or `at` is not aligned to 4;
/// RINGPORT_TOO_LARGE for more than 4 G elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_archive_slice(
    data: *mut c_void,
    len: usize,
    at: *mut c_void,
    elements: *const c_void,
    count: usize,
) -> ringport_status {
    answer(|| {
        let from = target(data, len, at)?;
        let Ok(n) = u32::try_from(count) else {
            return Err(too_long(count));
        };
        let to = place(
            area(data, len)?,
            elements,
            usize::from(count != 0),
            "elements",
        )?;
        write_words(at, distance(from, to)?, n);
        Ok(())
    })
}

/// Writes the 4 bytes of a Box to `at`, inside `data`, which is being filled: its value lies in `data` from `value` on.
///
/// Answers RINGPORT_BAD_ARCHIVE if `at` or the value does not lie in `data`, or `at` is not aligned to 4.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_archive_box(
    data: *mut c_void,
    len: usize,
    at: *mut c_void,
    value: *const c_void,
) -> ringport_status {
    answer(|| {
        let data = area(data, len)?;
        let from = place(data, at, POINTER, "at")?;
        check_align(at.cast(), REFERENCE_ALIGN)?;
        let to = place(data, value, 0, "value")?;
        at.cast::<u32>()
            .write_unaligned(distance(from, to)?.to_le());
        Ok(())
    })
}

/// Four bytes of `data`, which has them.
fn word(data: &[u8], at: usize) -> u32 {
    let mut word = [0; POINTER];
    word.copy_from_slice(&data[at..at + POINTER]);
    u32::from_le_bytes(word)
}

/// Where in `data` so many bytes from `at` on are.
fn place(data: *const [u8], at: *const c_void, size: usize, name: &'static str) -> Answer<usize> {
    if at.is_null() {
        return Err(null(name));
    }
    let start = data.cast::<u8>();
    let offset = (at as usize).wrapping_sub(start as usize);
    if offset <= data.len() && size <= data.len() - offset {
        return Ok(offset);
    }
    Err(bad(format!(
        "{size} bytes at {at:?} do not lie in the {} from {start:?} on",
        data.len()
    )))
}

/// Where in the `len` bytes of `data` a reference is to be written.
unsafe fn target(data: *mut c_void, len: usize, at: *mut c_void) -> Answer<usize> {
    let from = place(area(data, len)?, at, REFERENCE, "at")?;
    check_align(at.cast(), REFERENCE_ALIGN)?;
    Ok(from)
}

/// How far `to` lies ahead of `from`, as the archive has it.
fn distance(from: usize, to: usize) -> Answer<u32> {
    let distance = to as i64 - from as i64;
    match i32::try_from(distance) {
        Ok(distance) => Ok(distance as u32),
        Err(_) => Err(bad(format!(
            "{distance} bytes are too far for a relative pointer"
        ))),
    }
}

unsafe fn write_words(at: *mut c_void, first: u32, second: u32) {
    at.cast::<[u32; 2]>()
        .write_unaligned([first.to_le(), second.to_le()]);
}

fn check_align(at: *const u8, align: usize) -> Answer<()> {
    if align.is_power_of_two() && (at as usize) % align == 0 {
        return Ok(());
    }
    Err(bad(format!("{at:?} is not aligned to {align}")))
}

fn bad(what: String) -> Failure {
    Failure::new(RINGPORT_BAD_ARCHIVE, what)
}

fn too_long(len: usize) -> Failure {
    Failure::new(
        RINGPORT_TOO_LARGE,
        format!("{len} are more than an archive can hold"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rkyv::rancor::BoxedError;
    use rkyv::util::AlignedVec;
    use std::ptr;
    use std::slice;

    /// Lengths around what lies inline, and around where the length's own bits are split.
    const LENGTHS: [usize; 10] = [0, 1, 7, 8, 9, 63, 64, 65, 255, 70_000];

    fn text(len: usize) -> String {
        ('a'..='z').cycle().take(len).collect()
    }

    fn read(data: &[u8], at: usize) -> Result<&str, ringport_status> {
        let (mut start, mut len) = (ptr::null(), 0);
        let at = data.as_ptr().wrapping_add(at).cast();
        // SAFETY: the slice, and two outputs.
        let status = unsafe {
            ringport_archived_string(data.as_ptr().cast(), data.len(), at, &mut start, &mut len)
        };
        match status {
            // SAFETY: it says that there are so many bytes, inside `data`.
            RINGPORT_OK => {
                Ok(
                    std::str::from_utf8(unsafe { slice::from_raw_parts(start.cast(), len) })
                        .expect("UTF-8"),
                )
            }
            status => Err(status),
        }
    }

    #[test]
    fn strings_of_rust_are_read() {
        for len in LENGTHS {
            let archive = rkyv::to_bytes::<BoxedError>(&text(len)).expect("there is memory");
            let root = archive.len() - REFERENCE;
            assert_eq!(read(&archive, root), Ok(&*text(len)));
            for byte in 0..archive.len().min(100) {
                // Whatever is changed, it is some string inside, or an error.
                let mut changed = AlignedVec::<16>::new();
                changed.extend_from_slice(&archive);
                let at = archive.len() - 1 - byte;
                changed[at] ^= 0x80;
                let _ = read(&changed, root);
            }
            assert_eq!(read(&archive, root + 4), Err(RINGPORT_BAD_ARCHIVE));
            assert_eq!(read(&archive, usize::MAX), Err(RINGPORT_BAD_ARCHIVE));
        }
    }

    #[test]
    fn strings_and_slices_that_c_writes_are_read_by_rust() {
        for len in LENGTHS {
            let mut data = AlignedVec::<16>::new();
            data.extend_from_slice(text(len).as_bytes());
            data.resize(len.next_multiple_of(4) + REFERENCE, 0);
            let (start, size) = (data.as_mut_ptr(), data.len());
            let at = start.wrapping_add(size - REFERENCE);
            // SAFETY: the bytes of `data`, and places inside.
            let status = unsafe {
                ringport_archive_string(start.cast(), size, at.cast(), start.cast(), len)
            };
            assert_eq!(status, RINGPORT_OK);
            let found = rkyv::access::<ArchivedString, BoxedError>(&data).expect("a string");
            assert_eq!(found.as_str(), text(len));
            // SAFETY: as above.
            let status =
                unsafe { ringport_archive_slice(start.cast(), size, at.cast(), start.cast(), len) };
            assert_eq!(status, RINGPORT_OK);
            let found =
                rkyv::access::<rkyv::vec::ArchivedVec<u8>, BoxedError>(&data).expect("bytes");
            assert_eq!(found.as_slice(), text(len).as_bytes());
        }
    }

    #[test]
    fn slices_that_do_not_lie_inside_are_refused() {
        let numbers: Vec<u32> = (0..100).collect();
        let archive = rkyv::to_bytes::<BoxedError>(&numbers).expect("there is memory");
        let root = archive.len() - REFERENCE;
        let read = |data: &[u8], size: usize, align: usize| {
            let (mut first, mut count) = (ptr::null(), 0);
            let at = data.as_ptr().wrapping_add(root).cast();
            // SAFETY: the slice, and two outputs.
            let status = unsafe {
                ringport_archived_slice(
                    data.as_ptr().cast(),
                    data.len(),
                    at,
                    size,
                    align,
                    &mut first,
                    &mut count,
                )
            };
            (
                status,
                first.addr().wrapping_sub(data.as_ptr().addr()),
                count,
            )
        };
        assert_eq!(read(&archive, 4, 4), (RINGPORT_OK, 0, 100));
        assert_eq!(read(&archive, 8, 4).0, RINGPORT_BAD_ARCHIVE);
        assert_eq!(read(&archive, usize::MAX, 4).0, RINGPORT_BAD_ARCHIVE);
        assert_eq!(read(&archive, 4, 3).0, RINGPORT_BAD_ARCHIVE);
        for (at, bytes) in [
            (root, i32::MIN),
            (root, -(root as i32) - 1),
            (root, 9),
            (root + 4, -1),
            (root + 4, 103),
        ] {
            let mut changed = AlignedVec::<16>::new();
            changed.extend_from_slice(&archive);
            changed[at..at + 4].copy_from_slice(&bytes.to_le_bytes());
            assert_eq!(read(&changed, 4, 1).0, RINGPORT_BAD_ARCHIVE, "{at} {bytes}");
        }
    }
}
