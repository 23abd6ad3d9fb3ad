use super::KnapsackStr;
use crate::core::Error;
use crate::core::holding;

/// Why a function of this interface failed; to be freed with `knapsack_error_free`.
#[derive(Debug)]
pub struct KnapsackError(Error);

/// Who holds a part of the memory budget.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KnapsackHolder {
    /// The model that holds memory.
    pub model_id: KnapsackStr,
    /// Device memory that it holds.
    pub bytes: u64,
    /// 0 idle, 1 pinned, 2 in use, 3 loading.
    pub how: u32,
}

impl KnapsackError {
    pub(super) const fn new(error: Error) -> Self {
        Self(error)
    }
}

/// The number of its code in `knapsack.h`, 0 without an error.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_error_code(error: *const KnapsackError) -> u32 {
    // SAFETY: a live error.
    unsafe { error.as_ref() }.map_or(0, |error| error.0.code as u32)
}

/// Its text, which lives as long as the error.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_error_message(error: *const KnapsackError) -> KnapsackStr {
    // SAFETY: a live error.
    KnapsackStr::new(unsafe { error.as_ref() }.map_or("", |error| &error.0.message))
}

/// One of its two figures; 0 where there is none.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_error_number(error: *const KnapsackError, index: usize) -> u64 {
    // SAFETY: a live error.
    unsafe { error.as_ref() }.and_then(|error| error.0.numbers.get(index).copied()).unwrap_or(0)
}

/// One of those who hold the rest of the budget.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_error_holder(
    error: *const KnapsackError,
    index: usize,
    holder: *mut KnapsackHolder,
) -> bool {
    // SAFETY: a live error, and a place to write to.
    unsafe {
        let found = error.as_ref().and_then(|error| error.0.holders.get(index));
        let (Some(found), Some(place)) = (found, holder.as_mut()) else { return false };
        let how = holding(found.used);
        *place = KnapsackHolder { model_id: KnapsackStr::new(&found.model_id), bytes: found.bytes, how };
        true
    }
}

/// Frees it.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_error_free(error: *mut KnapsackError) {
    if !error.is_null() {
        // SAFETY: from `give`, and freed once.
        drop(unsafe { Box::from_raw(error) });
    }
}
