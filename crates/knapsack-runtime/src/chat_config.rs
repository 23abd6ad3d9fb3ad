//! What a model folder says about talking to the model: templates, sampling defaults, tokens that end an answer.

use crate::grammar::{Grammar, GrammarError, Guide, Vocabulary};
use crate::sampling::SamplingOptions;
use crate::text::{
    ChatTemplate, JinjaTemplate, Keep, MARKS, Message, MlcTemplate, Prompt, PromptOptions, TextError, ThinkingMarks,
    Tokenizer, read_capped,
};
use crate::tools::ToolFormat;
use knapsack_artifact::json;
use knapsack_device::{Folder, WeightFiles};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Largest configuration file that is read.
const MAX_FILE_BYTES: u64 = 32 << 20;
/// Most stop strings and stop tokens that are taken from a file.
const MAX_STOPS: usize = 64;

/// Special tokens that end a turn in the families in use. A model that emits one is done, whatever its configuration names:
/// they are never part of visible text.
const END_OF_TURN: [&str; 13] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|end_of_turn|>",
    "<turn|>",
    "[|endofturn|]",
    "</s>",
    "<eos>",
];

/// The text side of a model: how its conversations look in tokens.
#[derive(Clone, Debug)]
pub struct ChatModel {
    /// Between the model's text and its tokens.
    pub tokenizer: Tokenizer,
    /// How the model's author recommends that tokens are drawn.
    pub defaults: SamplingOptions,
    template: Option<ChatTemplate>,
    /// For conversations with tools, where it is another one.
    tool_template: Option<ChatTemplate>,
    thinking: Option<ThinkingMarks>,
    bos: Option<u32>,
    stop_tokens: Vec<u32>,
    stop_strings: Vec<String>,
    vocab_size: u32,
    /// Made when the first grammar needs it.
    vocabulary: Arc<OnceLock<Result<Vocabulary, String>>>,
}

impl ChatModel {
    /// Reads `tokenizer.json` and, where they are, `mlc-chat-config.json`, `tokenizer_config.json`, `chat_template.jinja`,
    /// `chat_template.json` and `generation_config.json`. `vocab_size` is the model's: ids outside it are never given out.
    ///
    /// The template is the Jinja template that `chat_template` of `mlc-chat-config.json` names, or else `conv_template` when it
    /// is there and complete, or else the tokenizer's Jinja template. One that does not parse fails when it is used.
    ///
    /// # Errors
    /// A file that is there and cannot be read or decoded.
    pub fn open(folder: &Path, vocab_size: u32) -> Result<Self, TextError> {
        Self::from_files(&Folder::new(folder), vocab_size, Keep::Nowhere)
    }

    /// The same of a folder that is left as it is, with the tokenizer's tables in a folder of a cache: where no earlier call made
    /// them they are made and kept there for the next, if that can be written to.
    ///
    /// # Errors
    /// As [`ChatModel::open`].
    pub fn open_with_cache(folder: &Path, vocab_size: u32, cache: &Path) -> Result<Self, TextError> {
        Self::from_files(&Folder::new(folder), vocab_size, Keep::Cache(cache))
    }

    /// The same of files that are wherever they are.
    ///
    /// # Errors
    /// As [`ChatModel::open`].
    pub(crate) fn from_files(files: &dyn WeightFiles, vocab_size: u32, keep: Keep<'_>) -> Result<Self, TextError> {
        let tokenizer = Tokenizer::from_files(files, keep)?;
        let chat = read_json(files, "mlc-chat-config.json")?;
        let tokens = read_json(files, "tokenizer_config.json")?;
        let generation = read_json(files, "generation_config.json")?;
        let conversation = chat.get("conv_template").and_then(|value| MlcTemplate::from_json(value).ok());
        let mut stops = Stops { tokenizer: &tokenizer, vocab_size, tokens: Vec::new(), strings: Vec::new() };
        if let Some(conversation) = &conversation {
            conversation.stop_token_ids().iter().take(MAX_STOPS).for_each(|&id| stops.token(id));
            conversation.stop_strings().iter().take(MAX_STOPS).for_each(|stop| stops.string(stop));
        }
        for config in [&chat, &generation] {
            ids(config.get("eos_token_id")).take(MAX_STOPS).for_each(|id| stops.token(id));
        }
        let named = special_token(&tokens, "eos_token");
        for token in named.as_deref().into_iter().chain(END_OF_TURN) {
            stops.special(token);
        }
        let (stop_tokens, stop_strings) = (stops.tokens, stops.strings);
        let bos = ids(chat.get("bos_token_id"))
            .next()
            .or_else(|| tokenizer.token_id(&special_token(&tokens, "bos_token")?))
            .filter(|&id| id < vocab_size);
        let own = chat.get("chat_template").is_some_and(Value::is_string);
        let (template, tool_template) = match conversation {
            Some(template) if !own => (Some(ChatTemplate::Conversation(template)), None),
            _ => {
                let Templates { default, for_tools } = Templates::read(files, &tokens)?;
                (default.map(ChatTemplate::Jinja), for_tools.map(ChatTemplate::Jinja))
            }
        };
        let defaults = defaults(&chat, &generation);
        let thinking = thinking_marks(&tokenizer, template.as_ref());
        Ok(Self {
            tokenizer,
            defaults,
            template,
            tool_template,
            thinking,
            bos,
            stop_tokens,
            stop_strings,
            vocab_size,
            vocabulary: Arc::default(),
        })
    }

