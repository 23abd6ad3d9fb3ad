//! A device that fails, at every moment at which it can, never changes a later answer: nothing is taken from a cache that was
//! not computed. The fake device fails at once, or as GPUs do: it accepts the work and tells when it is waited for.

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_compiler::{CompileRequest, compile};
use knapsack_device::{Device, DeviceError, FakeDevice};
use knapsack_models::ModelConfig;
use knapsack_runtime::{CancelFlag, EngineError, Session};
use knapsack_testkit::mlc_fixture;
use std::path::PathBuf;
use std::sync::Arc;

struct Model {
    library: Arc<ModelLibrary>,
    folder: PathBuf,
}

/// A fixture in chunks of four tokens, with a whole context or in a window.
fn model(sliding: Option<u32>) -> Model {
    let folder = mlc_fixture("mistral", "q4f16_1");
    let chat = std::fs::read(folder.join("mlc-chat-config.json")).unwrap();
    let config = ModelConfig::from_mlc(&serde_json::from_slice(&chat).unwrap()).unwrap();
    let mut windows = config.own_windows();
    (windows.context, windows.sliding, windows.sinks, windows.chunk) = (32, sliding, 0, 4);
    let graph = config.graph(&"q4f16_1".parse().unwrap(), &windows).unwrap();
    let library = compile(&CompileRequest { graph: &graph, windows, target: Target::Host, name: None }).unwrap();
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
        for (late, again) in [(false, true), (true, true), (true, false)] {
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
        for failed in [0, moment.saturating_sub(3)] {
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
