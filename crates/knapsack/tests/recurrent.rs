//! Sessions of models that remember without a cache: a chat that goes on from where its state was set aside says, token by token,
//! what one says that starts over; whatever disturbs it; and so does one that was saved and restored.

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_compiler::{CompileRequest, compile};
use knapsack_device::{CpuDevice, Device, FakeDevice, ReferenceDevice};
use knapsack_models::ModelConfig;
use knapsack_runtime::{CancelFlag, EngineError, Session};
use knapsack_testkit::GENERATED;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

struct Model {
    name: &'static str,
    library: Arc<ModelLibrary>,
    folder: PathBuf,
    _converted: tempfile::TempDir,
}

/// A generated checkpoint, converted and compiled for chunks of five tokens.
fn model(name: &str) -> Model {
    let generated = GENERATED.iter().find(|model| model.name == name).unwrap();
    let parent = tempfile::tempdir().unwrap();
    let (checkpoint, folder) = (generated.checkpoint(), parent.path().join("out"));
    let request = knapsack_weights::ConvertRequest {
        checkpoint: &checkpoint,
        output: &folder,
        quantization: "q4f16_1".parse().unwrap(),
        chat_template: &knapsack_weights::TemplateChoice::Model,
        jobs: None,
    };
    knapsack_weights::convert(&request, &AtomicBool::new(false), &|_| {}).unwrap();
    let chat = std::fs::read(folder.join("mlc-chat-config.json")).unwrap();
    let config = ModelConfig::from_mlc(&serde_json::from_slice(&chat).unwrap()).unwrap();
    let mut windows = config.own_windows();
    (windows.context, windows.chunk) = (200, 5);
    let graph = config.graph(&request.quantization, &windows).unwrap();
    let library = compile(&CompileRequest { graph: &graph, windows, target: Target::Host, name: None }).unwrap();
    Model { name: generated.name, library: Arc::new(library), folder, _converted: parent }
}

fn session(device: &dyn Device, model: &Model) -> Session {
    Session::new(device.load(model.library.clone(), &model.folder).unwrap())
}

fn likeliest(logits: &[f32]) -> u32 {
    let (id, _) = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    id as u32
}

/// What asks for an answer, and is in no later prompt.
const ASK: [u32; 2] = [700, 701];
/// Tokens of an answer that are thought, and in no later prompt.
const THOUGHT: usize = 3;

/// The prompt of a turn: all that was said, a question, and what asks for the answer.
struct Chat {
    said: Vec<u32>,
}

impl Chat {
    fn question(&mut self, turn: u32) -> Vec<u32> {
        self.said.extend((0..7).map(|i| (turn * 131 + i * 17) % 700));
        [&self.said[..], &ASK].concat()
    }
}

/// One turn; gives the logits of each step and leaves the answer in the chat, without its thoughts.
fn answer(
    session: &mut Session,
    chat: &mut Chat,
    prompt: &[u32],
    cancel: &CancelFlag,
) -> Result<Vec<Vec<f32>>, EngineError> {
    session.prefill_keeping(prompt, Some(chat.said.len()), cancel)?;
    let mut steps = vec![session.logits().to_vec()];
    for _ in 0..THOUGHT + 4 {
        let token = likeliest(session.logits());
        if steps.len() > THOUGHT {
            chat.said.push(token);
        }
        session.append(&[token], cancel)?;
        steps.push(session.logits().to_vec());
    }
    Ok(steps)
}

fn chat_on(device: &dyn Device, model: &Model) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chat.kv");
    let mut chat = Chat { said: Vec::new() };
    let cancel = CancelFlag::new();
    let mut going_on = session(device, model);
    let mut known = 0;
    for turn in 0..6 {
        let prompt = chat.question(turn);
        let settled = chat.said.len();
        if turn == 3 {
            // A session of another time goes on from there too.
            going_on.save(&file).unwrap();
            going_on = session(device, model);
            going_on.restore(&file).unwrap();
        }
        let mut again = Chat { said: chat.said.clone() };
        let expected = answer(&mut session(device, model), &mut again, &prompt, &cancel).unwrap();
        let reused = going_on.prefill_keeping(&prompt, Some(settled), &cancel).unwrap();
        // What stood before a window's ring went round was set aside too.
        assert_eq!(reused, known, "{} on {}, turn {turn}", model.name, device.name());
        // The same question again goes back to the state before what asks.
        let found = answer(&mut going_on, &mut chat, &prompt, &cancel).unwrap();
        assert!(found == expected, "{} on {}, turn {turn}", model.name, device.name());
        assert_eq!(chat.said, again.said);
        known = settled;
    }
}

#[test]
fn a_chat_that_goes_on_says_what_one_says_that_starts_over() {
    for name in ["lfm2", "lfm3", "qwen3_5"] {
        let model = model(name);
        assert!(!model.library.states.is_empty());
        chat_on(&CpuDevice::new(), &model);
        chat_on(&ReferenceDevice, &model);
    }
}

/// The turns of a chat, with the logits of every step; a turn that fails is asked once more.
fn converse(session: &mut Session, cancel: &CancelFlag, what: &str) -> Vec<Vec<Vec<f32>>> {
    let mut chat = Chat { said: Vec::new() };
    let mut turn = |turn: u32| {
        let prompt = chat.question(turn);
        let said = chat.said.clone();
        answer(session, &mut chat, &prompt, cancel).unwrap_or_else(|_| {
            cancel.reset();
            chat.said = said;
            answer(session, &mut chat, &prompt, cancel).unwrap_or_else(|error| panic!("{what}, turn {turn}: {error}"))
        })
    };
    (0..3).map(&mut turn).collect()
}

#[test]
fn whatever_disturbs_it_changes_no_later_answer() {
    let model = model("lfm2");
    let device = FakeDevice::new(u64::MAX);
    let expected = converse(&mut session(&device, &model), &CancelFlag::new(), "undisturbed");
    for moment in (1..=device.launches()).step_by(41) {
        for late in [false, true] {
            device.fail_late(late);
            device.refuse_launch(moment);
            let what = format!("launch {moment}, late {late}");
            let found = converse(&mut session(&device, &model), &CancelFlag::new(), &what);
            assert!(found == expected, "{what}");
        }
        let cancel = CancelFlag::new();
        let raised = cancel.clone();
        device.before_launch(moment, move || raised.cancel());
        let what = format!("cancelled at launch {moment}");
        assert!(converse(&mut session(&device, &model), &cancel, &what) == expected, "{what}");
    }
}
