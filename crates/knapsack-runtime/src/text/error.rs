use std::path::PathBuf;

/// Why text could not be turned into tokens or a conversation into a prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum TextError {
    /// A file of the model folder could not be read.
    #[error("cannot read {}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A file is larger than any real one.
    #[error("{} has {bytes} bytes, more than the limit of {limit}", path.display())]
    TooLarge { path: PathBuf, bytes: u64, limit: u64 },
    /// A JSON file that is not what it should be.
    #[error("cannot decode {}", path.display())]
    Json { path: PathBuf, source: knapsack_artifact::json::JsonError },
    /// `tokenizer.json` is not a tokenizer.
    #[error("tokenizer.json makes no tokenizer: {0}")]
    Tokenizer(String),
    /// The tokenizer could not encode a text.
    #[error("cannot tokenize the text: {0}")]
    Encode(String),
    /// A text that is longer than the context whatever its tokens are.
    #[error("the prompt has {bytes} bytes, more than any {context} tokens, the model's context, can stand for")]
    LongerThanContext {
        bytes: usize,
        /// Most tokens.
        context: u32,
    },
    /// The model brings no chat template.
    #[error(
        "the model has no chat template (neither a complete conv_template in mlc-chat-config.json nor a chat_template in \
         tokenizer_config.json): use --raw to complete plain text"
    )]
    NoTemplate,
    /// The Jinja template could not be parsed or run, or it went beyond its bounds.
    #[error("the chat template of {place} failed: {problem}")]
    Template {
        /// Where the template was found.
        place: String,
        problem: knapsack_jinja::Error,
    },
    /// The template itself refused the conversation.
    #[error("the chat template refuses this conversation: {0}")]
    Refused(String),
    /// A model that is asked to think, and is not known to.
    #[error("the model is not known to think before it answers")]
    NoThinking,
    /// A role that the conversation template does not define.
    #[error("the conversation template {template:?} has no role {role:?}")]
    UnknownRole {
        /// The template's name.
        template: String,
        /// The role asked for.
        role: &'static str,
    },
    /// A message that the rendered prompt would exceed the limit with.
    #[error("the rendered prompt has more than {0} bytes")]
    PromptTooLong(usize),
}
