//! Everything that the program shows.
//!
//! For people: results on stdout; diagnostics, status lines and progress on stderr, coloured only on a terminal. With
//! `--message-format json`: one JSON object per line on stdout, told apart by `reason`.
//!
//! Much of it is what models and files say. On a terminal their control characters, which move the cursor, hide text or type for
//! the user, are shown and not obeyed; a pipe gets results as they are.

use crate::cli::{ColorChoice, MessageFormat, OutputArgs};
use anstyle::{AnsiColor, Style};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use knapsack_config::{Diagnostic, Report, Severity, SourceMap};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Where messages go, and in which form. Shared by reference between threads.
#[derive(Clone, Debug)]
pub struct Reporter {
    format: MessageFormat,
    quiet: bool,
    verbose: u8,
    progress: MultiProgress,
}

impl Reporter {
    /// A reporter as the command line wants it. Sets the process's choice of colours.
    pub fn new(output: &OutputArgs) -> Self {
        match output.color {
            // `Auto` looks at the terminal, NO_COLOR, CLICOLOR, CLICOLOR_FORCE and TERM, for each stream.
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        }
        .write_global();
        let animated = io::stderr().is_terminal() && !output.quiet && output.message_format == MessageFormat::Human;
        let target = if animated { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Reporter {
            format: output.message_format,
            quiet: output.quiet,
            verbose: output.verbose,
            progress: MultiProgress::with_draw_target(target),
        }
    }

    /// Whether messages are JSON lines.
    pub fn is_json(&self) -> bool {
        self.format == MessageFormat::Json
    }

    /// How often `-v` was given.
    pub fn verbosity(&self) -> u8 {
        self.verbose
    }

    /// Whether only errors are wanted.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Stdout for results, which have no colours. Errors of writing become [`StdoutClosed`] when the reader went away.
    pub fn stdout(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
        let mut result = Vec::new();
        write(&mut result).map_err(StdoutClosed::wrap)?;
        self.progress.suspend(|| {
            let mut stdout = io::stdout().lock();
            if stdout.is_terminal() {
                result = harmless(&String::from_utf8_lossy(&result)).into_owned().into_bytes();
            }
            stdout.write_all(&result).and_then(|()| stdout.flush()).map_err(StdoutClosed::wrap)
        })
    }

    /// Prints one line of a result.
    pub fn line(&self, line: impl Display) -> anyhow::Result<()> {
        self.stdout(|out| writeln!(out, "{line}"))
    }

    /// Prints a result as a JSON line with its `reason`.
    pub fn result(&self, reason: &str, value: &impl Serialize) -> anyhow::Result<()> {
        let line = json_line(reason, value);
        self.stdout(|out| writeln!(out, "{line}"))
    }

    /// Shows the findings about a manifest, and how many there are.
    pub fn diagnostics(&self, report: &Report) {
        for diagnostic in &report.diagnostics {
            self.diagnostic(diagnostic, &report.sources);
        }
        let errors = report.count(Severity::Error);
        if errors > 0 && !self.is_json() {
            let plural = if errors == 1 { "" } else { "s" };
            self.say(&format!("{}: {errors} error{plural} in the manifest", paint(ERROR, "error")));
        }
    }

    /// Shows one finding. Warnings and notices are left out by `--quiet`.
    pub fn diagnostic(&self, diagnostic: &Diagnostic, sources: &SourceMap) {
        if self.is_json() {
            let mut value = serde_json::to_value(diagnostic.located(sources)).unwrap_or_default();
            if let Value::Object(fields) = &mut value {
                fields.insert("rendered".to_owned(), diagnostic.render(sources, false).into());
            }
            self.message("diagnostic", &value);
        } else if diagnostic.severity == Severity::Notice {
            // The place is where the value could be written: not worth four lines.
            self.notice(&diagnostic.message);
        } else if !self.quiet || diagnostic.severity == Severity::Error {
            self.say(&format!("{}\n", diagnostic.render(sources, true)));
        }
    }

    /// Says what is being done: `Compiling Llama-3.2-3B for iphone`. Left out by `--quiet`.
    pub fn status(&self, action: &str, message: impl Display) {
        if self.is_json() {
            self.message("status", &json!({ "action": action, "message": message.to_string() }));
        } else if !self.quiet {
            self.say(&format!("{} {}", paint(STATUS, &format!("{action:>12}")), harmless(&message.to_string())));
        }
    }

    /// A status line that only `-v` shows, such as why a step ran or not.
    pub fn detail(&self, action: &str, message: impl Display) {
        if self.verbose > 0 {
            self.status(action, message);
        }
    }

    /// What a model thinks before it answers: on stderr, so that stdout holds the answer only, and dimmed. Left out by `--quiet`.
    pub fn aside(&self, text: &str) {
        if !self.quiet && !self.is_json() {
            self.progress.suspend(|| {
                let dim = anstyle::Style::new().dimmed();
                let mut stderr = anstream::stderr().lock();
                let _ = write!(stderr, "{dim}{}{dim:#}", harmless(text));
            });
        }
    }

    /// A warning that is not about a place in the manifest.
    pub fn warning(&self, message: impl Display) {
        if self.is_json() {
            self.message("diagnostic", &json!({ "severity": "warning", "message": message.to_string() }));
        } else if !self.quiet {
            self.say_as(WARNING, "warning", message);
        }
    }

    /// An error beside others, after which the program ends with [`crate::exit::AlreadyReported`].
    pub fn problem(&self, message: impl Display) {
        if self.is_json() {
            self.message("diagnostic", &json!({ "severity": "error", "message": message.to_string() }));
        } else {
            self.say_as(ERROR, "error", message);
        }
    }

    /// A value that was chosen, or something else worth knowing, that is not about a place in the manifest.
    pub fn notice(&self, message: impl Display) {
        if self.is_json() {
            self.message("diagnostic", &json!({ "severity": "notice", "message": message.to_string() }));
        } else if !self.quiet {
            self.say_as(NOTICE, "notice", message);
        }
    }

    /// The error that ends the program, with its causes.
    pub fn error(&self, error: &anyhow::Error, exit_code: u8) {
        let causes: Vec<String> = error.chain().skip(1).map(|cause| cause.to_string()).collect();
        if self.is_json() {
            let value = json!({ "message": error.to_string(), "causes": causes, "exit_code": exit_code });
            return self.message("error", &value);
        }
        let mut text = error.to_string();
        for cause in causes {
            text.push_str(&format!("\n  caused by: {}", cause.replace('\n', "\n    ")));
        }
        self.say_as(ERROR, "error", text);
    }

    /// A bar that counts `total` bytes. Hidden unless stderr is a terminal and people read it.
    pub fn bytes_bar(&self, label: impl Into<String>, total: u64) -> ProgressBar {
        let template = "{prefix:>12.green.bold} {msg} [{bar:24}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
        self.bar(label, total, template)
    }

    /// A bar that counts `total` steps.
    pub fn steps_bar(&self, label: impl Into<String>, total: u64) -> ProgressBar {
        self.bar(label, total, "{prefix:>12.green.bold} {msg} [{bar:24}] {pos}/{len}")
    }

    fn bar(&self, label: impl Into<String>, total: u64, template: &str) -> ProgressBar {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.progress.add(ProgressBar::new(total)).with_prefix(label.into()).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// Writes a JSON message. When nobody reads any more the work still goes on.
    fn message(&self, reason: &str, value: &Value) {
        let line = json_line(reason, value);
        let mut stdout = io::stdout().lock();
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    }

    /// Writes `kind: message` to stderr.
    fn say_as(&self, style: Style, kind: &str, message: impl Display) {
        self.say(&format!("{}: {}", paint(style, kind), harmless(&message.to_string())));
    }

    /// Writes to stderr, above any progress bars. When stderr is closed there is nobody to tell.
    fn say(&self, text: &str) {
        self.progress.suspend(|| {
            let _ = writeln!(anstream::stderr().lock(), "{text}");
        });
    }
}

const ERROR: Style = AnsiColor::BrightRed.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const NOTICE: Style = AnsiColor::BrightGreen.on_default().bold();
const STATUS: Style = AnsiColor::Green.on_default().bold();

fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Foreign text for a terminal: control characters but line ends and tabs as Rust would write them.
fn harmless(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(obeyed) {
        return text.into();
    }
    let shown = text.chars().map(|c| if obeyed(c) { c.escape_default().to_string() } else { c.to_string() });
    shown.collect::<String>().into()
}

/// `{"reason": …}` with the fields of `value`; a value that is no object goes into the field `value`.
fn json_line(reason: &str, value: &impl Serialize) -> String {
    let mut fields = Map::from_iter([("reason".to_owned(), Value::from(reason))]);
    match serde_json::to_value(value) {
        Ok(Value::Object(own)) => fields.extend(own),
        Ok(other) => drop(fields.insert("value".to_owned(), other)),
        Err(error) => drop(fields.insert("unserializable".to_owned(), error.to_string().into())),
    }
    Value::Object(fields).to_string()
}

/// The reader of stdout went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StdoutClosed;

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of the output went away")
    }
}

impl std::error::Error for StdoutClosed {}

impl StdoutClosed {
    /// Marks a broken pipe on stdout, leaves other errors as they are.
    pub fn wrap(error: io::Error) -> anyhow::Error {
        match error.kind() {
            io::ErrorKind::BrokenPipe => StdoutClosed.into(),
            _ => anyhow::Error::new(error).context("writing to stdout"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        let hostile = "a\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m\rb\u{8}\u{7f}\n\tend";
        assert_eq!(harmless(hostile), r"a\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m\rb\u{8}\u{7f}".to_owned() + "\n\tend");
        // Joiners are part of words and of emoji.
        let people = "\u{645}\u{6cc}\u{200c}\u{62e} \u{1f469}\u{200d}\u{1f4bb}";
        assert!(matches!(harmless(people), Cow::Borrowed(text) if text == people));
    }
}
