//! What a tokenizer takes in memory is what is planned for it; and, for whoever asks with `--nocapture`, how long it loads.
#![cfg(target_os = "linux")]

use knapsack_artifact::{TokenTables, token_tables};
use knapsack_runtime::text::Tokenizer;
use std::hint::black_box;
use std::path::{Path, PathBuf};
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
    let mut files: Vec<_> =
        knapsack_testkit::fixtures().iter().map(|model| knapsack_testkit::fixture(model.family)).collect();
    if let Some(folder) = std::env::var_os("KNAPSACK_TEST_TOKENIZERS") {
        files.extend(std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    files.into_iter().map(|folder| folder.join("tokenizer.json")).filter(|path| path.is_file()).collect()
}

const TEXT: &str = "What is 37 plus 48? Grüße aus Köln; 日本語と한국어 и русский язык 👩‍👩‍👧‍👦 fn main() { let x = 0xff; }\n";

fn check(json: &Path) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(json, folder.path().join("tokenizer.json")).unwrap();
    let text = TEXT.repeat(50);
    let encode = |tokenizer: &Tokenizer| drop(black_box(tokenizer.encode(&text).unwrap()));
    let made = taken(|| Tokenizer::open(folder.path()).unwrap(), encode);
    let start = processor_time();
    let tables = token_tables::compile(&std::fs::read(json).unwrap()).unwrap();
    let compiled = processor_time() - start;
    std::fs::write(folder.path().join(token_tables::FILE_NAME), &tables).unwrap();
    let tables = TokenTables::new(tables).unwrap();
    let (planned, size) = (tables.memory(), tables.bytes().len() as u64);
    drop(tables);
    let mapped = taken(|| Tokenizer::open(folder.path()).unwrap(), encode);
    println!(
        "{}: tables of {size} bytes made in {compiled:?}, planned {planned}; without them {:?} and {} bytes, with them {:?} and {}",
        json.display(),
        made.time,
        made.memory,
        mapped.time,
        mapped.memory
    );
    assert!(mapped.memory + size <= planned, "{}", json.display());
}

#[test]
fn tokenizers_take_what_is_planned() {
    files().iter().for_each(|json| check(json));
}

/// For comparison: the library alone.
#[test]
#[ignore = "a measurement"]
fn the_library_alone() {
    for json in files() {
        let bytes = std::fs::read(&json).unwrap();
        let library = taken(|| tokenizers::Tokenizer::from_bytes(&bytes).unwrap(), |_| ());
        println!("{}: {:?} and {} bytes", json.display(), library.time, library.memory);
    }
}