    /// The model's chat template, where it has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// How the model writes calls of tools, where its template takes tools.
    pub(crate) fn tool_format(&self) -> Option<ToolFormat> {
        match self.tool_template.as_ref().or(self.template.as_ref())? {
            ChatTemplate::Jinja(template) => template.tool_format(),
            ChatTemplate::Conversation(_) => None,
        }
    }

    /// The token that starts a document, where the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Tokens that end an answer; all of them in the vocabulary.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop_tokens
    }

    /// Strings that end an answer.
    pub(crate) fn stop_strings(&self) -> &[String] {
        &self.stop_strings
    }

    /// The prompt that asks for the assistant's answer to `messages`, as text.
    ///
    /// # Errors
    /// A model without a template, or a conversation that the template refuses.
    pub fn render(&self, messages: &[Message], options: &PromptOptions) -> Result<Prompt, TextError> {
        let for_tools = self.tool_template.as_ref().filter(|_| !options.tools.is_empty());
        let template = for_tools.or(self.template.as_ref()).ok_or(TextError::NoTemplate)?;
        let mut prompt = template.render(messages, options)?;
        let switches = matches!(template, ChatTemplate::Jinja(jinja) if jinja.switches_thinking());
        match (options.thinking, self.thinking) {
            (Some(true), None) if !switches => return Err(TextError::NoThinking),
            // What cannot be switched off is ended before it begins.
            (Some(false), Some(ThinkingMarks { start, end })) if !switches => {
                if !prompt.text.trim_end().ends_with(start) {
                    prompt.text.push_str(start);
                }
                if !prompt.text.ends_with('\n') {
                    prompt.text.push('\n');
                }
                prompt.text.push_str(&format!("\n{end}\n\n"));
            }
            _ => {}
        }
        Ok(prompt)
    }

    /// The marks around what the model thinks before it answers, where it is known to.
    pub(crate) fn thinking_marks(&self) -> Option<ThinkingMarks> {
        self.thinking
    }

    /// Whether the model goes on thinking after this prompt: the template has begun the thoughts.
    pub(crate) fn begins_thinking(&self, prompt: &[u32]) -> bool {
        let tail = self.tokenizer.spelling(&prompt[prompt.len().saturating_sub(16)..]);
        self.thinking.is_some_and(|marks| tail.trim_end().ends_with(marks.start))
    }

    /// The mark that a special token is.
    pub(crate) fn thinking_mark(&self, token: u32) -> Option<&'static str> {
        let marks = self.thinking?;
        // The mark may be longer than its token: a channel and its name.
        let spelled = self.tokenizer.is_special(token).then(|| self.tokenizer.spelling(&[token]))?;
        [marks.start, marks.end].into_iter().find(|mark| mark.starts_with(&spelled)).map(|mark| &mark[..spelled.len()])
    }

    /// The tokens that end the thoughts.
    pub(crate) fn end_of_thinking(&self) -> Result<Vec<u32>, TextError> {
        match self.thinking {
            Some(marks) => self.tokenizer.encode(&format!("\n{}\n\n", marks.end)),
            None => Ok(Vec::new()),
        }
    }

    /// The tokens of a rendered prompt.
    ///
    /// # Errors
    /// A text that cannot be tokenized.
    pub fn tokens(&self, prompt: &Prompt) -> Result<Vec<u32>, TextError> {
        // The reference copies its template's ids from the full-size model; a model with another vocabulary has its own BOS.
        let mut tokens: Vec<u32> = match prompt.prefix.iter().all(|&id| id < self.vocab_size) {
            true => prompt.prefix.clone(),
            false => self.bos.into_iter().collect(),
        };
        tokens.extend(self.tokenizer.encode_prompt(&prompt.text, &prompt.data, self.vocab_size)?);
        Ok(tokens)
    }

    /// What leads an answer along a grammar. The first call orders the vocabulary, which takes a moment; it is kept with the model.
    ///
    /// # Errors
    /// A grammar that cannot be used, or a model whose answers have no end.
    pub(crate) fn guide(&self, grammar: &Grammar) -> Result<Guide, GrammarError> {
        let make = || Vocabulary::new(&self.tokenizer, self.vocab_size, &self.stop_tokens);
        match self.vocabulary.get_or_init(make) {
            Ok(vocabulary) => vocabulary.guide(grammar),
            Err(problem) => Err(GrammarError::new("model's vocabulary", problem)),
        }
    }

    /// The tokens of the prompt that asks for the assistant's answer to `messages`.
    ///
    /// # Errors
    /// See [`ChatModel::render`] and [`ChatModel::tokens`].
    pub fn prompt(&self, messages: &[Message], options: &PromptOptions) -> Result<Vec<u32>, TextError> {
        self.tokens(&self.render(messages, options)?)
    }

    /// How many tokens of a prompt for `messages` do not depend on what asks for the answer: as many as the prompt of the next turn
    /// will begin with, whatever a template makes of earlier thoughts. 0 where that cannot be said.
    pub(crate) fn said(&self, messages: &[Message], options: &PromptOptions, prompt: &[u32]) -> usize {
        let for_tools = self.tool_template.as_ref().filter(|_| !options.tools.is_empty());
        let rendered = for_tools.or(self.template.as_ref()).map(|template| template.render_said(messages, options));
        let Some(Ok(rendered)) = rendered else { return 0 };
        let Ok(said) = self.tokens(&rendered) else { return 0 };
        said.iter().zip(prompt).take_while(|(said, token)| said == token).count()
    }

    /// The tokens of `text` to be continued as it is, with the special tokens that the tokenizer itself puts around a document.
    ///
    /// # Errors
    /// A text that cannot be tokenized.
    pub fn raw_prompt(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.tokenizer.encode_document(text)
    }

    /// Whether a text is longer than `context` tokens can be, as far as its length alone says.
    ///
    /// # Errors
    /// When it is.
    pub fn check_length(&self, text: &str, context: Option<u32>) -> Result<(), TextError> {
        let Some(context) = context else { return Ok(()) };
        let most = (context as usize).saturating_mul(self.tokenizer.longest_token());
        match text.len() <= most {
            true => Ok(()),
            false => Err(TextError::LongerThanContext { bytes: text.len(), context }),
        }
    }

    /// The token that `text` is the spelling of, when it is a special one: it never shows in an answer, and a stop string that is
    /// one ends the answer as a token.
    pub(crate) fn special_token(&self, text: &str) -> Option<u32> {
        self.tokenizer.token_id(text).filter(|&id| id < self.vocab_size && self.tokenizer.is_special(id))
    }
}

