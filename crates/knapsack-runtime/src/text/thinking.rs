//! What a model thinks before it answers, told apart from the answer.

use super::stop::overlap;

/// The marks around what a model thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThinkingMarks {
    /// Before it.
    pub start: &'static str,
    /// After it.
    pub end: &'static str,
}

/// The marks in use: Qwen, DeepSeek, SmolLM, EXAONE, LFM and others; Ministral; Gemma 4.
pub(crate) const MARKS: [ThinkingMarks; 3] = [
    ThinkingMarks { start: "<think>", end: "</think>" },
    ThinkingMarks { start: "[THINK]", end: "[/THINK]" },
    ThinkingMarks { start: "<|channel>thought", end: "<channel|>" },
];

/// A piece of what a model says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said<'a> {
    /// It thinks.
    Thinking(&'a str),
    /// It answers.
    Answer(&'a str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was said yet.
    Start,
    Thinking,
    /// The answer is about to begin: the empty lines before it are no part of it.
    Between,
    Answer,
}

/// Splits a stream of text into thoughts and answer. Thoughts are only what comes first; text that could still turn out to be a mark
/// is held back.
#[derive(Clone, Debug)]
pub(crate) struct ThinkingSplitter {
    marks: Option<ThinkingMarks>,
    state: State,
    held: String,
    /// Whether anything was thought: white space before that is dropped.
    began: bool,
}

impl ThinkingSplitter {
    /// A splitter by these marks; without marks all is answer. `open`: the prompt has begun the thoughts already.
    pub(crate) fn new(marks: Option<ThinkingMarks>, open: bool) -> Self {
        let state = match (marks, open) {
            (None, _) => State::Answer,
            (Some(_), true) => State::Thinking,
            (Some(_), false) => State::Start,
        };
        Self { marks, state, held: String::new(), began: false }
    }

    /// Whether thoughts are going on.
    pub(crate) fn is_thinking(&self) -> bool {
        self.state == State::Thinking
    }

    /// Adds text; what is certain goes to `give`.
    pub(crate) fn push(&mut self, text: &str, give: &mut dyn FnMut(Said<'_>)) {
        self.held.push_str(text);
        loop {
            let before = self.state;
            self.step(give);
            if self.state == before {
                return;
            }
        }
    }

    fn step(&mut self, give: &mut dyn FnMut(Said<'_>)) {
        let Some(marks) = self.marks.filter(|_| self.state != State::Answer) else {
            self.state = State::Answer;
            if !self.held.is_empty() {
                give(Said::Answer(&std::mem::take(&mut self.held)));
            }
            return;
        };
        match self.state {
            State::Start => {
                let said = self.held.trim_start();
                if let Some(rest) = said.strip_prefix(marks.start) {
                    self.held = rest.to_owned();
                    self.state = State::Thinking;
                } else if !marks.start.starts_with(said) {
                    self.state = State::Answer;
                }
            }
            State::Thinking => {
                let found = self.held.find(marks.end);
                // The white space around the thoughts is no part of them.
                let sure = found.unwrap_or_else(|| self.held.len() - overlap(&self.held, marks.end));
                let end = self.held[..sure].trim_end().len();
                let start = if self.began { 0 } else { end - self.held[..end].trim_start().len() };
                if start < end {
                    self.began = true;
                    give(Said::Thinking(&self.held[start..end]));
                }
                match found {
                    Some(at) => {
                        self.held.drain(..at + marks.end.len());
                        self.state = State::Between;
                    }
                    None => drop(self.held.drain(..end)),
                }
            }
            State::Between => {
                let kept = self.held.trim_start().len();
                self.held.drain(..self.held.len() - kept);
                if kept > 0 {
                    self.state = State::Answer;
                }
            }
            State::Answer => {}
        }
    }

    /// Ends the stream: gives what was held back.
    pub(crate) fn finish(&mut self, give: &mut dyn FnMut(Said<'_>)) {
        let rest = std::mem::take(&mut self.held);
        match self.state {
            State::Thinking if !rest.trim().is_empty() => give(Said::Thinking(rest.trim_end())),
            State::Start | State::Answer if !rest.is_empty() => give(Said::Answer(&rest)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(parts: &[&str], open: bool) -> (String, String) {
        let mut splitter = ThinkingSplitter::new(Some(MARKS[0]), open);
        let (mut thoughts, mut answer) = (String::new(), String::new());
        let mut give = |event: Said<'_>| match event {
            Said::Thinking(text) => thoughts.push_str(text),
            Said::Answer(text) => answer.push_str(text),
        };
        parts.iter().for_each(|part| splitter.push(part, &mut give));
        splitter.finish(&mut give);
        (thoughts, answer)
    }

    #[test]
    fn thoughts_come_first_or_not_at_all() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(split(&["<think>\nTwo\nand two.\n</think>\n\nFour."], false), pair("Two\nand two.", "Four."));
        assert_eq!(split(&["\nHm. </think>Four."], true), pair("Hm.", "Four."));
        assert_eq!(split(&["<think>\n\n</think>\n\nFour."], false), pair("", "Four."));
        assert_eq!(split(&["Four. <think>x</think>"], false), pair("", "Four. <think>x</think>"));
        assert_eq!(split(&["<think>never ends"], false), pair("never ends", ""));
        assert_eq!(split(&["<thi"], false), pair("", "<thi"));
        assert_eq!(split(&["  Four"], false), pair("", "  Four"));
        assert_eq!(split(&["<think>a</think>b</think>"], false), pair("a", "b</think>"));
    }

    proptest! {
        #[test]
        fn cutting_changes_nothing(text in "(<think>)?[ab \n<]{0,8}(</think>)?[ab \n<]{0,8}", cut in 1usize..5, open: bool) {
            let characters: Vec<char> = text.chars().collect();
            let parts: Vec<String> = characters.chunks(cut).map(|part| part.iter().collect()).collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            prop_assert_eq!(split(&parts, open), split(&[&text], open));
        }
    }
}
