//! What disturbs a session, at every moment at which it can, never changes a later answer: a device that fails, a call that is
//! cancelled, a pause; and a session that was saved goes on where it was. The fake device fails at once, or as GPUs do: it accepts
//! the work and tells when it is waited for.

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_compiler::{CompileRequest, compile};
use knapsack_device::opencl::{OpenClDevice, OpenClOptions};
use knapsack_device::{CpuDevice, Device, DeviceError, FakeDevice, ReferenceDevice};
use knapsack_models::ModelConfig;
use knapsack_runtime::{Activity, CancelFlag, EngineError, SavedError, Session};
use knapsack_testkit::mlc_fixture;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

struct Model {
    library: Arc<ModelLibrary>,
    folder: PathBuf,
}

/// A fixture in chunks of four tokens, with a whole context or in a window.
fn model(sliding: Option<u32>) -> Model {
    model_of("mistral", "q4f16_1", sliding, 32, Target::Host)
}

fn model_of(family: &str, quantization: &str, sliding: Option<u32>, context: u32, target: Target) -> Model {
    let folder = mlc_fixture(family, quantization);
    let chat = std::fs::read(folder.join("mlc-chat-config.json")).unwrap();
    let config = ModelConfig::from_mlc(&serde_json::from_slice(&chat).unwrap()).unwrap();
    let mut windows = config.own_windows();
    (windows.context, windows.sliding, windows.sinks, windows.chunk) = (context, sliding, 0, 4);
    let graph = config.graph(&quantization.parse().unwrap(), &windows).unwrap();
    let library = compile(&CompileRequest { graph: &graph, windows, target, name: None }).unwrap();
    Model { library: Arc::new(library), folder }
}

/// Prompts of a conversation, each with the tokens that are decoded after it: one that grows, one that goes back, one anew.
const TURNS: [(&[u32], &[u32]); 4] = [
    (&[1, 2, 3, 4, 5, 6], &[7]),
    (&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], &[]),
    (&[1, 2, 3, 4, 5, 6, 7, 30, 31], &[32]),
    (&[9, 8, 7], &[]),
];

/// One turn; the logits of every step.
fn turn(session: &mut Session, number: usize, cancel: &CancelFlag) -> Result<Vec<Vec<f32>>, EngineError> {
    let (prompt, answer) = TURNS[number];
    session.prefill(prompt, cancel)?;
    let mut logits = vec![session.logits().to_vec()];
    for &token in answer {
        session.decode(token)?;
        logits.push(session.logits().to_vec());
    }
    Ok(logits)
}

fn session(device: &FakeDevice, model: &Model) -> Session {
    Session::new(device.load(model.library.clone(), &model.folder).unwrap())
}

/// The answers of an undisturbed device, and how many launches they take.
fn undisturbed(model: &Model) -> (Vec<Vec<Vec<f32>>>, u64) {
    let device = FakeDevice::new(u64::MAX);
    let mut session = session(&device, model);
    let answers = (0..TURNS.len()).map(|number| turn(&mut session, number, &CancelFlag::new()).unwrap()).collect();
    (answers, device.launches())
}

/// The conversation on a device that is disturbed; a turn that fails is asked once more, or left. Returns how many failed.
fn converse(
    session: &mut Session,
    expected: &[Vec<Vec<f32>>],
    again: bool,
    cancel: &CancelFlag,
    what: &str,
) -> Vec<EngineError> {
    let mut failures = Vec::new();
    for (number, expected) in expected.iter().enumerate() {
        for _ in 0..=u32::from(again) {
            match turn(session, number, cancel) {
                Ok(logits) => {
                    assert_eq!(&logits, expected, "{what}, turn {number}");
                    break;
                }
                Err(error) => failures.push(error),
            }
            cancel.reset();
        }
    }
    failures
}

