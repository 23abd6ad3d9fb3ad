use super::{KnapsackError, KnapsackModels, KnapsackStr, at, give};
use crate::core::{Answer, Code, Error, Result, guard};
use knapsack_runtime::{CancelFlag, ContextPolicy};
use std::ffi::c_void;
use std::path::Path;

/// A flag that ends a running call.
pub struct KnapsackCancel(pub(super) CancelFlag);

/// An answer; its text was streamed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct KnapsackAnswer {
    /// Of this struct.
    pub size: usize,
    /// 0 stop, 1 length, 2 cancelled, 3 background.
    pub finish: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Those that were in the cache.
    pub reused_tokens: u64,
    /// Tokens of the answer.
    pub generated_tokens: u64,
    /// Messages that were left out.
    pub dropped_messages: u64,
    /// Nanoseconds.
    pub prefill_ns: u64,
    /// Nanoseconds.
    pub decode_ns: u64,
    /// Those of the answer's tokens that the model thought with.
    pub thinking_tokens: u64,
}

/// A piece of an answer; false ends it.
pub type KnapsackOnPiece = unsafe extern "C" fn(context: *mut c_void, kind: u32, text: KnapsackStr) -> bool;
/// An event; false ends the answer.
pub type KnapsackOnText = unsafe extern "C" fn(context: *mut c_void, text: KnapsackStr) -> bool;

/// What a conversation that has outgrown the context does, by its number.
pub(crate) fn context_policy(number: u32) -> Result<ContextPolicy> {
    match number {
        0 => Ok(ContextPolicy::DropOldest),
        1 => Ok(ContextPolicy::Fail),
        other => Err(Error::new(Code::InvalidArgument, format!("when_full {other}"))),
    }
}

fn outcome(answer: &Answer, size: usize) -> KnapsackAnswer {
    let stats = answer.stats;
    KnapsackAnswer {
        size,
        finish: answer.finish_number(),
        prompt_tokens: stats.prompt_tokens as u64,
        reused_tokens: stats.reused_tokens as u64,
        generated_tokens: stats.generated_tokens as u64,
        dropped_messages: stats.dropped_messages as u64,
        prefill_ns: stats.prefill_time.as_nanos() as u64,
        decode_ns: stats.decode_time.as_nanos() as u64,
        thinking_tokens: stats.thinking_tokens as u64,
    }
}

/// Answers a conversation.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_answer(
    models: *const KnapsackModels,
    id: KnapsackStr,
    request: KnapsackStr,
    when_full: u32,
    cancel: *const KnapsackCancel,
    on_piece: KnapsackOnPiece,
    context: *mut c_void,
    answer: *mut KnapsackAnswer,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: live handles, strings of the caller's that are alive for the call, the caller's callback.
    let answered = guard(|| unsafe {
        let when_full = context_policy(when_full)?;
        at(models)?.0.answer(id.text()?, request.text()?, when_full, &at(cancel)?.0, &mut |piece| {
            let (kind, text) = piece.parts();
            on_piece(context, kind, KnapsackStr::new(text))
        })
    });
    // SAFETY: the caller's places for an error and an answer, of the size that it says.
    unsafe {
        let Some(answered) = give(answered, error) else { return false };
        if let Some(place) = answer.as_mut() {
            let size = place.size;
            let value = outcome(&answered, size);
            let length = size.min(size_of::<KnapsackAnswer>());
            std::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), answer.cast::<u8>(), length);
        }
        true
    }
}

/// Writes what is computed of a conversation into a file.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_save_state(
    models: *const KnapsackModels,
    id: KnapsackStr,
    request: KnapsackStr,
    when_full: u32,
    file: KnapsackStr,
    cancel: *const KnapsackCancel,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: live handles, strings of the caller's that are alive for the call, a place for an error.
    unsafe {
        let outcome = guard(|| {
            let (when_full, file) = (context_policy(when_full)?, Path::new(file.text()?));
            at(models)?.0.save_state(id.text()?, request.text()?, when_full, file, &at(cancel)?.0)
        });
        give(outcome, error).is_some()
    }
}

/// Takes what was written so.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_restore_state(
    models: *const KnapsackModels,
    id: KnapsackStr,
    file: KnapsackStr,
    cancel: *const KnapsackCancel,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: live handles, strings of the caller's that are alive for the call, a place for an error.
    unsafe {
        let outcome = guard(|| at(models)?.0.restore_state(id.text()?, Path::new(file.text()?), &at(cancel)?.0));
        give(outcome, error).is_some()
    }
}

/// Answers a request of OpenAI's chat completions.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_complete(
    models: *const KnapsackModels,
    request: KnapsackStr,
    cancel: *const KnapsackCancel,
    on_event: KnapsackOnText,
    context: *mut c_void,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: live handles, a string of the caller's, the caller's callback, a place for an error.
    unsafe {
        let outcome = guard(|| {
            at(models)?
                .0
                .complete(request.text()?, &at(cancel)?.0, &mut |event| on_event(context, KnapsackStr::new(event)))
        });
        give(outcome, error).is_some()
    }
}

/// A flag that is down.
#[unsafe(no_mangle)]
pub extern "C" fn knapsack_cancel_new() -> *mut KnapsackCancel {
    Box::into_raw(Box::new(KnapsackCancel(CancelFlag::new())))
}

/// Raises it.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_cancel_raise(cancel: *const KnapsackCancel) {
    // SAFETY: a live flag.
    if let Some(flag) = unsafe { cancel.as_ref() } {
        flag.0.cancel();
    }
}

/// Frees it.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_cancel_free(cancel: *mut KnapsackCancel) {
    if !cancel.is_null() {
        // SAFETY: from `knapsack_cancel_new`, freed once.
        drop(unsafe { Box::from_raw(cancel) });
    }
}
