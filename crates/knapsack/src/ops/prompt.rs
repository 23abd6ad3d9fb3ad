//! `knapsack prompt PATH`: the text and the tokens that a conversation becomes before the model sees it. No weights are read.

use crate::cli::{PromptArgs, PromptOptionArgs, Thinking};
use crate::exit::{OrWrongInput, wrong_input};
use crate::files::read_limited;
use crate::first_use;
use crate::open::{engine_error, text_side};
use crate::report::Reporter;
use knapsack_artifact::app_config::WeightsLocation;
use knapsack_package::Model;
use knapsack_runtime::Package;
use knapsack_runtime::text::{Message, PromptOptions, Role};
use serde_json::json;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest prompt that is read from stdin.
const MAX_PROMPT_BYTES: u64 = 64 << 20;
/// Largest file of messages or tools.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Prints the prompt.
pub fn run(args: &PromptArgs, reporter: &Reporter) -> anyhow::Result<()> {
    let messages = messages(args)?;
    let options = options(&args.options)?;
    let folder = folder(args, reporter)?;
    // A folder with a tokenizer and no configuration says nothing of ids that the model lacks.
    let configured = ["mlc-chat-config.json", "config.json"].iter().any(|name| folder.join(name).is_file());
    let vocab_size = if configured { Model::open(&folder, None).or_wrong_input()?.config.vocab } else { u32::MAX };
    let chat = text_side(&folder, vocab_size).or_wrong_input()?;
    let failed = |error: knapsack_runtime::text::TextError| engine_error(error.into());
    let prompt = chat.render(&messages, &options).map_err(failed)?;
    let tokens = chat.tokens(&prompt).map_err(failed)?;
    let text = match prompt.prefix.is_empty() {
        true => prompt.text,
        // What comes before the text is given as tokens only.
        false => chat.tokenizer.spelling(&tokens),
    };
    let value = json!({ "text": text, "tokens": tokens });
    if reporter.is_json() {
        return reporter.result("prompt", &value);
    }
    if args.json.json {
        return reporter.line(value);
    }
    reporter.line(&text)?;
    let ids: Vec<String> = tokens.iter().map(u32::to_string).collect();
    reporter.line(format_args!("\n{} tokens: {}", ids.len(), ids.join(" ")))
}

/// Where the tokenizer and the templates are.
fn folder(args: &PromptArgs, reporter: &Reporter) -> anyhow::Result<PathBuf> {
    let path = &args.path;
    if !path.exists() {
        return Err(wrong_input(format!("there is nothing at {}", path.display())));
    }
    if !Package::is_package(path) {
        if let Some(id) = &args.model {
            return Err(wrong_input(format!(
                "--model {id} names a model of a package, but {} is none",
                path.display()
            )));
        }
        return match path.join("tokenizer.json").is_file() {
            true => Ok(path.clone()),
            false => Err(wrong_input(format!("{} has no tokenizer.json", path.display()))),
        };
    }
    let package = Package::open(path)?;
    let model = package.model(args.model.as_deref()).or_wrong_input()?;
    match &model.weights {
        WeightsLocation::Bundled(_) | WeightsLocation::Packs(_) => Ok(package.bundled_weights(model)?),
        WeightsLocation::Download(_) => {
            first_use::weights(&first_use::store(args.downloads.downloads.as_deref())?, model, reporter)
        }
    }
}

/// The options of a prompt that the command line gives.
///
/// # Errors
/// Files and values that are not what they should be.
pub fn options(args: &PromptOptionArgs) -> anyhow::Result<PromptOptions> {
    let mut options = PromptOptions { special_tokens_in_text: args.special_tokens_in_text, ..Default::default() };
    options.thinking = args.thinking.map(|thinking| thinking != Thinking::Off);
    if let Some(path) = &args.tools {
        options.tools = read(path)?;
    }
    for (name, value) in &args.template_variable {
        options.variables.insert(name.clone(), value.clone());
    }
    Ok(options)
}

/// Most tokens that the model may think with.
pub fn thinking_budget(args: &PromptOptionArgs) -> Option<u32> {
    match args.thinking {
        Some(Thinking::Tokens(most)) => Some(most),
        _ => None,
    }
}

fn messages(args: &PromptArgs) -> anyhow::Result<Vec<Message>> {
    let system = args.system.iter().map(|text| Message::new(Role::System, text));
    let said: Vec<Message> = match (&args.messages, &args.prompt) {
        (Some(path), _) => read(path)?,
        (None, Some(prompt)) => vec![Message::new(Role::User, typed(prompt)?)],
        (None, None) => return Err(wrong_input("what is said to the model? --prompt TEXT or --messages FILE")),
    };
    Ok(system.chain(said).collect())
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let bytes = read_limited(path, MAX_FILE_BYTES).or_wrong_input()?;
    serde_json::from_slice(&bytes).map_err(|error| wrong_input(format!("{}: {error}", path.display())))
}

/// `-` stands for what stdin says.
pub(super) fn typed(text: &str) -> anyhow::Result<String> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(MAX_PROMPT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_PROMPT_BYTES {
        return Err(wrong_input(format!("the prompt on stdin has more than {MAX_PROMPT_BYTES} bytes")));
    }
    String::from_utf8(bytes).or_wrong_input()
}
