use super::KnapsackStr;
use super::models::Context;
use crate::core::{guard, log};
use std::ffi::c_void;
use std::sync::Arc;

/// A line of the log.
pub type KnapsackOnLog = unsafe extern "C" fn(context: *mut c_void, level: u32, part: KnapsackStr, text: KnapsackStr);

/// Gives the log to the app.
///
/// # Safety
/// See the module; the context outlives the process, or the next call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_set_log(level: u32, on_log: Option<KnapsackOnLog>, context: *mut c_void) {
    let context = Context(context);
    let sink = on_log.map(|on_log| -> log::Sink {
        Arc::new(move |level, part, text| {
            let context = &context;
            // SAFETY: the app's own callback, with the context that came with it.
            unsafe { on_log(context.0, level, KnapsackStr::new(part), KnapsackStr::new(text)) };
        })
    });
    let _ = guard(|| {
        log::set(level, sink);
        Ok(())
    });
}
