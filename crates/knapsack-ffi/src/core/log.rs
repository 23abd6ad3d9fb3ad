//! What happens inside, told to the app line by line: to `os_log`, to logcat, to a file.

use log::{LevelFilter, Log, Metadata, Record};
use std::sync::{Arc, Once, PoisonError, RwLock};

/// Is told a line: its level (1 error, 2 warning, 3 info, 4 debug, 5 trace), the part of the runtime, and the text. From any thread.
pub type Sink = Arc<dyn Fn(u32, &str, &str) + Send + Sync>;

struct Hook(RwLock<Option<Sink>>);

static HOOK: Hook = Hook(RwLock::new(None));

impl Log for Hook {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // Not held while the app works: its sink may set another.
        let sink = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sink) = sink {
            sink(record.level() as u32, record.target(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Gives every line up to `level` to `sink` from now on, in the whole process; without one nobody is told. An app that is
/// written in Rust and has a logger of its own keeps it.
pub fn set(level: u32, sink: Option<Sink>) {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let _ = log::set_logger(&HOOK);
    });
    let level = match (&sink, level) {
        (None, _) | (_, 0) => LevelFilter::Off,
        (_, 1) => LevelFilter::Error,
        (_, 2) => LevelFilter::Warn,
        (_, 3) => LevelFilter::Info,
        (_, 4) => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    *HOOK.0.write().unwrap_or_else(PoisonError::into_inner) = sink;
    log::set_max_level(level);
}
