use super::json::{Json, List, TextOr};
use super::shortened;
use crate::ApiError;
use knapsack_runtime::text::{Message, Role, ToolCall};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Most calls of a message.
const MAX_CALLS: usize = 128;
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
    reasoning_content: Option<String>,
    tool_calls: Option<List<Call, MAX_CALLS>>,
    tool_call_id: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

/// A call that an earlier answer asked for.
#[derive(Clone, Debug, Deserialize)]
struct Call {
    #[serde(default)]
    id: String,
    function: Function,
}

#[derive(Clone, Debug, Deserialize)]
struct Function {
    name: String,
    #[serde(default)]
    arguments: Json,
}

/// The message as the chat template takes it.
pub(super) fn read(message: &RequestMessage) -> Result<Message, ApiError> {
    let refuse = |field: &str| {
        let message = format!("`{field}` of a message of the role `{}` is not supported", shortened(&message.role));
        Err(ApiError { code: "unsupported_parameter", ..ApiError::invalid(message).about("messages") })
    };
    let given = [
        ("name", message.name.is_some() && message.role != "tool"),
        ("audio", message.audio.is_some()),
        ("function_call", message.function_call.is_some()),
        ("reasoning_content", message.reasoning_content.is_some() && message.role != "assistant"),
        ("tool_calls", message.tool_calls.is_some() && message.role != "assistant"),
        ("tool_call_id", message.tool_call_id.is_some() && message.role != "tool"),
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
    let call = |call: &Call| ToolCall {
        id: call.id.clone(),
        name: call.function.name.clone(),
        arguments: ToolCall::parse_arguments(call.function.arguments.0.clone()),
    };
    Ok(Message {
        reasoning: message.reasoning_content.clone(),
        tool_calls: message.tool_calls.iter().flat_map(|calls| calls.0.iter().map(call)).collect(),
        tool_call_id: message.tool_call_id.clone(),
        name: message.name.clone(),
        ..Message::new(role, content)
    })
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
