//! What a tokenizer takes in memory is what is planned for it; and, for whoever asks with `--nocapture`, how long it loads.
#![cfg(target_os = "linux")]

use knapsack_artifact::{TokenTables, token_tables};
use knapsack_runtime::text::Tokenizer;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A value of `/proc/self/status`, in bytes.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// What a load took: time of the processor, which others on the machine do not lengthen, and memory of its own (without mapped
/// files) while it was held.
struct Taken {
    time: Duration,
    memory: u64,
}

/// Time that this thread has had.
fn processor_time() -> Duration {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(statistics.split(' ').next().and_then(|time| time.parse().ok()).unwrap_or(0))
}

fn taken<T>(load: impl FnOnce() -> T, held: impl FnOnce(&T)) -> Taken {
    let (before, start) = (status("RssAnon"), processor_time());
    let loaded = black_box(load());
    let time = processor_time() - start;
    // What is made when it is first used belongs to it.
    held(&loaded);
    Taken { time, memory: status("RssAnon").saturating_sub(before) }
}

/// The test kit's, and those in the folder that `KNAPSACK_TEST_TOKENIZERS` names.
fn files() -> Vec<PathBuf> {
    let folders = knapsack_testkit::fixtures().iter().map(|model| knapsack_testkit::fixture(model.family));
    let files = folders.map(|folder| folder.join("tokenizer.json")).filter(|path| path.is_file());
    files.chain(knapsack_testkit::real_tokenizers().into_iter().flatten()).collect()
}

const TEXT: &str = "What is 37 plus 48? Grüße aus Köln; 日本語と한국어 и русский язык 👩‍👩‍👧‍👦 fn main() { let x = 0xff; }\n";

/// Names the folder whose tokenizer [`in_a_process_of_its_own`] loads, or the file that the library alone loads.
const FOLDER: &str = "KNAPSACK_TOKENIZER_FOLDER";
const FILE: &str = "KNAPSACK_TOKENIZER_FILE";

/// Loads a tokenizer where nothing was allocated and freed before.
#[test]
#[ignore = "tokenizers_take_what_is_planned runs it"]
fn in_a_process_of_its_own() {
    let text = TEXT.repeat(50);
    let taken = if let Some(folder) = std::env::var_os(FOLDER) {
        let encode = |tokenizer: &Tokenizer| drop(black_box(tokenizer.encode(&text).unwrap()));
        taken(|| Tokenizer::open(Path::new(&folder)).unwrap(), encode)
    } else {
        let bytes = std::fs::read(std::env::var_os(FILE).unwrap()).unwrap();
        let encode = |tokenizer: &tokenizers::Tokenizer| drop(black_box(tokenizer.encode_fast(&*text, false).unwrap()));
        taken(|| tokenizers::Tokenizer::from_bytes(&bytes).unwrap(), encode)
    };
    println!("\ntaken {} {}", taken.time.as_nanos(), taken.memory);
}

fn measured(variable: &str, place: &Path) -> Taken {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["in_a_process_of_its_own", "--exact", "--ignored", "--nocapture"]);
    let output = command.env_remove(FOLDER).env(variable, place).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("taken ")).unwrap_or_else(|| panic!("{text}"));
    let (time, memory) = line.split_once(' ').unwrap();
    Taken { time: Duration::from_nanos(time.parse().unwrap()), memory: memory.parse().unwrap() }
}

#[test]
fn tokenizers_take_what_is_planned() {
    for json in files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(&json, folder.path().join("tokenizer.json")).unwrap();
        let library = measured(FILE, &json);
        let made = measured(FOLDER, folder.path());
        let tables = token_tables::compile(&std::fs::read(&json).unwrap()).unwrap();
        std::fs::write(folder.path().join(token_tables::FILE_NAME), &tables).unwrap();
        let mapped = measured(FOLDER, folder.path());
        let size = tables.len() as u64;
        let planned = TokenTables::new(tables).unwrap().memory();
        println!(
            "{}: the library {:?}, {} bytes; tables made {:?}, {}; mapped {:?}, {} beside {size}; planned {planned}",
            json.display(),
            library.time,
            library.memory,
            made.time,
            made.memory,
            mapped.time,
            mapped.memory
        );
        assert!(mapped.memory + size <= planned, "{}", json.display());
    }
}
