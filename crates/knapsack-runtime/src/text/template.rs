use super::{ConvTemplate, JinjaTemplate, TextError};
use std::time::SystemTime;

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Role {
    /// The name that templates and the OpenAI protocol use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }

    /// The role of that name; `developer` is what OpenAI calls `system` in newer interfaces.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "system" | "developer" => Some(Role::System),
            "user" => Some(Role::User),
            "assistant" => Some(Role::Assistant),
            "tool" => Some(Role::Tool),
            _ => None,
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who.
    pub role: Role,
    /// What.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Tokens that come before the text (MLC's `system_prefix_token_ids`), as written: they may be outside the vocabulary.
    pub prefix: Vec<u32>,
    /// The text, special tokens spelled out.
    pub text: String,
}

/// How a model wants a conversation to look.
#[derive(Clone, Debug)]
pub enum ChatTemplate {
    /// `conv_template` of `mlc-chat-config.json`.
    Conversation(ConvTemplate),
    /// `chat_template` of `tokenizer_config.json`.
    Jinja(JinjaTemplate),
}

impl ChatTemplate {
    /// The prompt that asks for the assistant's answer to `messages`.
    ///
    /// # Errors
    /// See [`ConvTemplate::render`] and [`JinjaTemplate::render`].
    pub fn render(&self, messages: &[Message]) -> Result<Prompt, TextError> {
        match self {
            ChatTemplate::Conversation(template) => template.render(messages),
            ChatTemplate::Jinja(template) => {
                Ok(Prompt { prefix: Vec::new(), text: template.render(messages, SystemTime::now())? })
            }
        }
    }
}