struct Stops<'a> {
    tokenizer: &'a Tokenizer,
    vocab_size: u32,
    tokens: Vec<u32>,
    strings: Vec<String>,
}

impl Stops<'_> {
    fn token(&mut self, id: u32) {
        if id < self.vocab_size && !self.tokens.contains(&id) {
            self.tokens.push(id);
        }
    }

    fn special(&mut self, token: &str) {
        if let Some(id) = self.tokenizer.token_id(token).filter(|&id| self.tokenizer.is_special(id)) {
            self.token(id);
        }
    }

    /// A stop string that is a special token never shows in the text: it stops as a token.
    fn string(&mut self, stop: &str) {
        self.special(stop);
        if !stop.is_empty() && !self.strings.iter().any(|known| known == stop) {
            self.strings.push(stop.to_owned());
        }
    }
}

fn read_json(files: &dyn WeightFiles, name: &str) -> Result<Value, TextError> {
    match read_capped(files, name, MAX_FILE_BYTES) {
        Ok(bytes) => json::parse(&bytes).map_err(|source| TextError::Json { path: files.place().join(name), source }),
        Err(TextError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(error),
    }
}

/// One id, or a list of them.
fn ids(value: Option<&Value>) -> impl Iterator<Item = u32> + '_ {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let list = value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    value.and_then(id).into_iter().chain(list.iter().filter_map(id))
}

/// A special token of `tokenizer_config.json`: its text, or an object with its `content`.
fn special_token(config: &Value, name: &str) -> Option<String> {
    let token = config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}

