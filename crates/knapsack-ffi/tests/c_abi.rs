//! The C interface as a C program calls it: only its functions and structs, on a package of the tiny assistant.

#![cfg(all(unix, not(target_vendor = "apple")))]
#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "the tests call the C ABI as C does: with what it gave them, not freed before, and texts that outlive the call"
)]

mod failure;
mod saved_state;
mod support;

use failure::{Failure, call, failure};
use knapsack::c::*;
use knapsack_runtime::download::{HttpTransport, Transport};
use knapsack_testkit::hub::Fault;
use serde_json::{Value, json};
use std::ffi::c_void;
use std::io::Read;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use support::{MODEL, TOOLS_MODEL, World, world};

static WORLD: LazyLock<(tempfile::TempDir, World)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path());
    (folder, world)
});

fn s(text: &str) -> KnapsackStr {
    KnapsackStr::new(text)
}

struct Models(*mut KnapsackModels);

// The interface lets any thread use a handle.
unsafe impl Sync for Models {}
unsafe impl Send for Models {}

impl Drop for Models {
    fn drop(&mut self) {
        unsafe { knapsack_close(self.0) };
    }
}

struct Cancel(*mut KnapsackCancel);

unsafe impl Sync for Cancel {}

impl Cancel {
    fn new() -> Self {
        Self(knapsack_cancel_new())
    }

    fn raise(&self) {
        unsafe { knapsack_cancel_raise(self.0) };
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        unsafe { knapsack_cancel_free(self.0) };
    }
}

struct Setup<'a> {
    bundle: &'a Path,
    library: &'a Path,
    storage: &'a str,
    budget: u64,
    transport: KnapsackTransport,
    on_event: Option<KnapsackOnEvent>,
    event_context: *mut c_void,
}

const NO_TRANSPORT: KnapsackTransport = KnapsackTransport { context: null_mut(), get: None, read: None, end: None };

impl Setup<'_> {
    fn bundled() -> Self {
        let world = &WORLD.1;
        Self {
            bundle: &world.bundle,
            library: &world.library,
            storage: "",
            budget: 0,
            transport: NO_TRANSPORT,
            on_event: None,
            event_context: null_mut(),
        }
    }

    fn open(&self) -> Result<Models, Failure> {
        let open = KnapsackOpen {
            size: size_of::<KnapsackOpen>(),
            bundle: s(self.bundle.to_str().unwrap()),
            table: null(),
            library: s(self.library.to_str().unwrap()),
            storage: s(self.storage),
            budget: self.budget,
            background: 1,
            transport: self.transport,
            on_event: self.on_event,
            event_context: self.event_context,
        };
        let mut error = null_mut();
        let models = unsafe { knapsack_open(&open, &mut error) };
        if models.is_null() { Err(unsafe { failure(error) }) } else { Ok(Models(models)) }
    }
}

/// How an answer is asked for.
struct How {
    /// Fields of the request, besides its messages.
    fields: Value,
    when_full: u32,
}

/// The likeliest tokens, and what else the fields say.
fn how(fields: Value) -> How {
    let mut all = json!({ "temperature": 0, "seed": 7 });
    all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    How { fields: all, when_full: 0 }
}

fn options() -> How {
    how(json!({}))
}

type OnText<'a> = dyn FnMut(&str) -> bool + 'a;