fn every_moment(sliding: Option<u32>) {
    let model = model(sliding);
    let (expected, launches) = undisturbed(&model);
    let device = FakeDevice::new(u64::MAX);
    for moment in 1..=launches {
        let even = moment % 2 == 0;
        for (late, again) in [(true, even), (false, !even)] {
            let mut session = session(&device, &model);
            device.fail_late(late);
            device.refuse_launch(moment);
            let what = format!("window {sliding:?}, launch {moment} of {launches}, late {late}");
            let failures = converse(&mut session, &expected, again, &CancelFlag::new(), &what);
            let [EngineError::Device(DeviceError::Driver { .. })] = failures[..] else {
                panic!("{what}: {failures:?}")
            };
        }
        // Cancelled at this launch, and at the same time one of the launches before it failed.
        let failed = if even { 0 } else { moment.saturating_sub(3) };
        let mut session = session(&device, &model);
        let cancel = CancelFlag::new();
        let raised = cancel.clone();
        device.fail_late(true);
        device.before_launch(moment, move || raised.cancel());
        device.refuse_launch(failed);
        let what = format!("window {sliding:?}, cancelled at launch {moment}, launch {failed} failed");
        converse(&mut session, &expected, true, &cancel, &what);
    }
}

#[test]
fn at_every_moment_with_a_whole_context() {
    every_moment(None);
}

#[test]
fn at_every_moment_with_a_window() {
    every_moment(Some(5));
}

#[test]
fn in_the_background_every_call_says_so_and_the_next_is_right() {
    let model = model(None);
    let (expected, _) = undisturbed(&model);
    let device = FakeDevice::new(u64::MAX);
    for late in [false, true] {
        device.fail_late(late);
        let mut session = session(&device, &model);
        for (number, expected) in expected.iter().enumerate() {
            device.set_background(true);
            for _ in 0..2 {
                let error = turn(&mut session, number, &CancelFlag::new()).unwrap_err();
                assert!(matches!(error, EngineError::Device(DeviceError::NotPermitted { .. })), "{error}");
                assert!(session.cached().is_empty());
            }
            device.set_background(false);
            assert_eq!(&turn(&mut session, number, &CancelFlag::new()).unwrap(), expected);
        }
    }
}

/// Turns after the first on a session that was restored after it, and on the one that was saved.
fn restored_turns(device: &dyn Device, model: &Model, file: &Path) {
    let load = || Session::new(device.load(model.library.clone(), &model.folder).unwrap());
    let (mut saved, mut restored, cancel) = (load(), load(), CancelFlag::new());
    turn(&mut saved, 0, &cancel).unwrap();
    saved.save(file).unwrap();
    turn(&mut restored, 3, &cancel).unwrap();
    restored.restore(file).unwrap();
    assert_eq!(restored.cached(), saved.cached());
    for (number, (prompt, _)) in TURNS.iter().enumerate().skip(1) {
        let reused = [saved.prefill(prompt, &cancel).unwrap(), restored.prefill(prompt, &cancel).unwrap()];
        assert!(number > 2 || reused[0] > 4, "{reused:?}");
        assert_eq!(reused[0], reused[1]);
        assert_eq!(saved.logits(), restored.logits(), "{} turn {number}", device.name());
    }
    // Saved where the first positions of a window are gone already.
    saved.prefill(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], &cancel).unwrap();
    saved.save(file).unwrap();
    restored.restore(file).unwrap();
    for token in 1..4 {
        saved.decode(token).unwrap();
        restored.decode(token).unwrap();
        assert_eq!(saved.logits(), restored.logits());
    }
}

#[test]
fn a_restored_session_answers_as_the_one_that_was_saved() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a session.kv");
    for sliding in [None, Some(5)] {
        let model = model(sliding);
        restored_turns(&CpuDevice::new(), &model, &file);
        restored_turns(&FakeDevice::new(u64::MAX), &model, &file);
        restored_turns(&ReferenceDevice, &model, &file);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}

