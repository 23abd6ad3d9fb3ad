//! The C ABI; what each function does stands in `include/knapsack.h`.
//!
//! Safety, for all of it: what a pointer names is alive and of its type for the whole call (the header's rules), a handle came
//! from here and was not freed, and callbacks keep to their types.

mod answer;
mod error;
mod log;
mod models;
mod transport;

pub use answer::{
    KnapsackAnswer, KnapsackCancel, KnapsackOnPiece, KnapsackOnText, knapsack_answer, knapsack_cancel_free,
    knapsack_cancel_new, knapsack_cancel_raise, knapsack_complete, knapsack_restore_state, knapsack_save_state,
};
pub use error::{
    KnapsackError, KnapsackHolder, knapsack_error_code, knapsack_error_free, knapsack_error_holder,
    knapsack_error_message, knapsack_error_number,
};
pub use log::{KnapsackOnLog, knapsack_set_log};
pub use models::{
    KnapsackModelInfo, KnapsackModels, KnapsackOnEvent, KnapsackOnModel, KnapsackOnProgress, KnapsackOnWanted,
    KnapsackOpen, KnapsackState, KnapsackWanted, knapsack_adopt, knapsack_close, knapsack_fits, knapsack_load,
    knapsack_memory_pressure, knapsack_models, knapsack_open, knapsack_pause, knapsack_pin, knapsack_place,
    knapsack_place_range, knapsack_prepare, knapsack_remove, knapsack_resume, knapsack_set_budget, knapsack_state,
    knapsack_unload, knapsack_verify, knapsack_wanted,
};
pub use transport::{KnapsackEnd, KnapsackGet, KnapsackRead, KnapsackTransport};

#[cfg(feature = "jni")]
pub(crate) use {answer::context_policy, models::number_of, models::state_numbers};

use crate::core::{Code, Error, Result};

/// Version of this interface; wrappers that were made for another one refuse to go on.
pub const ABI_VERSION: u32 = 3;

/// UTF-8 with a length.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KnapsackStr {
    /// First byte; may be null when there is none.
    pub data: *const u8,
    /// Bytes of the text, without an end mark.
    pub len: usize,
}

impl KnapsackStr {
    /// Points to `text`, which must outlive its use.
    pub const fn new(text: &str) -> Self {
        Self { data: text.as_ptr(), len: text.len() }
    }

    /// The text, where it is UTF-8.
    ///
    /// # Errors
    /// It is not UTF-8.
    ///
    /// # Safety
    /// The bytes are alive for `'a`.
    pub unsafe fn text<'a>(self) -> Result<&'a str> {
        if self.len == 0 {
            return Ok("");
        }
        if self.data.is_null() || self.len > isize::MAX as usize {
            return Err(Error::new(Code::InvalidArgument, "a string has a length and no bytes"));
        }
        // SAFETY: the caller promises that the bytes are alive, and there are at most `isize::MAX` of them.
        let bytes = unsafe { std::slice::from_raw_parts(self.data, self.len) };
        std::str::from_utf8(bytes).map_err(|_| Error::new(Code::InvalidArgument, "a string is not UTF-8"))
    }
}

/// Version of this interface.
#[unsafe(no_mangle)]
pub extern "C" fn knapsack_abi_version() -> u32 {
    ABI_VERSION
}

/// What a pointer names.
///
/// # Errors
/// It is null.
///
/// # Safety
/// It is null, or names a live `T` for `'a`.
unsafe fn at<'a, T>(pointer: *const T) -> Result<&'a T> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or_else(|| Error::new(Code::InvalidArgument, "a pointer is null"))
}

/// Hands a failure out; whether there was none.
///
/// # Safety
/// `error` is null or may be written to.
unsafe fn give<T>(result: Result<T>, error: *mut *mut KnapsackError) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(failure) => {
            if !error.is_null() {
                // SAFETY: not null, and the caller lets us write.
                unsafe { *error = Box::into_raw(Box::new(KnapsackError::new(failure))) };
            }
            None
        }
    }
}

/// A size-prefixed struct as this version knows it: what an older caller does not have is as in `fallback`.
///
/// # Errors
/// A null pointer, or a size below the first version's.
///
/// # Safety
/// `pointer` is null or names as many bytes as its first field says, which are those of a `T` of some version.
unsafe fn sized<T: Copy>(pointer: *const T, least: usize, fallback: T) -> Result<T> {
    if pointer.is_null() {
        return Err(Error::new(Code::InvalidArgument, "a pointer is null"));
    }
    // SAFETY: every version begins with its size.
    let size = unsafe { pointer.cast::<usize>().read() };
    if size < least {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("a struct of {size} bytes is smaller than any version's"),
        ));
    }
    let mut value = fallback;
    // SAFETY: both are at least so long, and do not overlap, because one is on this stack.
    unsafe {
        let length = size.min(size_of::<T>());
        std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), std::ptr::from_mut(&mut value).cast::<u8>(), length);
    }
    Ok(value)
}