unsafe extern "C" fn on_text(context: *mut c_void, text: KnapsackStr) -> bool {
    unsafe { (*context.cast::<&mut OnText<'_>>())(text.text().unwrap()) }
}

type OnPiece<'a> = dyn FnMut(u32, &str) -> bool + 'a;

unsafe extern "C" fn on_piece(context: *mut c_void, kind: u32, text: KnapsackStr) -> bool {
    unsafe { (*context.cast::<&mut OnPiece<'_>>())(kind, text.text().unwrap()) }
}

impl Models {
    /// An answer of nothing but text.
    fn answer(
        &self,
        turns: &[(u32, &str)],
        how: &How,
        cancel: &Cancel,
        each: &mut OnText<'_>,
    ) -> Result<KnapsackAnswer, Failure> {
        let roles = ["system", "user", "assistant", "tool"];
        let role = |number: u32| roles.get(number as usize).copied().unwrap_or("nobody");
        let turns: Vec<Value> =
            turns.iter().map(|(number, text)| json!({ "role": role(*number), "content": text })).collect();
        self.pieces(MODEL, &turns, how, cancel, &mut |kind, text| {
            assert_eq!(kind, 0, "{text}");
            each(text)
        })
    }

    fn pieces(
        &self,
        model: &str,
        turns: &[Value],
        how: &How,
        cancel: &Cancel,
        mut each: &mut OnPiece<'_>,
    ) -> Result<KnapsackAnswer, Failure> {
        let mut request = how.fields.clone();
        request["messages"] = turns.into();
        let request = request.to_string();
        let mut answer = KnapsackAnswer { size: size_of::<KnapsackAnswer>(), ..KnapsackAnswer::default() };
        let context = (&raw mut each).cast();
        call(|error| unsafe {
            let (request, when_full) = (s(&request), how.when_full);
            knapsack_answer(self.0, s(model), request, when_full, cancel.0, on_piece, context, &mut answer, error)
        })?;
        Ok(answer)
    }

    fn ask(&self, question: &str) -> (String, KnapsackAnswer) {
        let mut text = String::new();
        let answer = self.answer(&[(1, question)], &options(), &Cancel::new(), &mut |piece| {
            text.push_str(piece);
            true
        });
        (text, answer.unwrap())
    }

    fn complete(&self, request: &str, cancel: &Cancel) -> Result<Vec<String>, Failure> {
        let mut events = Vec::new();
        let mut push = |event: &str| {
            events.push(event.to_owned());
            true
        };
        let mut each: &mut OnText<'_> = &mut push;
        let (request, context) = (s(request), (&raw mut each).cast());
        call(|error| unsafe { knapsack_complete(self.0, request, cancel.0, on_text, context, error) })?;
        Ok(events)
    }

    fn load(&self) -> Result<(), Failure> {
        call(|error| unsafe { knapsack_load(self.0, s(MODEL), Cancel::new().0, error) })
    }

    /// Every file of the model, and whether it is here.
    fn wanted(&self) -> Vec<(String, bool)> {
        unsafe extern "C" fn wanted(context: *mut c_void, file: *const KnapsackWanted) {
            let files = unsafe { &mut *context.cast::<Vec<(String, bool)>>() };
            unsafe { files.push(((*file).path.text().unwrap().to_owned(), (*file).have)) };
        }
        let mut files: Vec<(String, bool)> = Vec::new();
        call(|error| unsafe { knapsack_wanted(self.0, s(MODEL), wanted, (&raw mut files).cast(), error) }).unwrap();
        files
    }

    fn verify(&self) -> Result<u64, Failure> {
        let mut wrong = u64::MAX;
        call(|error| unsafe { knapsack_verify(self.0, s(MODEL), &mut wrong, error) })?;
        Ok(wrong)
    }

    fn place(&self, path: &str, file: &Path) -> Result<bool, Failure> {
        let (mut complete, file) = (false, file.to_str().unwrap());
        call(|error| unsafe { knapsack_place(self.0, s(MODEL), s(path), s(file), &mut complete, error) })?;
        Ok(complete)
    }

    fn state(&self) -> KnapsackState {
        let mut state = KnapsackState::default();
        call(|error| unsafe { knapsack_state(self.0, s(MODEL), &mut state, error) }).unwrap();
        state
    }
}

const SUM: &str = "What is 37 plus 48?";

#[test]
fn the_tiny_assistant_answers() {
    let models = Setup::bundled().open().unwrap();
    unsafe extern "C" fn collect(context: *mut c_void, model: *const KnapsackModelInfo) {
        unsafe { (*context.cast::<Vec<KnapsackModelInfo>>()).push(*model) };
    }
    let mut list: Vec<KnapsackModelInfo> = Vec::new();
    call(|error| unsafe { knapsack_models(models.0, collect, (&raw mut list).cast(), error) }).unwrap();
    assert_eq!((list.len(), list[0].context, list[0].download), (1, 256, 0));
    assert!(list[0].memory > 1 << 20);
    assert_eq!(models.state().kind, 0);
    call(|error| unsafe { knapsack_fits(models.0, s(MODEL), error) }).unwrap();

    let (first, answer) = models.ask(SUM);
    assert!(first.contains("85"), "{first}");
    assert_eq!((answer.finish, answer.reused_tokens, answer.dropped_messages), (0, 0, 0));
    assert!(answer.prompt_tokens > 5 && answer.generated_tokens > 0 && answer.prefill_ns > 0 && answer.decode_ns > 0);
    // The second turn takes the first from the cache.
    let turns = [(1, SUM), (2, &*first), (1, "What is 2 plus 2?")];
    let answer = models.answer(&turns, &options(), &Cancel::new(), &mut |_| true).unwrap();
    assert!(answer.reused_tokens > 5, "{answer:?}");
    // A stop string, most tokens.
    let mut text = String::new();
    let answer = models.answer(&[(1, SUM)], &how(json!({ "stop": "8" })), &Cancel::new(), &mut |piece| {
        text += piece;
        true
    });
    assert!(answer.unwrap().finish == 0 && !text.contains('8'), "{text}");
    let answer = models.answer(&[(1, SUM)], &how(json!({ "max_tokens": 1 })), &Cancel::new(), &mut |_| true).unwrap();
    assert_eq!((answer.finish, answer.generated_tokens), (1, 1));
}

#[test]
fn every_mistake_has_its_number() {
    let world = &WORLD.1;
    let code = |outcome: Result<Models, Failure>| outcome.err().map(|failure| failure.code);
    assert_eq!(code(Setup { bundle: Path::new("/nowhere"), ..Setup::bundled() }.open()), Some(3));
    assert_eq!(code(Setup { library: Path::new("/nowhere.so"), ..Setup::bundled() }.open()), Some(5));
    assert_eq!(code(Setup { library: Path::new("libc.so.6"), ..Setup::bundled() }.open()), Some(5));
    let mut error = null_mut();
    unsafe {
        assert!(knapsack_open(null(), &mut error).is_null());
        assert_eq!(failure(error).code, 2);
        // Nobody wants to know.
        assert!(knapsack_open(null(), null_mut()).is_null());
        let old = KnapsackOpen { size: 8, ..std::mem::zeroed() };
        assert!(knapsack_open(&old, &mut error).is_null());
        assert_eq!(failure(error).code, 2);
        // No table at that address.
        let open = KnapsackOpen {
            size: size_of::<KnapsackOpen>(),
            bundle: s(world.bundle.to_str().unwrap()),
            table: [0u8; 64].as_ptr().cast(),
            ..std::mem::zeroed()
        };
        assert!(knapsack_open(&open, &mut error).is_null());
        assert_eq!(failure(error).code, 6);
        for nothing in [null_mut(), null_mut()] {
            knapsack_close(nothing);
            knapsack_error_free(null_mut());
            knapsack_cancel_free(null_mut());
            knapsack_cancel_raise(null());
            assert_eq!((knapsack_error_code(null()), knapsack_memory_pressure(null(), true)), (0, 0));
        }
        assert_eq!(call(|error| knapsack_fits(null(), s(MODEL), error)).unwrap_err().code, 2);
    }
    let models = Setup::bundled().open().unwrap();
    let nonsense = KnapsackStr { data: [0xff_u8, 0xfe].as_ptr(), len: 2 };
    let missing = KnapsackStr { data: null(), len: 2 };
    for (id, expected) in [(s("other"), 4), (s(""), 4), (nonsense, 2), (missing, 2)] {
        let failure = call(|error| unsafe { knapsack_load(models.0, id, Cancel::new().0, error) }).unwrap_err();
        assert_eq!(failure.code, expected, "{failure:?}");
    }
    let failed =
        |turns: &[(u32, &str)], how: How| models.answer(turns, &how, &Cancel::new(), &mut |_| true).unwrap_err();
    assert_eq!(failed(&[(9, "x")], options()).code, 2);
    assert_eq!(failed(&[(1, "x")], How { when_full: 2, ..options() }).code, 2);
    for fields in [
        json!({ "temperature": -1 }),
        json!({ "stop": ["1", "2", "3", "4", "5"] }),
        json!({ "absent": 1 }),
        json!({ "json_schema": { "not": {} } }),
        json!({ "tools": [{ "function": { "name": "f" } }] }),
        json!({ "chat_template_kwargs": { "enable_thinking": true } }),
    ] {
        assert_eq!(failed(&[(1, "x")], how(fields.clone())).code, 2, "{fields}");
    }
    let long = "What is 37 plus 48? ".repeat(100);
    let failure = failed(&[(1, &long)], How { when_full: 1, ..options() });
    assert!(failure.code == 14 && failure.numbers[0] > 256 && failure.numbers[1] == 256, "{failure:?}");
    // After all of that it still works.
    assert!(models.ask(SUM).0.contains("85"));
}

#[test]
fn openais_requests_are_answered() {
    let models = Setup::bundled().open().unwrap();
    let complete = |request: &str| models.complete(request, &Cancel::new());
    let whole = complete(r#"{"messages":[{"role":"user","content":"What is 37 plus 48?"}],"temperature":0}"#).unwrap();
    assert!(whole.len() == 1 && whole[0].contains("\"chat.completion\"") && whole[0].contains("85"), "{whole:?}");
    let streamed = r#"{"messages":[{"role":"user","content":"What is 37 plus 48?"}],"temperature":0,"stream":true}"#;
    let events = complete(streamed).unwrap();
    assert!(events.len() > 2 && events.iter().all(|event| event.contains("chat.completion.chunk")), "{events:?}");
    for (request, code) in
        [("{", 2), (r#"{"messages":[]}"#, 2), (r#"{"model":"other","messages":[{"role":"user","content":"x"}]}"#, 4)]
    {
        let failure = complete(request).unwrap_err();
        assert!(failure.code == code && failure.message.contains("\"error\""), "{request}: {failure:?}");
    }
}

/// A model whose template takes tools and begins thoughts when it is told to.
#[test]
fn thoughts_calls_and_forms() {
    let world = &WORLD.1;
    let models = Setup { bundle: &world.tools_bundle, library: &world.tools_library, ..Setup::bundled() };
    let models = models.open().unwrap();
    let mut turns = vec![json!({ "role": "user", "content": SUM })];
    let ask = |turns: &[Value], fields: Value| {
        let mut pieces: [Vec<String>; 4] = Default::default();
        let answer = models.pieces(TOOLS_MODEL, turns, &how(fields), &Cancel::new(), &mut |kind, text| {
            pieces[kind as usize].push(text.to_owned());
            true
        });
        (pieces, answer.unwrap())
    };
    let thinking =
        json!({ "chat_template_kwargs": { "enable_thinking": true }, "max_thinking_tokens": 5, "max_tokens": 40 });
    let ([text, thoughts, calls, tokens], answer) = ask(&turns, thinking);
    assert!(!thoughts.concat().is_empty() && !text.concat().is_empty() && calls.is_empty() && tokens.is_empty());
    assert!(answer.thinking_tokens >= 5 && answer.generated_tokens > answer.thinking_tokens, "{answer:?}");
    let ([text, ..], answer) = ask(&turns, json!({ "chat_template_kwargs": { "enable_thinking": false } }));
    assert!(text.concat().contains("85") && answer.thinking_tokens == 0, "{text:?}");

    let schema = json!({ "type": "object", "properties": { "a": { "enum": [37, 73] } }, "required": ["a"], "additionalProperties": false });
    let ([text, ..], _) = ask(&turns, json!({ "json_schema": schema }));
    let value: Value = serde_json::from_str(&text.concat()).unwrap();
    assert!([json!({ "a": 37 }), json!({ "a": 73 })].contains(&value), "{value}");

    let tools = json!([{ "type": "function", "function": { "name": "add", "parameters": schema } }]);
    let ([text, _, calls, _], answer) = ask(&turns, json!({ "tools": tools, "tool_choice": "required" }));
    assert!(text.is_empty() && calls.len() == 1 && answer.finish == 0, "{text:?} {calls:?}");
    let call: Value = serde_json::from_str(&calls[0]).unwrap();
    assert_eq!(call["function"]["name"], "add");
    turns.push(json!({ "role": "assistant", "content": null, "tool_calls": [call.clone()] }));
    turns.push(json!({ "role": "tool", "tool_call_id": call["id"], "content": "85" }));
    let ([text, _, calls, tokens], answer) =
        ask(&turns, json!({ "tools": tools, "tool_choice": "none", "logprobs": true, "top_logprobs": 2 }));
    assert!(calls.is_empty() && tokens.len() as u64 == answer.generated_tokens, "{answer:?}");
    let token = |token: &String| serde_json::from_str::<Value>(token).unwrap()["token"].as_str().unwrap().to_owned();
    assert_eq!(tokens.iter().map(token).collect::<String>(), text.concat());
}

#[test]
fn a_conversation_that_outgrows_the_context_loses_its_oldest_turns() {
    let models = Setup::bundled().open().unwrap();
    let turns: Vec<(u32, &str)> = (0..40).flat_map(|_| [(1, SUM), (2, "85")]).chain([(1, SUM)]).collect();
    let answer = models.answer(&turns, &how(json!({ "max_tokens": 20 })), &Cancel::new(), &mut |_| true).unwrap();
    assert!(answer.dropped_messages > 0 && answer.prompt_tokens <= 256, "{answer:?}");
}

#[test]
fn a_budget_that_is_too_small_is_said_with_figures() {
    let models = Setup { budget: 1000, ..Setup::bundled() }.open().unwrap();
    for _ in 0..2 {
        let failure = models.load().unwrap_err();
        assert_eq!((failure.code, failure.numbers[1]), (11, 1000), "{failure:?}");
        assert!(failure.numbers[0] > 1 << 20 && failure.holders.is_empty());
    }
    assert_eq!(call(|error| unsafe { knapsack_fits(models.0, s(MODEL), error) }).unwrap_err().code, 11);
    unsafe { knapsack_set_budget(models.0, 1 << 30) };
    assert!(models.ask(SUM).0.contains("85"));
}

/// Cancelled at every piece, from the callback and from another thread: it ends, the model is whole, the next answer is right.
#[test]
fn an_answer_can_be_ended_at_any_moment() {
    let models = Setup::bundled().open().unwrap();
    let (whole, _) = models.ask(SUM);
    for stop_after in 0..6 {
        let mut pieces = 0;
        let answer = models.answer(&[(1, SUM)], &options(), &Cancel::new(), &mut |_| {
            pieces += 1;
            pieces < stop_after
        });
        let answer = answer.unwrap();
        // Text that was held back for a stop string comes with the end, which is not undone then.
        assert!(answer.finish == 2 || answer.finish == 0, "{answer:?} after {pieces}");
        assert!(pieces <= stop_after.max(1), "a piece came after the end");
    }
    for delay in 0..10 {
        let cancel = Cancel::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_micros(delay * 300));
                cancel.raise();
            });
            match models.answer(&[(1, SUM)], &options(), &cancel, &mut |_| true) {
                Ok(answer) => assert!(answer.finish == 2 || answer.finish == 0, "{answer:?}"),
                Err(failure) => assert_eq!(failure.code, 16, "{failure:?}"),
            }
        });
    }
    assert_eq!(models.ask(SUM).0, whole);
}

/// A call that waits for the answer of another ends when its flag is raised, long before that answer does.
#[test]
fn a_call_that_waits_for_the_model_can_be_cancelled() {
    let models = Setup::bundled().open().unwrap();
    let (begun, wait) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (asking, completing) = (Cancel::new(), Cancel::new());
    std::thread::scope(|scope| {
        let (models, asking, completing) = (&models, &asking, &completing);
        let holder = scope.spawn(move || {
            let mut first = true;
            models.answer(&[(1, SUM)], &options(), &Cancel::new(), &mut |_| {
                if std::mem::take(&mut first) {
                    begun.send(()).unwrap();
                    // The model is held until both others have ended.
                    released.recv().unwrap();
                }
                true
            })
        });
        wait.recv().unwrap();
        let answer = scope.spawn(move || models.answer(&[(1, SUM)], &options(), asking, &mut |_| true).unwrap_err());
        let request = r#"{"messages":[{"role":"user","content":"What is 37 plus 48?"}]}"#;
        let completion = scope.spawn(move || models.complete(request, completing).unwrap_err());
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!answer.is_finished() && !completion.is_finished());
        asking.raise();
        completing.raise();
        assert_eq!(answer.join().unwrap().code, 16);
        assert_eq!(completion.join().unwrap().code, 16);
        release.send(()).unwrap();
        assert_eq!(holder.join().unwrap().unwrap().finish, 0);
    });
}

#[test]
fn the_log_goes_where_the_app_wants_it() {
    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    unsafe extern "C" fn line(context: *mut c_void, level: u32, part: KnapsackStr, text: KnapsackStr) {
        assert_eq!(context.addr(), 8);
        let line = unsafe { format!("{level} {} {}", part.text().unwrap(), text.text().unwrap()) };
        LINES.lock().unwrap().push(line);
    }
    unsafe { knapsack_set_log(3, Some(line), std::ptr::without_provenance_mut(8)) };
    let models = Setup::bundled().open().unwrap();
    models.load().unwrap();
    let heard = LINES.lock().unwrap().clone();
    assert!(heard.iter().any(|line| line.starts_with("3 ") && line.contains(&format!("loaded {MODEL}"))), "{heard:?}");
    unsafe { knapsack_set_log(0, None, null_mut()) };
}

#[test]
fn what_is_in_use_stays_and_is_freed_afterwards() {
    let models = Setup::bundled().open().unwrap();
    let mut unloaded = true;
    let mut tried = None;
    models
        .answer(&[(1, SUM)], &options(), &Cancel::new(), &mut |_| {
            tried.get_or_insert_with(|| {
                call(|error| unsafe { knapsack_unload(models.0, s(MODEL), &mut unloaded, error) })
            });
            assert_eq!(unsafe { knapsack_memory_pressure(models.0, true) }, 0);
            true
        })
        .unwrap();
    assert_eq!(tried.unwrap().unwrap_err().code, 12);
    call(|error| unsafe { knapsack_pin(models.0, s(MODEL), true, error) }).unwrap();
    unsafe {
        assert_eq!(knapsack_memory_pressure(models.0, false), 0);
        assert!(knapsack_memory_pressure(models.0, true) > 1 << 20);
    }
    call(|error| unsafe { knapsack_unload(models.0, s(MODEL), &mut unloaded, error) }).unwrap();
    assert!(!unloaded);
    // An evicted model comes back by itself.
    assert!(models.ask(SUM).0.contains("85"));
    call(|error| unsafe { knapsack_unload(models.0, s(MODEL), &mut unloaded, error) }).unwrap();
    assert!(unloaded);
}

#[test]
fn in_the_background_answers_end_and_loads_wait() {
    let models = Setup::bundled().open().unwrap();
    let (begun, wait) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let models = &models;
        let answer = scope.spawn(move || {
            models.answer(&[(1, SUM)], &how(json!({ "max_tokens": 200 })), &Cancel::new(), &mut |_| {
                let _ = begun.send(());
                // The pause comes while this piece is being shown.
                std::thread::sleep(std::time::Duration::from_millis(50));
                true
            })
        });
        wait.recv().unwrap();
        unsafe { knapsack_pause(models.0) };
        assert_eq!(answer.join().unwrap().unwrap().finish, 3);
    });
    let refused = models.answer(&[(1, SUM)], &options(), &Cancel::new(), &mut |_| true).unwrap_err();
    assert_eq!(refused.code, 17);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| models.load());
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!load.is_finished());
        unsafe { knapsack_resume(models.0) };
        load.join().unwrap().unwrap();
    });
    assert!(models.ask(SUM).0.contains("85"));
}

