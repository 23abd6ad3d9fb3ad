use super::{JinjaTemplate, Message, MlcTemplate, Prompt, PromptOptions, TextError, clock};

/// How a model wants a conversation to look.
#[derive(Clone, Debug)]
pub enum ChatTemplate {
    /// `conv_template` of `mlc-chat-config.json`.
    Conversation(MlcTemplate),
    /// The model's own, in Jinja.
    Jinja(JinjaTemplate),
}

impl ChatTemplate {
    /// The prompt that asks for the assistant's answer to `messages`.
    ///
    /// # Errors
    /// See [`MlcTemplate::render`] and [`JinjaTemplate::render`].
    pub fn render(&self, messages: &[Message], options: &PromptOptions) -> Result<Prompt, TextError> {
        match self {
            ChatTemplate::Conversation(template) => template.render(messages, options),
            ChatTemplate::Jinja(template) => template.render(messages, options, clock::local_now()),
        }
    }

    /// The same without what asks for the answer: what of a prompt stays as it is in the prompt of the next turn.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub(crate) fn render_said(&self, messages: &[Message], options: &PromptOptions) -> Result<Prompt, TextError> {
        match self {
            ChatTemplate::Conversation(template) => template.render_said(messages, options),
            ChatTemplate::Jinja(template) => template.render_said(messages, options, clock::local_now()),
        }
    }
}
