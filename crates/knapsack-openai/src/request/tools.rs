//! Tools, as a request gives them.

use super::fields::Fields;
use crate::ApiError;
use knapsack_runtime::ToolChoice;
use knapsack_runtime::text::PromptOptions;
use serde_json::{Map, Value};

/// What the prompt depends on besides the messages, and which tools may or must be called.
pub(super) fn read(fields: &Fields) -> Result<(PromptOptions, ToolChoice), ApiError> {
    let tools: Vec<Value> = fields.tools.iter().flat_map(|tools| tools.0.iter().map(|tool| tool.0.clone())).collect();
    let choice = fields.tool_choice.as_ref().map_or(Ok(ToolChoice::Auto), |choice| read_choice(&choice.0))?;
    if tools.is_empty() && matches!(choice, ToolChoice::Required | ToolChoice::Named(_)) {
        return Err(ApiError::invalid("`tool_choice` wants a call, and there are no `tools`").about("tool_choice"));
    }
    let variables = match fields.chat_template_kwargs.as_ref().map(|kwargs| &kwargs.0) {
        None => Map::new(),
        Some(Value::Object(variables)) => variables.clone(),
        Some(_) => return Err(ApiError::invalid("`chat_template_kwargs` is no object").about("chat_template_kwargs")),
    };
    // A model that is told of no tools calls none.
    let tools = if choice == ToolChoice::None { Vec::new() } else { tools };
    // By the name that most templates have for it; where a template has another, or none, it is switched all the same.
    let thinking = variables.get("enable_thinking").and_then(Value::as_bool);
    Ok((PromptOptions { tools, variables, thinking, ..PromptOptions::default() }, choice))
}

fn read_choice(choice: &Value) -> Result<ToolChoice, ApiError> {
    let named = || {
        let function = choice.get("function").filter(|_| choice.get("type").is_none_or(|kind| kind == "function"))?;
        function.get("name")?.as_str()
    };
    match choice.as_str() {
        Some("auto") => Ok(ToolChoice::Auto),
        Some("none") => Ok(ToolChoice::None),
        Some("required") => Ok(ToolChoice::Required),
        _ => match named() {
            Some(name) => Ok(ToolChoice::Named(name.to_owned())),
            None => {
                let message = "`tool_choice` is `auto`, `none`, `required` or {\"type\": \"function\", \"function\": {\"name\": …}}";
                Err(ApiError::invalid(message).about("tool_choice"))
            }
        },
    }
}
