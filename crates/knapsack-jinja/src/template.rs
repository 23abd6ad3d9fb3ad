use crate::ast::{Name, Node};
use crate::budget::Limits;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::interpreter::Interpreter;
use crate::text::Text;
use crate::{lexer, parser};
use std::sync::Arc;

/// Longest template that is read; real ones stay below 50 kB.
const MAX_BYTES: usize = 1 << 20;
/// Stack of the threads that parse and render: what the depths that are allowed need, many times over.
const STACK: usize = 16 << 20;

/// A template that was parsed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Template {
    body: Arc<Vec<Node>>,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// One that is too long, too deeply nested, or no template.
    pub fn parse(source: &str) -> Result<Self> {
        if source.len() > MAX_BYTES {
            return Err(Error::limit(format!("it has {} bytes, more than the limit of {MAX_BYTES}", source.len())));
        }
        let body = on_own_stack(|| parser::parse(lexer::tokens(source)?))?;
        Ok(Self { body: Arc::new(body) })
    }

    /// Renders it with these variables; `strftime` formats the time for `strftime_now`.
    ///
    /// # Errors
    /// What the template raises, operations that Python would refuse, and bounds that it goes beyond.
    pub fn render(
        &self,
        variables: &[(&str, Context)],
        strftime: &(dyn Fn(&str) -> String + Sync),
        limits: Limits,
    ) -> Result<Text> {
        on_own_stack(|| {
            let mut interpreter = Interpreter::new(limits, strftime);
            for (name, value) in variables {
                let value = interpreter.import(value)?;
                interpreter.define(Name::from(*name), value);
            }
            interpreter.run(&self.body)
        })
    }
}

/// Runs `work` on a thread whose stack is large enough for every depth that is allowed, whatever thread the caller is on. A panic
/// becomes an error.
fn on_own_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat template".into()).stack_size(STACK);
        let thread = thread
            .spawn_scoped(scope, work)
            .map_err(|error| Error::limit(format!("no thread could be started for it: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(Error::limit("the interpreter gave up")))
    })
}
