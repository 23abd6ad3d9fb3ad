//! The state of a conversation in a file: long instructions are computed once.

use super::*;

impl Models {
    fn save_state(&self, id: &str, request: &str, file: &Path, cancel: &Cancel) -> Result<(), Failure> {
        let (request, file) = (s(request), s(file.to_str().unwrap()));
        call(|error| unsafe { knapsack_save_state(self.0, s(id), request, 0, file, cancel.0, error) })
    }

    fn restore_state(&self, file: &Path, cancel: &Cancel) -> Result<(), Failure> {
        let file = s(file.to_str().unwrap());
        call(|error| unsafe { knapsack_restore_state(self.0, s(MODEL), file, cancel.0, error) })
    }

    fn ask_instructed(&self) -> (String, KnapsackAnswer) {
        let mut text = String::new();
        let turns = [(0, INSTRUCTIONS), (1, SUM)];
        let answer = self.answer(&turns, &options(), &Cancel::new(), &mut |piece| {
            text.push_str(piece);
            true
        });
        (text, answer.unwrap())
    }
}

const INSTRUCTIONS: &str = "Answer as briefly as you can. Answer as briefly as you can. Answer as briefly as you can.";

fn request(question: &str) -> String {
    let messages = json!([{ "role": "system", "content": INSTRUCTIONS }, { "role": "user", "content": question }]);
    json!({ "messages": messages }).to_string()
}

#[test]
fn instructions_are_computed_once_for_every_run_of_an_app() {
    let folder = tempfile::tempdir().unwrap();
    let (file, none) = (folder.path().join("state.kv"), folder.path().join("none/state.kv"));
    let first = Setup::bundled().open().unwrap();
    let (expected, alone) = first.ask_instructed();
    // What was asked is not part of it.
    first.save_state(MODEL, &request(""), &file, &Cancel::new()).unwrap();
    drop(first);

    let second = Setup::bundled().open().unwrap();
    second.restore_state(&file, &Cancel::new()).unwrap();
    let (text, answer) = second.ask_instructed();
    assert_eq!(text, expected);
    assert!(alone.reused_tokens == 0 && answer.reused_tokens > 20, "{alone:?} {answer:?}");
    assert!(answer.prompt_tokens - answer.reused_tokens < 40, "{answer:?}");

    // Of another library.
    let world = &WORLD.1;
    let tools = Setup { bundle: &world.tools_bundle, library: &world.tools_library, ..Setup::bundled() };
    let (tools, others) = (tools.open().unwrap(), folder.path().join("others.kv"));
    tools.save_state(TOOLS_MODEL, &request(SUM), &others, &Cancel::new()).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = folder.path().join("damaged.kv");
    std::fs::write(&damaged, bytes).unwrap();
    for file in [&none, &damaged, &others] {
        assert_eq!(second.restore_state(file, &Cancel::new()).unwrap_err().code, 18, "{}", file.display());
        // Nothing is lost but time.
        let (text, answer) = second.ask_instructed();
        assert_eq!((text, answer.reused_tokens), (expected.clone(), 0));
    }
    let save = |request: &str, file: &Path| second.save_state(MODEL, request, file, &Cancel::new()).unwrap_err().code;
    assert_eq!((save(&request(SUM), &none), save("{", &file)), (18, 2));
    let raised = Cancel::new();
    raised.raise();
    assert_eq!(second.save_state(MODEL, &request(SUM), &file, &raised).unwrap_err().code, 16);
}
