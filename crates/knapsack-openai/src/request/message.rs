use super::json::{Json, TextOr};
use super::shortened;
use crate::ApiError;
use knapsack_runtime::text::{Message, Role};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Most parts of a message.
const MAX_PARTS: usize = 1024;

/// A message as clients write it. What they send back of an earlier answer (`refusal`, `annotations`, `audio`) says nothing to a
/// model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestMessage {
    role: String,
    content: Option<TextOr<Part, MAX_PARTS>>,
    name: Option<String>,
    #[serde(rename = "refusal")]
    _refusal: Option<String>,
    #[serde(rename = "annotations")]
    _annotations: Option<IgnoredAny>,
    audio: Option<IgnoredAny>,
    function_call: Option<IgnoredAny>,
    tool_calls: Option<Json>,
    tool_call_id: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

/// The message as the chat template takes it.
pub(super) fn read(message: &RequestMessage) -> Result<Message, ApiError> {
    let refuse = |field: &str| {
        let message = format!("`{field}` of a message is not supported");
        Err(ApiError { code: "unsupported_parameter", ..ApiError::invalid(message).about("messages") })
    };
    let given = [
        ("name", message.name.is_some()),
        ("audio", message.audio.is_some()),
        ("function_call", message.function_call.is_some()),
        ("tool_calls", message.tool_calls.is_some()),
        ("tool_call_id", message.tool_call_id.is_some()),
    ];
    if let Some((field, _)) = given.into_iter().find(|(_, given)| *given) {
        return refuse(field);
    }
    let unknown = || ApiError::invalid(format!("no such role: `{}`", shortened(&message.role))).about("messages");
    let role = Role::parse(&message.role).ok_or_else(unknown)?;
    let content = match &message.content {
        None => String::new(),
        Some(TextOr::Text(text)) => text.clone(),
        Some(TextOr::List(parts)) => parts.iter().map(Part::text).collect::<Result<_, _>>()?,
    };
    Ok(Message::new(role, content))
}

impl Part {
    fn text(&self) -> Result<&str, ApiError> {
        match (self.kind.as_str(), &self.text) {
            ("text", Some(text)) => Ok(text),
            _ => {
                let message = format!("content of type `{}` is not supported", shortened(&self.kind));
                Err(ApiError::invalid(message).about("messages"))
            }
        }
    }
}
