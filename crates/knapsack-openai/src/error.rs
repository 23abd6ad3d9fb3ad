use knapsack_runtime::EngineError;
use knapsack_runtime::manager::ManagerError;
use knapsack_runtime::text::TextError;
use serde_json::{Value, json};

/// An error as OpenAI's clients expect it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status that stands for it.
    pub status: u16,
    /// `invalid_request_error` or `server_error`.
    pub kind: &'static str,
    /// What a program can tell errors apart by.
    pub code: &'static str,
    /// The field of the request that is to blame, where it is one.
    pub param: Option<String>,
    /// What a person reads.
    pub message: String,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { status: 400, kind: "invalid_request_error", code: "invalid_value", param: None, message: message.into() }
    }

    /// This machine, not the request, is to blame. The message has the error's causes, outermost first.
    pub fn server(code: &'static str, status: u16, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Self { status, kind: "server_error", code, param: None, message }
    }

    /// Something that nobody foresaw.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::server("internal_error", 500, error)
    }

    /// The caller gave up before the answer began.
    pub fn cancelled() -> Self {
        let message = "cancelled while another answer of the model ran".to_owned();
        Self { status: 503, kind: "server_error", code: "cancelled", param: None, message }
    }

    /// The package has no model of that name.
    pub fn no_such_model(model_id: &str) -> Self {
        let message = format!("the package has no model `{}`", crate::request::shortened(model_id));
        Self { status: 404, code: "model_not_found", ..Self::invalid(message).about("model") }
    }

    /// With the field that is to blame.
    #[must_use]
    pub fn about(self, param: &str) -> Self {
        Self { param: Some(param.to_owned()), ..self }
    }

    /// The body of the answer.
    pub fn json(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind, "param": self.param, "code": self.code } })
    }
}

impl From<&ManagerError> for ApiError {
    fn from(error: &ManagerError) -> Self {
        match error {
            // It would never fit: asking again, as clients do after a server's error, is no use.
            ManagerError::NoRoom { needed, budget, .. } if needed > budget => {
                Self { code: "over_budget", ..Self::invalid(error.to_string()) }
            }
            ManagerError::NoRoom { .. } => Self::server("over_budget", 503, error),
            ManagerError::Cancelled { .. } => Self::server("cancelled", 503, error),
            _ => Self::internal(error),
        }
    }
}

impl From<&EngineError> for ApiError {
    fn from(error: &EngineError) -> Self {
        match error {
            EngineError::PromptTooLong { .. }
            | EngineError::Text(TextError::LongerThanContext { .. } | TextError::PromptTooLong(_)) => {
                Self { code: "context_length_exceeded", ..Self::invalid(error.to_string()).about("messages") }
            }
            EngineError::Text(TextError::NoThinking) => Self::invalid(error.to_string()).about("chat_template_kwargs"),
            EngineError::Text(_)
            | EngineError::Sampling(_)
            | EngineError::Grammar(_)
            | EngineError::EmptyPrompt
            | EngineError::TokenOutOfRange { .. } => Self::invalid(error.to_string()),
            _ => Self::internal(error),
        }
    }
}
