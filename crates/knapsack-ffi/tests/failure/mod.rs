//! Errors as the C interface gives them.

use knapsack::c::*;
use std::ptr::null_mut;

/// A failure, taken apart.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u32,
    pub(crate) message: String,
    pub(crate) numbers: [u64; 2],
    pub(crate) holders: Vec<(String, u32)>,
}

/// Takes an error and frees it.
pub(crate) unsafe fn failure(error: *mut KnapsackError) -> Failure {
    unsafe {
        assert!(!error.is_null(), "failed without an error");
        let mut holders = Vec::new();
        let mut holder = KnapsackHolder { model_id: KnapsackStr::new(""), bytes: 0, how: 0 };
        while knapsack_error_holder(error, holders.len(), &mut holder) {
            holders.push((holder.model_id.text().unwrap().to_owned(), holder.how));
        }
        let found = Failure {
            code: knapsack_error_code(error),
            message: knapsack_error_message(error).text().unwrap().to_owned(),
            numbers: [knapsack_error_number(error, 0), knapsack_error_number(error, 1)],
            holders,
        };
        assert_eq!(knapsack_error_number(error, 2), 0);
        knapsack_error_free(error);
        found
    }
}

/// Calls a function that takes an error last.
pub(crate) fn call(body: impl FnOnce(*mut *mut KnapsackError) -> bool) -> Result<(), Failure> {
    let mut error = null_mut();
    if body(&mut error) { Ok(()) } else { Err(unsafe { failure(error) }) }
}
