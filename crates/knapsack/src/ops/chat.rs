//! `knapsack chat PATH`: a conversation, line by line. The KV cache is kept from turn to turn; Ctrl-C ends an answer, not the
//! program.

use super::run::{generate_options, memory_line, stats};
use crate::cli::ChatArgs;
use crate::exit::{AlreadyReported, FAILED};
use crate::interrupt::Graceful;
use crate::open::{self, engine_error};
use crate::report::Reporter;
use knapsack_artifact::library::MemoryPlan;
use knapsack_runtime::text::{Message, Role};
use knapsack_runtime::{CancelFlag, Engine, Event, FinishReason, GenerateOptions, Generation};
use std::io::{BufRead, IsTerminal, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest line that is read.
const MAX_LINE_BYTES: u64 = 16 << 20;
/// How often a running answer looks whether Ctrl-C was pressed.
const POLL: Duration = Duration::from_millis(30);

const HELP: &str = "\
/reset          forget the conversation
/system TEXT    set the system message and forget the conversation; without TEXT: the model's own
/stats          what the last answer took
/help           this text
/exit           end (so does Ctrl-D)
Ctrl-C ends an answer. A line that ends with \\ goes on in the next one.";

struct Chat<'a> {
    engine: Engine,
    options: GenerateOptions,
    system: Option<String>,
    history: Vec<Message>,
    last: Option<Generation>,
    failed: bool,
    load_time: Duration,
    memory: MemoryPlan,
    reporter: &'a Reporter,
}

/// Talks until the input ends.
pub fn run(args: &ChatArgs, reporter: &Reporter) -> anyhow::Result<()> {
    let loaded = open::load(&args.model, reporter)?;
    let (memory, load_time, name) = (loaded.session.memory(), loaded.load_time, loaded.name.clone());
    let (engine, _held) = loaded.into_engine()?;
    // A model that cannot chat says so before the first question.
    let mut options = generate_options(&args.sampling, engine.chat().defaults.clone())?;
    options.prompt = super::prompt::options(&args.options)?;
    options.max_thinking_tokens = super::prompt::thinking_budget(&args.options);
    options.context = args.context_policy.into();
    let first = [Message::new(Role::User, "")];
    engine.chat().prompt(&first, &options.prompt).map_err(|error| engine_error(error.into()))?;
    let system = args.system.clone();
    let mut chat =
        Chat { engine, options, system, history: Vec::new(), last: None, failed: false, load_time, memory, reporter };
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        reporter.status("Chatting", format_args!("with {name}; /help shows the commands"));
    }
    loop {
        if interactive {
            reporter.stdout(|out| out.write_all(b"> "))?;
        }
        let Some(line) = read_line()? else { break };
        match line.trim() {
            "" => {}
            "/exit" | "/quit" => break,
            command if command.starts_with('/') => chat.command(command)?,
            _ => chat.say(line)?,
        }
    }
    // A person has seen what failed; a script sees the exit code.
    if chat.failed && !interactive { Err(AlreadyReported(FAILED).into()) } else { Ok(()) }
}

/// A line, or several that are joined by a backslash at the end; `None` at the end of the input.
fn read_line() -> anyhow::Result<Option<String>> {
    let mut text = String::new();
    loop {
        let read = std::io::stdin().lock().take(MAX_LINE_BYTES).read_line(&mut text)?;
        if read == 0 {
            return Ok((!text.is_empty()).then_some(text));
        }
        let kept = text.trim_end_matches(['\n', '\r']).len();
        text.truncate(kept);
        match text.strip_suffix('\\').map(str::len) {
            Some(kept) if text.len() < MAX_LINE_BYTES as usize => {
                text.truncate(kept);
                text.push('\n');
            }
            _ => return Ok(Some(text)),
        }
    }
}

impl Chat<'_> {
    fn command(&mut self, command: &str) -> anyhow::Result<()> {
        let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match name {
            "/reset" => self.forget(),
            "/system" => {
                self.system = Some(argument.trim().to_owned()).filter(|text| !text.is_empty());
                self.forget();
            }
            "/stats" => match &self.last {
                Some(answer) => self.show_stats(answer)?,
                None => self.reporter.line("nothing was answered yet")?,
            },
            "/help" => self.reporter.line(HELP)?,
            _ => self.reporter.warning(format_args!("no command {name}; /help shows those that there are")),
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.history.clear();
        self.engine.reset();
    }

    fn show_stats(&self, answer: &Generation) -> anyhow::Result<()> {
        let stats = &answer.stats;
        self.reporter.line(format_args!(
            "prompt {} tokens, {} of them from the KV cache; prefill {:.1} tokens/s\nanswer {} tokens, {:.1} tokens/s, finish \
             reason {}\nloaded in {:.3} s, {}",
            stats.prompt_tokens,
            stats.reused_tokens,
            stats.prefill_rate(),
            stats.generated_tokens,
            stats.decode_rate(),
            answer.finish.as_str(),
            self.load_time.as_secs_f64(),
            memory_line(self.memory),
        ))
    }

    /// One turn. A turn that fails leaves the conversation as it was.
    fn say(&mut self, text: String) -> anyhow::Result<()> {
        self.history.push(Message::new(Role::User, text));
        let system = self.system.iter().map(|system| Message::new(Role::System, system));
        let messages: Vec<Message> = system.chain(self.history.iter().cloned()).collect();
        let mut written = Ok(());
        let result = self.answer(&messages, &mut written);
        written?;
        match result {
            Ok(answer) => {
                self.reporter.line("")?;
                if answer.finish == FinishReason::Length {
                    self.reporter
                        .warning("the answer ended at its limit of tokens, or of the context; /reset starts anew");
                }
                if answer.stats.dropped_messages > 0 {
                    self.reporter.warning(format_args!(
                        "the conversation has outgrown the context: the answer was given without its first {} messages",
                        answer.stats.dropped_messages
                    ));
                }
                stats(self.reporter, &answer, self.load_time, self.memory);
                let reasoning = Some(answer.reasoning.clone()).filter(|reasoning| !reasoning.is_empty());
                self.history.push(Message { reasoning, ..Message::new(Role::Assistant, answer.text.clone()) });
                self.last = Some(answer);
            }
            Err(error) => {
                self.history.pop();
                self.failed = true;
                self.reporter.error(&engine_error(error), FAILED);
            }
        }
        Ok(())
    }

    fn answer(
        &mut self,
        messages: &[Message],
        written: &mut anyhow::Result<()>,
    ) -> Result<Generation, knapsack_runtime::EngineError> {
        let (cancel, done, graceful) = (CancelFlag::new(), AtomicBool::new(false), Graceful::new());
        graceful.clear();
        let (engine, options, reporter) = (&mut self.engine, &self.options, self.reporter);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if graceful.requested() {
                        cancel.cancel();
                    }
                    std::thread::park_timeout(POLL);
                }
            });
            let mut show = |event: Event<'_>| {
                if let Event::Thinking(piece) = event {
                    reporter.aside(piece);
                }
                if let Event::Text(piece) = event
                    && written.is_ok()
                {
                    *written = reporter.stdout(|out| out.write_all(piece.as_bytes()));
                }
                if written.is_err() {
                    cancel.cancel();
                }
            };
            let answer = engine.answer(messages, options, &cancel, &mut show);
            done.store(true, Ordering::Relaxed);
            watcher.thread().unpark();
            graceful.clear();
            answer
        })
    }
}