#[test]
fn answers_of_one_model_come_one_after_the_other() {
    let models = Setup::bundled().open().unwrap();
    let (whole, _) = models.ask(SUM);
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (models, whole) = (&models, &whole);
            scope.spawn(move || {
                for round in 0..5 {
                    if (thread + round) % 3 == 0 {
                        let cancel = Cancel::new();
                        cancel.raise();
                        let failure = models.answer(&[(1, SUM)], &options(), &cancel, &mut |_| true).unwrap_err();
                        assert_eq!(failure.code, 16);
                    } else {
                        assert_eq!(&models.ask(SUM).0, whole);
                    }
                }
            });
        }
    });
}

#[test]
fn a_load_that_fails_is_an_error_and_the_next_one_works() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("bundle");
    copy_folder(&WORLD.1.bundle, &copy);
    static EVENTS: Mutex<Vec<(u32, String)>> = Mutex::new(Vec::new());
    unsafe extern "C" fn event(_: *mut c_void, kind: u32, _: KnapsackStr, _: u64, text: KnapsackStr) {
        EVENTS.lock().unwrap().push((kind, unsafe { text.text() }.unwrap().to_owned()));
    }
    let models = Setup { bundle: &copy, on_event: Some(event), ..Setup::bundled() }.open().unwrap();
    let (shard, aside) = (copy.join(MODEL).join("params_shard_0.bin"), folder.path().join("aside"));
    knapsack_artifact::files::rename(&shard, &aside).unwrap();
    let failure = models.load().unwrap_err();
    assert_eq!(failure.code, 13, "{failure:?}");
    knapsack_artifact::files::rename(&aside, &shard).unwrap();
    assert!(models.ask(SUM).0.contains("85"));
    let events = EVENTS.lock().unwrap();
    let kinds: Vec<u32> = events.iter().map(|(kind, _)| *kind).filter(|kind| *kind != 0).collect();
    assert_eq!(kinds, [5, 1]);
    let why = &events.iter().find(|(kind, _)| *kind == 5).unwrap().1;
    assert!(why.contains("params_shard_0.bin"), "{why}");
    assert!(failure.message.contains("params_shard_0.bin"), "{}", failure.message);
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Bodies that were given out and not ended.
static OPEN_BODIES: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn get(_: *mut c_void, url: KnapsackStr, from: u64, body: *mut *mut c_void, _: *mut u64) -> i32 {
    match HttpTransport::direct().get(unsafe { url.text() }.unwrap(), from) {
        Ok(answer) => {
            OPEN_BODIES.fetch_add(1, Ordering::Relaxed);
            unsafe { *body = Box::into_raw(Box::new(answer.reader)).cast() };
            if answer.start == from && from > 0 { 206 } else { 200 }
        }
        Err(knapsack_runtime::download::TransportError::Status(status)) => status.into(),
        Err(_) => 0,
    }
}

