//! The cache in temporary folders.

use super::*;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

fn inputs(chunk: u32) -> Inputs {
    Inputs::new("tiny for android").with("prefill_chunk_size", chunk).with_bytes("config", b"{}").with("compiler", "1")
}

fn make(text: &'static str) -> impl Fn(&Path) -> Result<(), CacheError> {
    move |folder| {
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::write(folder.join("a.bin"), text).unwrap();
        fs::write(folder.join("sub/b.bin"), "b").unwrap();
        Ok(())
    }
}

#[test]
fn the_same_inputs_are_made_once_and_others_say_why() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::at(root.path());
    assert!(cache.find(Bucket::Libraries, &inputs(8)).unwrap().is_none());
    let (first, reason) = cache.get_or_make(Bucket::Libraries, &inputs(8), make("x")).unwrap();
    assert_eq!(reason, Reason::First);
    assert_eq!(fs::read(first.content().join("a.bin")).unwrap(), b"x");
    let never = |_: &Path| -> Result<(), CacheError> { panic!("made again") };
    let (again, reason) = cache.get_or_make(Bucket::Libraries, &inputs(8), never).unwrap();
    assert_eq!((reason, again.content()), (Reason::Cached, first.content()));
    // The subject is for people only.
    let mut other = inputs(8);
    other.subject = "another name".into();
    assert!(cache.find(Bucket::Libraries, &other).unwrap().is_some());

    let (_, reason) = cache.get_or_make(Bucket::Libraries, &inputs(16), make("y")).unwrap();
    assert_eq!(reason.to_string(), "prefill_chunk_size changed from 8 to 16");
    let (_, reason) = cache.get_or_make(Bucket::Libraries, &inputs(16).with_bytes("config", b"[]"), make("y")).unwrap();
    assert_eq!(reason.to_string(), "config changed");
    assert_eq!(cache.list().len(), 3);
}

#[test]
fn keys_separate_names_from_values() {
    let key = |pairs: &[(&str, &str)]| pairs.iter().fold(Inputs::new(""), |all, (n, v)| all.with(*n, *v)).key();
    assert_ne!(key(&[("ab", "c")]), key(&[("a", "bc")]));
    assert_ne!(key(&[("a", "b"), ("c", "d")]), key(&[("a", "bcd")]));
    assert_eq!(key(&[("a", "b"), ("c", "d")]), key(&[("c", "d"), ("a", "b")]));
}

#[test]
fn a_failure_leaves_nothing_and_a_killed_run_is_forgotten() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::at(root.path());
    let fail = |folder: &Path| {
        fs::write(folder.join("half"), "").unwrap();
        Err(CacheError::NoPlace)
    };
    assert!(cache.get_or_make(Bucket::Converted, &inputs(8), fail).is_err());
    assert_eq!(fs::read_dir(root.path().join("converted-v1")).unwrap().count(), 0);
    let killed = root.path().join(format!("converted-v1/.tmp-{}/content", inputs(8).key()));
    fs::create_dir_all(&killed).unwrap();
    fs::write(killed.join("half"), "").unwrap();
    let (entry, _) = cache.get_or_make(Bucket::Converted, &inputs(8), make("x")).unwrap();
    assert!(!entry.content().join("half").exists());
}

#[test]
fn damage_is_noticed_cheaply_by_size_and_fully_by_verify() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::at(root.path());
    let (entry, _) = cache.get_or_make(Bucket::Libraries, &inputs(8), make("xx")).unwrap();
    let file = entry.content().join("a.bin");
    assert!(cache.verify(false).unwrap().iter().all(|verified| verified.problems.is_empty()));
    fs::write(&file, "xy").unwrap();
    drop(entry);
    assert_eq!(cache.verify(false).unwrap()[0].problems, ["a.bin has another content"]);
    fs::write(&file, "longer").unwrap();
    let (entry, reason) = cache.get_or_make(Bucket::Libraries, &inputs(8), make("xx")).unwrap();
    assert!(matches!(&reason, Reason::Damaged(text) if text.contains("a.bin has 6 bytes, not 2")), "{reason}");
    drop(entry);
    fs::write(&file, "xy").unwrap();
    cache.verify(true).unwrap();
    assert!(cache.list().is_empty());
    // A record that is not one.
    let (entry, _) = cache.get_or_make(Bucket::Libraries, &inputs(8), make("xx")).unwrap();
    fs::write(entry.content().join("../entry.json"), "{\"version\": 1, \"subject\": ").unwrap();
    drop(entry);
    assert!(cache.find(Bucket::Libraries, &inputs(8)).unwrap().is_none());
    assert_eq!(cache.verify(false).unwrap()[0].problems.len(), 1);
    assert!(cache.get_or_make(Bucket::Libraries, &inputs(8), make("xx")).unwrap().1.ran());
}

