use serde::Deserialize;
use serde_json::Value;

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
///
/// Its JSON is a message of the OpenAI protocol: `content` may be null or a list of texts, and a call's arguments may be written
/// as text.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// The text, as data: special tokens in it are spelled out.
    pub content: String,
    /// What the model thought before it said this.
    pub reasoning: Option<String>,
    /// The calls that the model asks for.
    pub tool_calls: Vec<ToolCall>,
    /// Of a tool's result: the call that it answers.
    pub tool_call_id: Option<String>,
    /// Of a tool's result: the tool's name.
    pub name: Option<String>,
}

/// A call of a tool that the model asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// What the result refers to.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// Its arguments: an object, or text that is none.
    pub arguments: Value,
}

impl ToolCall {
    /// The call's arguments as templates want them: the OpenAI protocol writes the object as text.
    pub fn parse_arguments(given: Value) -> Value {
        match &given {
            Value::String(text) => match serde_json::from_slice(text.as_bytes()) {
                Ok(object @ Value::Object(_)) => object,
                _ => given,
            },
            _ => given,
        }
    }
}

impl Message {
    /// One of nothing but text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        let content = content.into();
        Self { role, content, reasoning: None, tool_calls: Vec::new(), tool_call_id: None, name: None }
    }
}

/// A message as the OpenAI protocol writes it.
#[derive(Deserialize)]
struct Written {
    role: String,
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<WrittenCall>>,
    #[serde(default)]
    tool_call_id: Option<String>,
    #[serde(default)]
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct WrittenCall {
    #[serde(default)]
    id: String,
    function: WrittenFunction,
}

#[derive(Deserialize)]
struct WrittenFunction {
    name: String,
    #[serde(default)]
    arguments: Value,
}

impl TryFrom<Written> for Message {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let role = Role::parse(&written.role).ok_or_else(|| {
            format!(
                "unknown role {:?}: system, user, assistant or tool",
                written.role.chars().take(40).collect::<String>()
            )
        })?;
        let content = match written.content {
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => match parts.iter().find(|part| part.kind != "text") {
                Some(part) => return Err(format!("only text can be said, not {:.40}", part.kind)),
                None => parts.into_iter().map(|part| part.text).collect(),
            },
        };
        let calls = written.tool_calls.unwrap_or_default().into_iter().map(|call| ToolCall {
            id: call.id,
            name: call.function.name,
            arguments: ToolCall::parse_arguments(call.function.arguments),
        });
        Ok(Message {
            reasoning: written.reasoning_content,
            tool_calls: calls.collect(),
            tool_call_id: written.tool_call_id,
            name: written.name,
            ..Message::new(role, content)
        })
    }
}