unsafe extern "C" fn read(_: *mut c_void, body: *mut c_void, buffer: *mut u8, length: usize) -> i64 {
    let reader = unsafe { &mut *body.cast::<Box<dyn Read + Send>>() };
    reader.read(unsafe { std::slice::from_raw_parts_mut(buffer, length) }).map_or(-1, |n| n as i64)
}

unsafe extern "C" fn end(_: *mut c_void, body: *mut c_void) {
    OPEN_BODIES.fetch_sub(1, Ordering::Relaxed);
    drop(unsafe { Box::from_raw(body.cast::<Box<dyn Read + Send>>()) });
}

unsafe extern "C" fn progress(context: *mut c_void, done: u64, total: u64) -> bool {
    let steps = unsafe { &mut *context.cast::<Vec<(u64, u64)>>() };
    steps.push((done, total));
    true
}

/// A download that is cut off, a network that goes away and comes back, a second device that is full of nothing.
#[test]
fn a_download_survives_the_network() {
    let world = &WORLD.1;
    let folder = tempfile::tempdir().unwrap();
    let transport = KnapsackTransport { context: null_mut(), get: Some(get), read: Some(read), end: Some(end) };
    let storage = folder.path().to_str().unwrap();
    let models = Setup { bundle: &world.remote, storage, transport, ..Setup::bundled() }.open().unwrap();
    let total = models.state().total;
    assert_eq!(models.state(), KnapsackState { kind: 2, done: 0, total });
    assert_eq!(models.load().unwrap_err().code, 7);
    let prepare = |cancel: &Cancel, steps: &mut Vec<(u64, u64)>| {
        call(|error| unsafe {
            knapsack_prepare(models.0, s(MODEL), cancel.0, progress, std::ptr::from_mut(steps).cast(), error)
        })
    };
    world.hub.fault("resolve", Fault::Status(404), u32::MAX);
    let failure = prepare(&Cancel::new(), &mut Vec::new()).unwrap_err();
    assert_eq!((failure.code, failure.numbers[0]), (8, 404), "{failure:?}");
    world.hub.clear_faults();
    world.hub.fault("storage", Fault::CutAfter(300_000), 2);
    let mut steps = Vec::new();
    prepare(&Cancel::new(), &mut steps).unwrap();
    assert_eq!(steps.last(), Some(&(total, total)));
    assert!(steps.windows(2).all(|pair| pair[0].0 <= pair[1].0), "progress went back");
    assert_eq!(OPEN_BODIES.load(Ordering::Relaxed), 0);
    assert_eq!(models.state().kind, 1);
    assert!(models.ask(SUM).0.contains("85"));
    let mut removed = false;
    call(|error| unsafe { knapsack_remove(models.0, s(MODEL), &mut removed, error) }).unwrap();
    assert!(removed && models.state().kind == 2);
    // The system moves the bytes: every file is given to the store, in any order, and the last one makes it complete.
    let files = models.wanted();
    assert!(files.len() > 3 && files.iter().all(|(_, have)| !have), "{files:?}");
    let arrived = folder.path().join("arrived");
    let adopt = |path: &str| {
        let mut complete = false;
        let file = arrived.to_str().unwrap();
        call(|error| unsafe { knapsack_adopt(models.0, s(MODEL), s(path), s(file), &mut complete, error) })?;
        Ok::<bool, Failure>(complete)
    };
    std::fs::write(&arrived, "something else").unwrap();
    assert_eq!(adopt(&files[0].0).unwrap_err().code, 10);
    assert_eq!(adopt("../outside").unwrap_err().code, 2);
    for (index, (path, _)) in files.iter().enumerate() {
        std::fs::copy(world.bundle.join(MODEL).join(path), &arrived).unwrap();
        assert_eq!(adopt(path).unwrap(), index + 1 == files.len(), "{path}");
    }
    assert_eq!(models.state().kind, 1);
    assert!(models.ask(SUM).0.contains("85"));
    // What the disk did to a file is found, and what is good is not fetched again.
    assert_eq!(models.verify().unwrap(), 0);
    let shard = folder.path().join(MODEL).join("params_shard_0.bin");
    let mut bytes = std::fs::read(&shard).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&shard, &bytes).unwrap();
    assert_eq!(models.verify().unwrap(), 1);
    assert_eq!((models.state().kind, models.state().done), (3, total - bytes.len() as u64));
    assert_eq!(models.verify().unwrap_err().code, 7);
    prepare(&Cancel::new(), &mut Vec::new()).unwrap();
    assert_eq!((models.verify().unwrap(), models.state().kind), (0, 1));
    call(|error| unsafe { knapsack_remove(models.0, s(MODEL), &mut removed, error) }).unwrap();
    // A flag that is up already.
    let cancel = Cancel::new();
    cancel.raise();
    assert_eq!(prepare(&cancel, &mut Vec::new()).unwrap_err().code, 16);
    // Without a way to the network.
    let bare = Setup { bundle: &world.remote, storage, ..Setup::bundled() }.open().unwrap();
    let outcome = call(|error| unsafe {
        knapsack_prepare(bare.0, s(MODEL), Cancel::new().0, progress, (&raw mut steps).cast(), error)
    });
    assert_eq!(outcome.unwrap_err().code, 8);
}