#[test]
fn cleaning_takes_what_is_the_caches_and_not_in_use() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::at(root.path());
    let (used, _) = cache.get_or_make(Bucket::Libraries, &inputs(8), make("x")).unwrap();
    cache.get_or_make(Bucket::Converted, &inputs(8), make("x")).unwrap();
    cache.digests().of(&used.content().join("a.bin"), crate::digest::Wanted::CONTENT).unwrap();
    cache.digests().save();
    fs::create_dir_all(root.path().join("libraries-v0/old")).unwrap();
    fs::create_dir_all(root.path().join("converted-v1/.tmp-abc")).unwrap();
    fs::create_dir_all(cache.tokenizers()).unwrap();
    fs::write(root.path().join("mine.txt"), "").unwrap();
    let cleaned = cache.clean().unwrap();
    assert_eq!((cleaned.entries, cleaned.in_use), (1, 1));
    assert!(used.content().join("a.bin").exists());
    assert!(root.path().join("mine.txt").exists());
    for gone in ["libraries-v0", "digests-v1", "tokenizers-v1", "converted-v1/.tmp-abc"] {
        assert!(!root.path().join(gone).exists(), "{gone}");
    }
    drop(used);
    assert_eq!(cache.clean().unwrap().entries, 1);
    assert_eq!(cache.clean().unwrap(), Cleaned::default());
}

#[test]
fn many_threads_make_one_entry_once() {
    let root = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let made = Cache::at(root.path()).get_or_make(Bucket::Libraries, &inputs(8), |folder| {
                    count.fetch_add(1, Ordering::SeqCst);
                    make("x")(folder)
                });
                let (entry, _) = made.unwrap();
                assert_eq!(fs::read(entry.content().join("a.bin")).unwrap(), b"x");
            });
        }
    });
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn inputs_from_files_follow_their_content() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::at(root.path().join("cache"));
    fs::write(root.path().join("w"), "1").unwrap();
    let of = || Inputs::new("").with_files(root.path(), &["w".into()], cache.digests()).unwrap().key();
    let before = of();
    assert_eq!(of(), before);
    fs::write(root.path().join("w"), "2").unwrap();
    assert_ne!(of(), before);
    let missing = Inputs::new("").with_files(root.path(), &["none".into()], cache.digests()).unwrap_err();
    assert!(missing.to_string().contains("none"));
    assert_eq!(Inputs::new("").with_compiler(cache.digests()).values.len(), 2);
}

#[test]
fn the_environment_says_where() {
    let place = |pairs: &[(&str, &str)]| {
        Cache::place(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)))
    };
    assert_eq!(place(&[("KNAPSACK_CACHE", "/c"), ("HOME", "/h")]).unwrap(), std::path::absolute("/c").unwrap());
    assert!(matches!(place(&[]), Err(CacheError::NoPlace)));
    assert!(place(&[("HOME", "/h"), ("LOCALAPPDATA", "/h"), ("KNAPSACK_CACHE", "")]).unwrap().starts_with("/h"));
    if cfg!(target_os = "linux") {
        assert_eq!(place(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).unwrap(), Path::new("/x/knapsack"));
        assert_eq!(place(&[("HOME", "/h"), ("XDG_CACHE_HOME", "relative")]).unwrap(), Path::new("/h/.cache/knapsack"));
    }
}
