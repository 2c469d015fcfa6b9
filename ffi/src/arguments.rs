//! What C hands over, looked at before it is used: the one place for NULL, sizes and timeouts.

use crate::failure::{Answer, Failure};
use crate::status::*;
use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::time::Duration;

/// What a pointer leads to. NULL is an error that names it.
#[inline(always)]
pub(crate) unsafe fn given<'a, T>(pointer: *const T, name: &'static str) -> Answer<&'a T> {
    pointer.as_ref().ok_or_else(|| null(name))
}

/// The same for what the call changes: nobody else uses it meanwhile.
#[inline(always)]
pub(crate) unsafe fn given_mut<'a, T>(pointer: *mut T, name: &'static str) -> Answer<&'a mut T> {
    pointer.as_mut().ok_or_else(|| null(name))
}

/// Where an answer is to be written. NULL is an error that names it.
#[inline(always)]
pub(crate) unsafe fn output<'a, T>(pointer: *mut T, name: &'static str) -> Answer<Output<'a, T>> {
    if pointer.is_null() {
        return Err(null(name));
    }
    Ok(Output(pointer, std::marker::PhantomData))
}

/// It need not be initialised, so no reference to it is made.
pub(crate) struct Output<'a, T>(*mut T, std::marker::PhantomData<&'a mut T>);

impl<T> Output<'_, T> {
    #[inline(always)]
    pub(crate) fn write(self, value: T) {
        // SAFETY: not NULL, so, as the caller has promised, valid for one value.
        unsafe { self.0.write(value) }
    }
}

#[cold]
pub(crate) fn null(name: &'static str) -> Failure {
    Failure::new(RINGPORT_NULL, format!("`{name}` is NULL"))
}

/// Bytes, which may be at NULL if there are none.
#[inline(always)]
pub(crate) unsafe fn bytes<'a>(data: *const c_void, len: usize) -> Answer<&'a [u8]> {
    slice(data.cast(), len, "data")
}

/// Where bytes are, which others may write meanwhile: so they are not looked at through a reference.
pub(crate) fn area(data: *const c_void, len: usize) -> Answer<*const [u8]> {
    if data.is_null() && len != 0 {
        return Err(null("data"));
    }
    Ok(std::ptr::slice_from_raw_parts(data.cast(), len))
}

/// Several of a kind, which may be at NULL if there are none.
#[inline(always)]
pub(crate) unsafe fn slice<'a, T>(
    first: *const T,
    count: usize,
    name: &'static str,
) -> Answer<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    if first.is_null() {
        return Err(null(name));
    }
    if count > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(too_many(count, name));
    }
    Ok(std::slice::from_raw_parts(first, count))
}

#[cold]
fn too_many(count: usize, name: &'static str) -> Failure {
    Failure::new(
        RINGPORT_TOO_LARGE,
        format!("{count} of `{name}` are more than fit an address space"),
    )
}

/// A string that ends with NUL.
pub(crate) unsafe fn string<'a>(text: *const c_char, name: &'static str) -> Answer<&'a CStr> {
    if text.is_null() {
        return Err(null(name));
    }
    Ok(CStr::from_ptr(text))
}

/// How long a call waits.
pub(crate) enum Patience {
    Endless,
    None,
    For(Duration),
}

#[inline(always)]
pub(crate) fn patience(timeout_ns: i64) -> Patience {
    match timeout_ns {
        0 => Patience::None,
        1.. => Patience::For(Duration::from_nanos(timeout_ns.unsigned_abs())),
        _ => Patience::Endless,
    }
}

impl Patience {
    /// `None`: as long as it takes.
    pub(crate) fn limit(self) -> Option<Duration> {
        match self {
            Patience::Endless => None,
            Patience::None => Some(Duration::ZERO),
            Patience::For(time) => Some(time),
        }
    }
}

/// A struct that begins with its own size.
pub(crate) trait Measured {
    const NAME: &'static str;
}

/// The options, if there are any. Their first member is read before the rest of them.
pub(crate) unsafe fn options<'a, T: Measured>(pointer: *const T) -> Answer<Option<&'a T>> {
    if pointer.is_null() {
        return Ok(None);
    }
    check_size::<T>(pointer.cast::<usize>().read())?;
    Ok(Some(&*pointer))
}

/// As this version has the first of each struct, there is one size. A later version knows the earlier ones too.
pub(crate) fn check_size<T: Measured>(size: usize) -> Answer<()> {
    let right = size_of::<T>();
    if size == right {
        return Ok(());
    }
    Err(Failure::new(
        RINGPORT_BAD_SIZE,
        format!(
            "the size of a {} is {right}, not {size}: begin with its _INIT macro",
            T::NAME
        ),
    ))
}

pub(crate) fn invalid(what: fmt::Arguments<'_>) -> Failure {
    Failure::new(RINGPORT_INVALID, what.to_string())
}
