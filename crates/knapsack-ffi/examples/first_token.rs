//! From nothing to the first token through the C interface, to be held against `knapsack run --max-tokens 1`.
//!
//!   first_token BUNDLE LIBRARY PROMPT

#![allow(unsafe_code, reason = "it calls the C ABI as C does")]

use knapsack::c::*;
use serde_json::json;
use std::ffi::c_void;
use std::ptr::{null, null_mut};

unsafe extern "C" fn on_model(context: *mut c_void, model: *const KnapsackModelInfo) {
    // SAFETY: the context is the string below, the model is alive for the call.
    unsafe { *context.cast::<String>() = (*model).id.text().expect("UTF-8").to_owned() };
}

unsafe extern "C" fn on_piece(_: *mut c_void, _: u32, text: KnapsackStr) -> bool {
    // SAFETY: the text is alive for the call.
    println!("{}", unsafe { text.text() }.expect("UTF-8"));
    true
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, bundle, library, prompt] = &arguments[..] else { panic!("first_token BUNDLE LIBRARY PROMPT") };
    let none = KnapsackStr::new("");
    let open = KnapsackOpen {
        size: size_of::<KnapsackOpen>(),
        bundle: KnapsackStr::new(bundle),
        table: null(),
        library: KnapsackStr::new(library),
        storage: none,
        budget: 0,
        background: 0,
        transport: KnapsackTransport { context: null_mut(), get: None, read: None, end: None },
        on_event: None,
        event_context: null_mut(),
    };
    let messages = json!([{ "role": "user", "content": prompt }]);
    let request = json!({ "messages": messages, "max_tokens": 1, "temperature": 0 }).to_string();
    let mut answer = KnapsackAnswer { size: size_of::<KnapsackAnswer>(), ..KnapsackAnswer::default() };
    let mut model = String::new();
    // SAFETY: everything that is pointed to lives until the end of this function.
    let answered = unsafe {
        let models = knapsack_open(&raw const open, null_mut());
        assert!(!models.is_null(), "the package does not open");
        assert!(knapsack_models(models, on_model, (&raw mut model).cast(), null_mut()));
        let (id, cancel) = (KnapsackStr::new(&model), knapsack_cancel_new());
        let (request, answer) = (KnapsackStr::new(&request), &raw mut answer);
        knapsack_answer(models, id, request, 0, cancel, on_piece, null_mut(), answer, null_mut())
    };
    assert!(answered && answer.generated_tokens == 1, "no token");
}
