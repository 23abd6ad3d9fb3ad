use super::{KnapsackError, KnapsackModels, KnapsackStr, at, give, sized};
use crate::core::{Answer, AnswerOptions, Code, Error, Result, guard};
use knapsack_runtime::CancelFlag;
use knapsack_runtime::text::{Message, Role};
use std::ffi::c_void;

/// Most messages of a conversation, and most stop strings.
const MAX_ITEMS: usize = 1 << 20;

/// A flag that ends a running call.
pub struct KnapsackCancel(pub(super) CancelFlag);

/// One turn.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KnapsackMessage {
    /// 0 system, 1 user, 2 assistant, 3 tool.
    pub role: u32,
    /// What was said.
    pub content: KnapsackStr,
}

/// How one answer is generated.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KnapsackOptions {
    /// Of this struct.
    pub size: usize,
    /// Or 0.
    pub max_tokens: u32,
    /// Or not a number.
    pub temperature: f32,
    /// Or not a number.
    pub top_p: f32,
    /// Or not a number.
    pub repetition_penalty: f32,
    /// Or not a number.
    pub presence_penalty: f32,
    /// Or not a number.
    pub frequency_penalty: f32,
    /// Whether `seed` is set.
    pub has_seed: bool,
    /// Gives the same answer each time.
    pub seed: u64,
    /// Strings that end the answer.
    pub stop: *const KnapsackStr,
    /// Entries of `stop`.
    pub stop_count: usize,
    /// 0 drops the oldest turns, 1 fails.
    pub when_full: u32,
}

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
}

/// A piece of text; false ends the answer.
pub type KnapsackOnText = unsafe extern "C" fn(context: *mut c_void, text: KnapsackStr) -> bool;

impl KnapsackOptions {
    const UNSET: Self = Self {
        size: size_of::<Self>(),
        max_tokens: 0,
        temperature: f32::NAN,
        top_p: f32::NAN,
        repetition_penalty: f32::NAN,
        presence_penalty: f32::NAN,
        frequency_penalty: f32::NAN,
        has_seed: false,
        seed: 0,
        stop: std::ptr::null(),
        stop_count: 0,
        when_full: 0,
    };

    unsafe fn options(&self) -> Result<AnswerOptions> {
        let set = |value: f32| (!value.is_nan()).then_some(value);
        Ok(AnswerOptions {
            max_tokens: (self.max_tokens > 0).then_some(self.max_tokens),
            temperature: set(self.temperature),
            top_p: set(self.top_p),
            repetition_penalty: set(self.repetition_penalty),
            presence_penalty: set(self.presence_penalty),
            frequency_penalty: set(self.frequency_penalty),
            seed: self.has_seed.then_some(self.seed),
            // SAFETY: an array of the caller's, alive for the call.
            stop: unsafe { list(self.stop, self.stop_count)? }
                .iter()
                // SAFETY: so are its strings.
                .map(|stop| Ok(unsafe { stop.text() }?.to_owned()))
                .collect::<Result<_>>()?,
            fail_when_full: match self.when_full {
                0 => false,
                1 => true,
                other => return Err(Error::new(Code::InvalidArgument, format!("when_full {other}"))),
            },
        })
    }
}

/// The role of that number.
pub(crate) fn role(number: u32) -> Result<Role> {
    let roles = [Role::System, Role::User, Role::Assistant, Role::Tool];
    roles.get(number as usize).copied().ok_or_else(|| Error::new(Code::InvalidArgument, format!("role {number}")))
}

/// An array of the caller's.
unsafe fn list<'a, T>(data: *const T, count: usize) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    if data.is_null() || count > MAX_ITEMS {
        return Err(Error::new(Code::InvalidArgument, format!("an array of {count} elements at {data:p}")));
    }
    // SAFETY: the caller's array, not null, of a sane length.
    Ok(unsafe { std::slice::from_raw_parts(data, count) })
}

fn outcome(answer: &Answer, size: usize) -> KnapsackAnswer {
    let stats = answer.stats;
    KnapsackAnswer {
        size,
        finish: answer.finish as u32,
        prompt_tokens: stats.prompt_tokens as u64,
        reused_tokens: stats.reused_tokens as u64,
        generated_tokens: stats.generated_tokens as u64,
        dropped_messages: stats.dropped_messages as u64,
        prefill_ns: stats.prefill_time.as_nanos() as u64,
        decode_ns: stats.decode_time.as_nanos() as u64,
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
    messages: *const KnapsackMessage,
    count: usize,
    options: *const KnapsackOptions,
    cancel: *const KnapsackCancel,
    on_text: KnapsackOnText,
    context: *mut c_void,
    answer: *mut KnapsackAnswer,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: live handles, arrays and strings of the caller's that are alive for the call, the caller's callback.
    let answered = guard(|| unsafe {
        let messages = list(messages, count)?
            .iter()
            .map(|message| Ok(Message::new(role(message.role)?, message.content.text()?)))
            .collect::<Result<Vec<_>>>()?;
        let options = sized(options, size_of::<KnapsackOptions>(), KnapsackOptions::UNSET)?.options()?;
        at(models)?.0.answer(id.text()?, &messages, &options, &at(cancel)?.0, &mut |piece| {
            on_text(context, KnapsackStr::new(piece))
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
