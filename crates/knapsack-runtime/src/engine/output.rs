use super::{Event, FinishReason, GenerateOptions, Generation, GenerationStats};
use crate::chat_config::ChatModel;
use crate::sampling::TokenLogProbs;
use crate::text::{Detokenizer, Said, StopStrings, ThinkingSplitter, ToolCall};
use crate::tools::{Parsed, ToolFormat, ToolParser};

/// Turns tokens into streamed thoughts and text.
pub(super) struct Output<'a> {
    chat: &'a ChatModel,
    detokenizer: Detokenizer,
    splitter: ThinkingSplitter,
    stops: StopStrings,
    pub(super) stop_tokens: Vec<u32>,
    on_event: &'a mut dyn FnMut(Event<'_>),
    /// Takes calls of tools out of the text.
    parser: Option<ToolParser>,
    /// Special tokens that stand around calls, with their spelling.
    marks: Vec<(u32, &'static str)>,
    tool_calls: Vec<ToolCall>,
    text: String,
    reasoning: String,
    pub(super) tokens: Vec<u32>,
    thinking_tokens: usize,
    logprobs: Vec<TokenLogProbs>,
    stopped: bool,
}

impl<'a> Output<'a> {
    pub(super) fn new(
        chat: &'a ChatModel,
        prompt: &[u32],
        options: &GenerateOptions,
        tools: Option<(ToolFormat, ToolParser)>,
        on_event: &'a mut dyn FnMut(Event<'_>),
    ) -> Self {
        // An answer of a given form ends with the form, or by the token that says so, and not by a text within it.
        let formed = options.grammar.is_some() || tools.is_some();
        let own = if options.ignore_stops || formed { &[][..] } else { chat.stop_strings() };
        let mut stop_tokens = Vec::new();
        if formed || !options.ignore_stops {
            stop_tokens.extend(chat.stop_tokens());
        }
        stop_tokens.extend(&options.stop_tokens);
        // A special token has no text: as a stop string it ends the answer as a token.
        stop_tokens.extend(options.stop.iter().filter_map(|stop| chat.special_token(stop)));
        let thinking = chat.thinking_marks().filter(|_| options.separate_thinking);
        let (format, parser) = tools.unzip();
        let spelled = format.into_iter().flat_map(ToolFormat::marks);
        let marks = spelled.filter_map(|mark| Some((chat.special_token(mark)?, mark)));
        Self {
            chat,
            detokenizer: chat.tokenizer.detokenizer(),
            splitter: ThinkingSplitter::new(thinking, chat.begins_thinking(prompt)),
            stops: StopStrings::new(own.iter().chain(&options.stop).cloned()),
            stop_tokens,
            on_event,
            parser,
            marks: marks.collect(),
            tool_calls: Vec::new(),
            text: String::new(),
            reasoning: String::new(),
            tokens: Vec::new(),
            thinking_tokens: 0,
            logprobs: Vec::new(),
            stopped: false,
        }
    }

    /// What the model thought of the token that is added next.
    pub(super) fn rank(&mut self, logprobs: TokenLogProbs) {
        (self.on_event)(Event::Token(&logprobs));
        self.logprobs.push(logprobs);
    }

    /// Whether the model thinks.
    pub(super) fn is_thinking(&self) -> bool {
        self.splitter.is_thinking()
    }

    /// Whether the model thinks, and has thought for as many tokens as it may.
    pub(super) fn thought_enough(&self, most: Option<u32>) -> bool {
        self.splitter.is_thinking() && most.is_some_and(|most| self.thinking_tokens >= most as usize)
    }

    /// Adds tokens up to the limit; how the answer ends when it does so within them.
    pub(super) fn add(&mut self, tokens: &[u32], options: &GenerateOptions) -> Option<FinishReason> {
        for &token in tokens {
            if self.tokens.len() >= options.limit() {
                return Some(FinishReason::Length);
            }
            if self.push(token) {
                return Some(FinishReason::Stop);
            }
        }
        None
    }

    /// Adds a token; true when its text completed a stop string.
    fn push(&mut self, token: u32) -> bool {
        self.tokens.push(token);
        self.thinking_tokens += usize::from(self.splitter.is_thinking());
        let call_mark = self.marks.iter().find(|(mark, _)| *mark == token).map(|(_, spelled)| *spelled);
        let piece = match call_mark.or_else(|| self.chat.thinking_mark(token)) {
            // A special token has no text, but the splitter or the parser of calls looks for it.
            Some(mark) => mark.to_owned(),
            None => self.detokenizer.push(token),
        };
        let said = self.split(|splitter, give| splitter.push(&piece, give));
        let found = self.stops.push(&said);
        self.give(&found.text);
        self.stopped = found.stopped;
        found.stopped
    }

    /// Gives out thoughts; returns what belongs to the answer.
    fn split(&mut self, work: impl FnOnce(&mut ThinkingSplitter, &mut dyn FnMut(Said<'_>))) -> String {
        let mut answer = String::new();
        let (reasoning, on_event) = (&mut self.reasoning, &mut *self.on_event);
        work(&mut self.splitter, &mut |said| match said {
            Said::Answer(text) => answer.push_str(text),
            Said::Thinking(text) => {
                reasoning.push_str(text);
                on_event(Event::Thinking(text));
            }
        });
        answer
    }

    fn give(&mut self, text: &str) {
        match &mut self.parser {
            Some(parser) => parser.push(text).into_iter().for_each(|part| self.part(part)),
            None => self.say(text),
        }
    }

    fn part(&mut self, part: Parsed) {
        match part {
            Parsed::Text(text) => self.say(&text),
            Parsed::Begin { id, name } => (self.on_event)(Event::ToolCallBegins { id: &id, name: &name }),
            Parsed::Arguments(text) => (self.on_event)(Event::ToolArguments(&text)),
            Parsed::Call(call) => {
                (self.on_event)(Event::ToolCall(&call));
                self.tool_calls.push(call);
            }
        }
    }

    fn say(&mut self, text: &str) {
        if !text.is_empty() {
            self.text.push_str(text);
            (self.on_event)(Event::Text(text));
        }
    }

    /// Gives out what was held back. Bytes of a character that was cut off are dropped.
    pub(super) fn end(mut self, finish: FinishReason, mut stats: GenerationStats) -> Generation {
        if !self.stopped {
            let rest = self.split(ThinkingSplitter::finish);
            let found = self.stops.push(&rest);
            self.give(&found.text);
            if !found.stopped {
                let held = self.stops.finish();
                self.give(&held);
            }
        }
        let rest = self.parser.as_mut().map(ToolParser::finish).unwrap_or_default();
        rest.into_iter().for_each(|part| self.part(part));
        stats.generated_tokens = self.tokens.len();
        stats.thinking_tokens = self.thinking_tokens;
        let Self { text, reasoning, tool_calls, tokens, logprobs, .. } = self;
        Generation { text, reasoning, tool_calls, tokens, logprobs, finish, stats }
    }
}