/// The marks of thoughts that the tokenizer has tokens for, or the template writes.
fn thinking_marks(tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Option<ThinkingMarks> {
    let known = |marks: &&ThinkingMarks| {
        tokenizer.token_id(marks.end).is_some()
            || matches!(template, Some(ChatTemplate::Jinja(jinja)) if jinja.mentions(marks.end))
    };
    MARKS.iter().find(known).copied()
}

/// A tokenizer's Jinja templates.
struct Templates {
    default: Option<JinjaTemplate>,
    for_tools: Option<JinjaTemplate>,
}

impl Templates {
    /// As transformers looks for them: `chat_template.jinja`, the configuration's `chat_template` (one, or several with names), or
    /// the processor's `chat_template.json`.
    fn read(files: &dyn WeightFiles, config: &Value) -> Result<Self, TextError> {
        let special = special_tokens(config);
        let one = |place: &str, source: &str| Some(JinjaTemplate::new(place, source, special.clone()));
        let single = |default| Ok(Self { default, for_tools: None });
        match read_capped(files, "chat_template.jinja", MAX_FILE_BYTES) {
            Ok(bytes) => return single(one("chat_template.jinja", &String::from_utf8_lossy(&bytes))),
            Err(TextError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        match config.get("chat_template") {
            Some(Value::String(source)) => single(one("tokenizer_config.json", source)),
            Some(Value::Array(named)) => {
                let named = |name: &str| {
                    let entry = named.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(name))?;
                    one(&format!("tokenizer_config.json ({name})"), entry.get("template")?.as_str()?)
                };
                Ok(Self { default: named("default"), for_tools: named("tool_use") })
            }
            _ => {
                let processor = read_json(files, "chat_template.json")?;
                let source = processor.get("chat_template").and_then(Value::as_str);
                single(source.and_then(|source| one("chat_template.json", source)))
            }
        }
    }
}

/// The special tokens that a template may name.
fn special_tokens(config: &Value) -> BTreeMap<String, String> {
    ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), special_token(config, name)?)))
        .collect()
}

/// The chat configuration's values, else those of `generation_config.json`. What is no usable number counts as absent.
fn defaults(chat: &Value, generation: &Value) -> SamplingOptions {
    let base = SamplingOptions::default();
    let number = |name: &str, fallback: f32, range: RangeInclusive<f32>| {
        let value = [chat, generation].into_iter().find_map(|config| config.get(name)?.as_f64());
        value
            .map(|value| value as f32)
            .filter(|value| value.is_finite())
            .unwrap_or(fallback)
            .clamp(*range.start(), *range.end())
    };
    SamplingOptions {
        temperature: number("temperature", base.temperature, 0.0..=10.0),
        // A float holds every count that a vocabulary can make a difference for.
        top_k: number("top_k", 0.0, 0.0..=16_777_216.0) as u32,
        top_p: number("top_p", base.top_p, 0.0..=1.0),
        min_p: number("min_p", base.min_p, 0.0..=1.0),
        repetition_penalty: match number("repetition_penalty", 1.0, 0.0..=100.0) {
            penalty if penalty < 0.01 => 1.0,
            penalty => penalty,
        },
        presence_penalty: number("presence_penalty", 0.0, -100.0..=100.0),
        frequency_penalty: number("frequency_penalty", 0.0, -100.0..=100.0),
        ..base
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_generation_config_counts_where_the_chat_configuration_is_silent() {
        let chat = json!({ "temperature": 0.6, "top_p": null });
        let generation = json!({ "temperature": 0.9, "top_p": 0.95, "top_k": 20, "min_p": 0.05 });
        let found = defaults(&chat, &generation);
        let expected =
            SamplingOptions { temperature: 0.6, top_p: 0.95, top_k: 20, min_p: 0.05, ..SamplingOptions::default() };
        assert_eq!(found, expected);
    }

    /// Ordered when the first form needs it, and kept with the model.
    #[test]
    fn the_vocabulary_is_ordered_once() {
        let chat = ChatModel::open(&knapsack_testkit::tiny_assistant(), 1024).unwrap();
        assert!(chat.vocabulary.get().is_none());
        chat.guide(&Grammar::json_object()).unwrap();
        let first: *const _ = chat.vocabulary.get().unwrap();
        let copy = chat.clone();
        for grammar in [Grammar::json_object(), Grammar::Regex("a+".into()), Grammar::Lark("start: \"x\"".into())] {
            copy.guide(&grammar).unwrap();
            assert!(std::ptr::eq(first, copy.vocabulary.get().unwrap()));
        }
    }

    #[test]
    fn no_configuration_makes_options_that_are_refused() {
        for value in [json!(-1e300), json!(1e300), json!(0), json!("x"), json!(null), json!([1]), json!(-0.001)] {
            let keys = [
                "temperature",
                "top_k",
                "top_p",
                "min_p",
                "repetition_penalty",
                "presence_penalty",
                "frequency_penalty",
            ];
            let config = Value::Object(keys.iter().map(|&key| (key.to_owned(), value.clone())).collect());
            let options = defaults(&config, &Value::Null);
            assert!(options.validate().is_ok(), "{value}: {options:?}");
        }
    }
}