/// The same on a GPU's interface, where the cache is read and written in portions beside the work.
#[test]
fn a_session_is_restored_on_opencl() {
    let device = match OpenClDevice::open(OpenClOptions::default()) {
        Ok(device) => device,
        Err(error) => {
            let required = std::env::var_os("KNAPSACK_REQUIRE_OPENCL").is_some_and(|value| value == "1");
            assert!(!required, "KNAPSACK_REQUIRE_OPENCL=1, but {error}");
            return eprintln!("SKIPPED: no OpenCL: {error}");
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let model = model_of("mistral", "q4f16_1", Some(5), 32, Target::OpenCl);
    restored_turns(&device, &model, &folder.path().join("session.kv"));
}

#[test]
fn a_hostile_file_is_an_error_and_the_session_empty() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("session.kv");
    let model = model(None);
    let (expected, _) = undisturbed(&model);
    let device = FakeDevice::new(u64::MAX);
    let mut session = session(&device, &model);
    turn(&mut session, 0, &CancelFlag::new()).unwrap();
    session.save(&file).unwrap();
    let good = std::fs::read(&file).unwrap();
    let refused = |session: &mut Session, bytes: &[u8], what: &str| {
        std::fs::write(&file, bytes).unwrap();
        session.restore(&file).expect_err(what);
        assert!(session.cached().is_empty(), "{what}");
    };
    let ends = (0..80).chain((80..good.len()).step_by(211)).chain(good.len() - 33..good.len());
    for at in ends {
        refused(&mut session, &good[..at], &format!("cut at {at}"));
        let mut changed = good.clone();
        changed[at] ^= 1 << (at % 8);
        refused(&mut session, &changed, &format!("changed at {at}"));
    }
    refused(&mut session, &[&good[..], b"x"].concat(), "longer");
    assert!(matches!(session.restore(folder.path()), Err(SavedError::Invalid { .. })), "a folder");
    assert!(matches!(session.restore(&folder.path().join("none")), Err(SavedError::Io { .. })));
    std::fs::write(&file, &good).unwrap();
    for (number, expected) in expected.iter().enumerate() {
        assert_eq!(&turn(&mut session, number, &CancelFlag::new()).unwrap(), expected);
    }
    session.restore(&file).unwrap();
    // Another library, and a device that keeps its cache in another type.
    let other = model_of("mistral", "q4f16_1", None, 40, Target::Host);
    let mut longer = Session::new(device.load(other.library, &other.folder).unwrap());
    assert!(matches!(longer.restore(&file), Err(SavedError::OtherModel { .. })));
    let mut reference = Session::new(ReferenceDevice.load(model.library.clone(), &model.folder).unwrap());
    assert!(matches!(reference.restore(&file), Err(SavedError::OtherModel { .. })));
    // The same library over other weights.
    let copy = folder.path().join("weights");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(&model.folder).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let index = copy.join("tensor-cache.json");
    let text = std::fs::read_to_string(&index).unwrap();
    std::fs::write(&index, format!("{text}\n")).unwrap();
    let mut retrained = Session::new(device.load(model.library.clone(), &copy).unwrap());
    assert!(matches!(retrained.restore(&file), Err(SavedError::OtherModel { .. })));
    // A disk that cannot be written.
    assert!(matches!(session.save(&folder.path().join("none/session.kv")), Err(SavedError::Io { .. })));
}

#[test]
fn a_pause_at_any_moment_returns_when_nothing_runs_and_loses_nothing() {
    let model = model(None);
    let (expected, launches) = undisturbed(&model);
    let device = FakeDevice::new(u64::MAX);
    for moment in 1..=launches {
        let activity = Activity::new();
        let mut session = session(&device, &model).with_activity(activity.clone());
        let pausing = Arc::new(Mutex::new(None));
        let (thread, pauser, counter) = (pausing.clone(), activity.clone(), device.clone());
        device.before_launch(moment, move || {
            let seen = pauser.clone();
            let pause = std::thread::spawn(move || {
                pauser.pause();
                counter.launches()
            });
            while !seen.is_paused() {
                std::thread::yield_now();
            }
            *thread.lock().unwrap() = Some(pause);
        });
        for (number, expected) in expected.iter().enumerate() {
            loop {
                match turn(&mut session, number, &CancelFlag::new()) {
                    Ok(logits) => {
                        assert_eq!(&logits, expected, "paused at {moment}, turn {number}");
                        break;
                    }
                    Err(error) => {
                        assert!(matches!(error, EngineError::Paused), "{error}");
                        let quiet = pausing.lock().unwrap().take().map(|pause| pause.join().unwrap());
                        let error = turn(&mut session, number, &CancelFlag::new()).unwrap_err();
                        assert!(error.is_backgrounded(), "{error}");
                        assert!(quiet.is_none_or(|launches| launches == device.launches()), "something ran");
                        activity.resume();
                    }
                }
            }
        }
    }
}