/// Files of a store's packs are used where they lie, in whichever packs, and nothing is copied.
#[test]
fn packs_of_a_store_are_used_where_they_lie() {
    let world = &WORLD.1;
    let folder = tempfile::tempdir().unwrap();
    let packs = json!({ "delivery": "play-on-demand", "names": ["one", "two"], "folder": format!("knapsack/{MODEL}") });
    let config = std::fs::read_to_string(world.bundle.join("mlc-app-config.json")).unwrap();
    let (here, there) = (format!("\"model_path\": \"{MODEL}\""), format!("\"asset_packs\": {packs}"));
    assert!(config.contains(&here), "{config}");
    std::fs::write(folder.path().join("mlc-app-config.json"), config.replace(&here, &there)).unwrap();
    let models = Setup { bundle: folder.path(), ..Setup::bundled() }.open().unwrap();
    let files = models.wanted();
    assert!(files.len() > 3 && files.iter().all(|(_, have)| !have), "{files:?}");
    assert_eq!((models.state().kind, models.load().unwrap_err().code), (2, 7));

    let pack = |index: usize| folder.path().join(["one", "two"][index % 2]);
    for (index, (path, _)) in files.iter().enumerate() {
        let file = pack(index).join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::copy(world.bundle.join(MODEL).join(path), &file).unwrap();
    }
    let first = &files[0].0;
    assert_eq!(models.place("../outside", &pack(0).join(first)).unwrap_err().code, 10);
    assert_eq!(models.place(first, &pack(0).join(&files[2].0)).unwrap_err().code, 10);
    assert_eq!(models.place(first, &pack(1).join("nothing")).unwrap_err().code, 3);
    let bundled = Setup::bundled().open().unwrap();
    assert_eq!(bundled.place(first, &pack(0).join(first)).unwrap_err().code, 10);
    for (index, (path, _)) in files.iter().enumerate() {
        assert_eq!(models.place(path, &pack(index).join(path)).unwrap(), index + 1 == files.len(), "{path}");
    }
    // By a descriptor, which is ours: the first file lies in the middle of another.
    use std::os::fd::AsRawFd;
    let bytes = std::fs::read(pack(0).join(first)).unwrap();
    let archive = folder.path().join("archive");
    std::fs::write(&archive, [b"before", &*bytes, b"after"].concat()).unwrap();
    let open = std::fs::File::open(&archive).unwrap();
    let place_range = |descriptor: i32, offset: u64, length: u64| {
        let (mut complete, length) = (false, length);
        call(|error| unsafe {
            knapsack_place_range(models.0, s(MODEL), s(first), descriptor, offset, length, &mut complete, error)
        })?;
        Ok::<bool, Failure>(complete)
    };
    let length = bytes.len() as u64;
    for (descriptor, offset, length, code) in [
        (-1, 6, length, 2),
        (open.as_raw_fd(), length, length, 2),
        (open.as_raw_fd(), u64::MAX, length, 2),
        (open.as_raw_fd(), 6, length - 1, 10),
    ] {
        assert_eq!(place_range(descriptor, offset, length).unwrap_err().code, code, "{descriptor} {offset} {length}");
    }
    assert!(place_range(open.as_raw_fd(), 6, length).unwrap());
    drop(open);
    std::fs::remove_file(&archive).unwrap();
    assert!(models.ask(SUM).0.contains("85"));
    // Another place is no other file.
    assert!(models.place(first, &world.bundle.join(MODEL).join(first)).unwrap());
    assert!(models.wanted().iter().all(|(_, have)| *have));
    assert_eq!(models.state().kind, 1);
    assert!(models.ask(SUM).0.contains("85"));
    // What lies in a store's pack is the store's to check.
    assert_eq!(models.verify().unwrap_err().code, 2);
}
