//! Calls as a grammar.

use super::format::{Item, Shape};
use super::{Tool, ToolChoice};
use crate::grammar::{Grammar, GrammarError, with_whitespace};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// Writes the grammar of a format.
pub(super) struct Writer<'a> {
    pub(super) shape: Shape,
    pub(super) special: &'a dyn Fn(&str) -> Option<u32>,
    pub(super) parallel: bool,
}

impl Writer<'_> {
    pub(super) fn grammar(
        &self,
        tools: &[Tool],
        choice: &ToolChoice,
        text: Option<&Grammar>,
    ) -> Result<Grammar, GrammarError> {
        let mut out = String::new();
        match choice {
            ToolChoice::Auto | ToolChoice::None => self.optional(text, &mut out)?,
            ToolChoice::Required | ToolChoice::Named(_) => {
                let several = self.parallel && !matches!(choice, ToolChoice::Named(_));
                out.push_str(if several { "start: blocks\n" } else { "start: block\n" });
            }
        }
        let Shape { open, after_open, close, before_close, list, .. } = self.shape;
        let begin = if open.is_empty() { String::new() } else { format!("{} ", self.mark(open)) };
        out.push_str(&format!("block: {begin}body\n"));
        let between = if close.is_empty() { "" } else { "\"\\n\"? " };
        // Within one list, or one after the other; where the answer is the call there is only one.
        let again =
            if list || open.is_empty() || !self.parallel { String::new() } else { format!(" ({between}block)*") };
        let _ = writeln!(out, "blocks: block{again}");
        let quoted = |text: &str| if text.is_empty() { String::new() } else { format!("{} ", Value::from(text)) };
        let end = if close.is_empty() { String::new() } else { format!(" {}", self.mark(close)) };
        let items = match (list, self.parallel) {
            (false, _) => "item".to_owned(),
            (true, false) => "\" \"? \"[\" item \"]\"".to_owned(),
            (true, true) => "\" \"? \"[\" item (\",\" \" \"? item)* \"]\"".to_owned(),
        };
        let _ = writeln!(out, "body: {}{items} {}{}", quoted(after_open), quoted(before_close).trim_end(), end);
        self.quoted_text(&mut out);
        self.items(tools, &mut out)?;
        Ok(Grammar::Lark(out))
    }

    /// Text, calls, or calls after text.
    fn optional(&self, text: Option<&Grammar>, out: &mut String) -> Result<(), GrammarError> {
        let open = self.shape.open;
        match text {
            Some(Grammar::JsonSchema(schema)) => {
                let schema = with_whitespace(schema).map_err(|problem| GrammarError::new("JSON schema", problem))?;
                let _ = writeln!(out, "start: text | blocks\ntext: %json {schema}");
            }
            Some(_) => {
                return Err(GrammarError::new("grammar", "with tools only a JSON schema can say what text looks like"));
            }
            // The answer is a call when it begins like one.
            None if open.is_empty() => out.push_str("start: TEXT | blocks\nTEXT: /([^{](.|\\n)*)?/\n"),
            None if (self.special)(open).is_some() => out.push_str("start: TEXT blocks?\nTEXT: /(.|\\n)*/\n"),
            None => {
                let again = self.parallel && !self.shape.list;
                let again = if again { " (\"\\n\"? block)*" } else { "" };
                let _ = writeln!(
                    out,
                    "start: TEXT | first\nfirst: head body{again}\nhead[lazy]: TEXT {}\nTEXT: /(.|\\n)*/",
                    self.mark(open)
                );
            }
        }
        Ok(())
    }

    /// A mark as a token where it is one, else as text.
    fn mark(&self, text: &str) -> String {
        match (self.special)(text) {
            Some(token) => format!("<[{token}]>"),
            None => Value::from(text).to_string(),
        }
    }

    /// Text as a value, up to the mark that ends it and that it therefore cannot have.
    fn quoted_text(&self, out: &mut String) {
        let end = match self.shape.item {
            Item::Call(mark) => mark,
            Item::Tagged => TAG_END,
            Item::Json(_) | Item::Named(_) | Item::Python => return,
        };
        let lazy = if (self.special)(end).is_some() { "" } else { "[lazy]" };
        let _ = writeln!(out, "quoted{lazy}: QUOTED {}\nQUOTED: /(.|\\n)*/", self.mark(end));
    }

    fn items(&self, tools: &[Tool], out: &mut String) -> Result<(), GrammarError> {
        let numbers: Vec<String> = (0..tools.len()).map(|index| format!("item{index}")).collect();
        let _ = writeln!(out, "item: {}", numbers.join(" | "));
        for (index, tool) in tools.iter().enumerate() {
            match self.shape.item {
                Item::Json(arguments) => {
                    let mut parameters = tool.parameters.clone();
                    rebase(&mut parameters, &format!("#/properties/{arguments}"));
                    let call = json!({
                        "type": "object",
                        "properties": { "name": { "const": tool.name }, arguments: parameters },
                        "required": ["name", arguments],
                        "additionalProperties": false,
                    });
                    let _ = writeln!(out, "item{index}: %json {}", schema(&call)?);
                }
                Item::Named(mark) => {
                    let name = Value::from(tool.name.as_str());
                    let _ =
                        writeln!(out, "item{index}: {name} {} %json {}", self.mark(mark), schema(&tool.parameters)?);
                }
                Item::Python => {
                    let _ = writeln!(out, "item{index}: {} a{index}_n0 \")\"", Value::from(format!("{}(", tool.name)));
                    self.keywords(index, tool, ["", "=", ", "], out)?;
                }
                Item::Call(_) => {
                    let _ = writeln!(
                        out,
                        "item{index}: {} a{index}_n0 \"}}\"",
                        Value::from(format!("call:{}{{", tool.name))
                    );
                    self.keywords(index, tool, ["", ":", ","], out)?;
                }
                Item::Tagged => {
                    let begin = Value::from(format!("<function={}>\n", tool.name));
                    let _ = writeln!(out, "item{index}: {begin} a{index}_n0 \"</function>\"");
                    self.keywords(index, tool, ["<parameter=", ">\n", ""], out)?;
                }
            }
        }
        Ok(())
    }

    /// The arguments one by one in the schema's order, those that are not required with or without: `n` where none came yet, `s`
    /// where some did.
    fn keywords(
        &self,
        tool_index: usize,
        tool: &Tool,
        [open, is, comma]: [&str; 3],
        out: &mut String,
    ) -> Result<(), GrammarError> {
        let empty = Map::new();
        let properties = tool.parameters.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let required: Vec<&str> = tool
            .parameters
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let prefix = format!("a{tool_index}_");
        let mut properties: Vec<(&String, &Value)> = properties.iter().collect();
        if let Item::Call(_) = self.shape.item {
            // Gemma's templates sort them wherever a model sees them.
            properties.sort_by_key(|(key, _)| key.to_lowercase());
        }
        for (index, &(key, property)) in properties.iter().enumerate() {
            let (next, optional) = (index + 1, !required.contains(&key.as_str()));
            for (state, before) in [("n", ""), ("s", comma)] {
                let key = Value::from(format!("{before}{open}{key}{is}"));
                let skip = if optional { format!(" | {prefix}{state}{next}") } else { String::new() };
                let _ = writeln!(out, "{prefix}{state}{index}: {key} {prefix}v{index} {prefix}s{next}{skip}");
            }
            let _ = writeln!(out, "{prefix}v{index}: {}", self.value(property, &tool.parameters)?);
        }
        let last = properties.len();
        let _ = writeln!(out, "{prefix}n{last}: \"\"\n{prefix}s{last}: \"\"");
        Ok(())
    }

    fn value(&self, property: &Value, whole: &Value) -> Result<String, GrammarError> {
        let kind = property.get("type").and_then(Value::as_str);
        let choices = property.get("enum").and_then(Value::as_array);
        match (self.shape.item, kind) {
            (Item::Python, Some("boolean")) => Ok("(\"True\" | \"False\")".to_owned()),
            (Item::Tagged, Some("boolean")) => {
                Ok(format!("(\"True\" | \"False\" | \"true\" | \"false\") {}", line_end()))
            }
            (Item::Call(_) | Item::Tagged, Some("string")) => {
                let (before, after) = match self.shape.item {
                    Item::Call(mark) => (format!("{} ", self.mark(mark)), self.mark(mark)),
                    _ => (String::new(), line_end()),
                };
                let Some(choices) = choices else {
                    let line = if self.shape.item == Item::Tagged { " \"\\n\"" } else { "" };
                    return Ok(format!("{before}quoted{line}"));
                };
                let choices: Vec<String> =
                    choices.iter().filter(|choice| choice.is_string()).map(Value::to_string).collect();
                Ok(format!("{before}({}) {after}", choices.join(" | ")))
            }
            (item, _) => {
                // What the property refers to is at the top of the tool's schema.
                let mut property = property.clone();
                if let (Value::Object(property), Some(definitions)) = (&mut property, whole.get("$defs")) {
                    property.insert("$defs".to_owned(), definitions.clone());
                }
                let end = if item == Item::Tagged { format!(" {}", line_end()) } else { String::new() };
                Ok(format!("%json {}{end}", schema(&property)?))
            }
        }
    }
}

/// What ends a value between tags.
const TAG_END: &str = "</parameter>";

/// The end of a value's line, and of the value.
fn line_end() -> String {
    Value::from(format!("\n{TAG_END}\n")).to_string()
}

fn schema(schema: &Value) -> Result<Value, GrammarError> {
    with_whitespace(schema).map_err(|problem| GrammarError::new("tools", problem))
}

/// References from the top of a schema that is no longer at the top.
fn rebase(schema: &mut Value, place: &str) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(reference) if key == "$ref" && reference.starts_with('#') => {
                        reference.replace_range(..1, place);
                    }
                    value => rebase(value, place),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rebase(item, place)),
        _ => {}
    }
}
