//! A part of stage 3: what a model's small files say of its weights, held against what its library will ask for. The weights
//! themselves may be at the hub still.

use crate::find::Found;
use crate::model::{Model, read_json};
use crate::text::{chain, listed};
use knapsack_artifact::chat_config::ConvTemplateField;
use knapsack_artifact::{ChatConfig, ConvTemplate, WeightIndex, json};
use knapsack_config::{Diagnostic, ModelForm, codes};
use knapsack_models::{TensorUse, TensorsError};
use knapsack_source::{Pinned, WeightsHeader};
use knapsack_weights::{ChatWarning, ConvertError, ConvertRequest, WeightsStart};
use serde::de::IgnoredAny;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The file that a model must have to run on text.
pub(crate) const TOKENIZER: &str = "tokenizer.json";

/// What helps a model that has no usable chat template.
pub(crate) const OTHER_TEMPLATE: &str =
    "\"chat_template\" in the model's entry names another: a conversation template of MLC, or a file";

/// What is wrong, at the model's source.
pub(crate) fn check(found: &Found, model: &Model) -> Vec<Diagnostic> {
    match (model.kind, &found.resolved.pinned) {
        (ModelForm::Mlc, _) => {
            [index(found, model), tokenizer(found, model), no_template(found, model)].into_iter().flatten().collect()
        }
        (ModelForm::Checkpoint, Pinned::Local(_)) => {
            let folder = &found.folder.path;
            // Nothing is written there, nor looked at.
            let request = ConvertRequest {
                checkpoint: folder,
                output: folder,
                quantization: model.quantization,
                chat_template: &found.template_choice(),
                jobs: None,
            };
            chat(found, knapsack_weights::check(&request))
        }
        // The headers of its weights are at the hub still.
        (ModelForm::Checkpoint, Pinned::Hub(_)) => {
            let choice = found.template_choice();
            let of_chat = knapsack_weights::check_chat(&found.folder.path, &model.quantization, &choice);
            let of_tensors = checkpoint_index(found, model).or_else(|| checkpoint_headers(found, model));
            of_tensors.into_iter().chain(chat(found, of_chat)).collect()
        }
    }
}

fn error(found: &Found, message: &str) -> Diagnostic {
    Diagnostic::error(codes::WEIGHTS_MISMATCH, found.entry.source.span, format!("{}: {message}", found.id()))
}

/// The weight index against the tensors of the library.
fn index(found: &Found, model: &Model) -> Option<Diagnostic> {
    let index = match WeightIndex::open(&found.folder.path) {
        Ok(index) => index,
        Err(problem) => return Some(error(found, &chain(&problem))),
    };
    let there: BTreeMap<&str, _> =
        index.records().map(|(_, record)| (&*record.name, (record.stored_dtype(), record.shape.as_slice()))).collect();
    let stored = model.config.stored_tensors(&model.quantization);
    let (mut missing, mut other) = (Vec::new(), Vec::new());
    for tensor in &stored {
        match there.get(tensor.name.as_str()) {
            None => missing.push(tensor.name.clone()),
            Some((dtype, shape)) if (*dtype, *shape) != (tensor.dtype, &*tensor.shape) => {
                let (name, wanted, wanted_shape) = (&tensor.name, tensor.dtype, &tensor.shape);
                other.push(format!("{name} is {dtype} {shape:?}, not {wanted} {wanted_shape:?}"));
            }
            Some(_) => {}
        }
    }
    let needed: BTreeMap<&str, ()> = stored.iter().map(|tensor| (tensor.name.as_str(), ())).collect();
    let left_over: Vec<&str> = there.keys().copied().filter(|name| !needed.contains_key(name)).collect();
    if missing.is_empty() && other.is_empty() {
        return (!left_over.is_empty()).then(|| {
            let message =
                format!("{}: the weights hold {} tensors that its model does not use", found.id(), left_over.len());
            Diagnostic::warning(codes::WEIGHTS_MISMATCH, found.entry.source.span, message).help(listed(&left_over))
        });
    }
    let message = format!(
        "the weights do not fit the configuration: {} tensors are missing, {} have another form, {} are left over",
        missing.len(),
        other.len(),
        left_over.len()
    );
    let list = |what: &str, names: &[String]| (!names.is_empty()).then(|| format!("{what}: {}", listed(names)));
    let left_over: Vec<String> = left_over.into_iter().map(str::to_owned).collect();
    let finding =
        error(found, &message).maybe_help(list("missing", &missing)).maybe_help(list("of another form", &other));
    Some(finding.maybe_help(list("left over", &left_over)))
}

/// Whether every tokenizer file that the chat configuration names is there.
fn tokenizer(found: &Found, model: &Model) -> Option<Diagnostic> {
    let there = |name: &str| found.folder.files.iter().any(|file| file.path == name);
    let config = json::parse::<Value>(&model.config_bytes).unwrap_or_default();
    let names = match serde_json::from_value(config["tokenizer_files"].clone()) {
        Ok(names) => Option::<Vec<String>>::unwrap_or_default(names),
        Err(problem) => return Some(error(found, &format!("`tokenizer_files` of mlc-chat-config.json: {problem}"))),
    };
    let absent: Vec<&String> = names.iter().filter(|name| !there(name)).collect();
    if !absent.is_empty() {
        let problem =
            format!("`tokenizer_files` of mlc-chat-config.json names files that are not there: {}", listed(&absent));
        return Some(error(found, &problem));
    }
    if there(TOKENIZER)
        && let Err(problem) = readable_tokenizer(&found.folder.path.join(TOKENIZER))
    {
        return Some(error(found, &format!("{TOKENIZER} cannot be read: {problem}")));
    }
    (!there(TOKENIZER)).then(|| {
        let message = format!(
            "{}: there is no {TOKENIZER}, without which Knapsack's runtime reads and writes no text",
            found.id()
        );
        Diagnostic::warning(codes::NO_TOKENIZER, found.entry.source.span, message)
    })
}

/// Whether a `tokenizer.json` is JSON, which is all that is looked at here.
fn readable_tokenizer(path: &Path) -> Result<(), String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let text = json::text(&bytes).map_err(|error| error.to_string())?;
    serde_json::from_str::<IgnoredAny>(&text).map(drop).map_err(|error| error.to_string())
}

/// What a checkpoint's text side lacks, or what keeps it from being converted.
fn chat(found: &Found, checked: Result<Vec<ChatWarning>, ConvertError>) -> Vec<Diagnostic> {
    let warnings = match checked {
        Ok(warnings) => warnings,
        Err(problem) => return unusable(found, &problem).into_iter().collect(),
    };
    let place = found.entry.chat_template.as_ref().map_or(found.entry.source.span, |template| template.span);
    let finding = |warning: ChatWarning| {
        let (code, help) = match warning {
            ChatWarning::NoTokenizer => (codes::NO_TOKENIZER, None),
            ChatWarning::NoTemplate => (codes::NO_CHAT_TEMPLATE, Some(OTHER_TEMPLATE)),
            ChatWarning::NoConversationTemplate => (codes::NO_CONV_TEMPLATE, Some(OTHER_TEMPLATE)),
        };
        let message = format!("{}: {warning}", found.id());
        Diagnostic::warning(code, place, message).maybe_help(help.map(str::to_owned))
    };
    warnings.into_iter().map(finding).collect()
}

/// A converted model with neither a conversation template that is known nor a Jinja template.
fn no_template(found: &Found, model: &Model) -> Option<Diagnostic> {
    let config = ChatConfig::parse(&model.config_bytes).ok()?;
    let complete = |template: &ConvTemplate| {
        ["user", "assistant"].iter().all(|role| template.roles.contains_key(*role)) && !template.seps.is_empty()
    };
    let there = |name: &str| found.folder.files.iter().any(|file| file.path == name);
    let has_jinja = || {
        let settings = read_json(&found.folder.path.join("tokenizer_config.json"));
        let own = settings.is_ok_and(|(_, settings)| settings.get("chat_template").is_some_and(|own| !own.is_null()));
        own || there("chat_template.jinja") || there("chat_template.json")
    };
    if config.template().is_some_and(|template| complete(&template)) || has_jinja() {
        return None;
    }
    let which = match &config.conv_template {
        Some(ConvTemplateField::Name(name)) => {
            format!("its `conv_template` is called `{name:.80}`, which is none of MLC's")
        }
        Some(ConvTemplateField::Template(_)) => "its `conv_template` is not complete".to_owned(),
        None => "it has no `conv_template`".to_owned(),
    };
    let message = format!("{}: no chat template: {which}, and its tokenizer has none", found.id());
    let help = "the model can be run on plain text, but cannot chat";
    Some(Diagnostic::warning(codes::NO_CHAT_TEMPLATE, found.entry.source.span, message).help(help))
}

/// The headers of a checkpoint's files against the tensors that its configuration asks for.
fn checkpoint_headers(found: &Found, model: &Model) -> Option<Diagnostic> {
    let starts: Vec<WeightsStart<'_>> = found
        .headers
        .as_ref()?
        .iter()
        .map(|WeightsHeader { path, size, bytes }| WeightsStart { name: path, size: *size, bytes })
        .collect();
    let problem = knapsack_weights::check_headers(&found.folder.path, &starts, &model.quantization).err()?;
    unusable(found, &problem)
}

/// The index of a checkpoint in several files against the tensors that its configuration asks for: names alone.
fn checkpoint_index(found: &Found, model: &Model) -> Option<Diagnostic> {
    let path = found.folder.path.join("model.safetensors.index.json");
    if !path.is_file() {
        return None;
    }
    let index = match read_json(&path) {
        Ok((_, index)) => index,
        Err(problem) => return Some(error(found, &chain(&problem))),
    };
    let names: Vec<&str> = index.get("weight_map")?.as_object()?.keys().map(String::as_str).collect();
    let uses: Vec<TensorUse<'_>> = names.iter().map(|name| model.config.tensor_use(name)).collect();
    let source = |of: &TensorUse<'_>| match of {
        TensorUse::Source(name) => Some(name.to_string()),
        TensorUse::Ignored | TensorUse::Part(_) => None,
    };
    let there: BTreeSet<String> = uses.iter().filter_map(source).collect();
    let parameters = model.config.parameters();
    let needed: BTreeSet<&str> =
        parameters.iter().flat_map(|parameter| &parameter.sources).map(|source| source.name.as_str()).collect();
    let is_left_over = |of: &TensorUse<'_>| source(of).is_some_and(|name| !needed.contains(name.as_str()));
    let problem = TensorsError {
        family: model.config.family.name,
        missing: needed.iter().filter(|name| !there.contains(**name)).map(|name| (*name).to_owned()).collect(),
        left_over: names
            .iter()
            .zip(&uses)
            .filter(|(_, of)| is_left_over(of))
            .map(|(name, _)| (*name).to_owned())
            .collect(),
        ..TensorsError::default()
    };
    (!problem.is_empty()).then(|| with_lines(found, &problem.to_string()))
}

/// What keeps a checkpoint from being converted, but for its chat template, which is told at its own place.
fn unusable(found: &Found, problem: &ConvertError) -> Option<Diagnostic> {
    let text = chain(problem);
    Some(match problem {
        ConvertError::ChatTemplate { .. } | ConvertError::ConvTemplate { .. } => return None,
        ConvertError::Json { .. } => {
            Diagnostic::error(codes::BAD_MODEL_SOURCE, found.entry.source.span, format!("{}: {text}", found.id()))
        }
        ConvertError::Io { .. } => {
            Diagnostic::error(codes::SOURCE_FAILED, found.entry.source.span, format!("{}: {text}", found.id()))
        }
        _ => with_lines(found, &text),
    })
}

/// The first line is the finding, the others explain it.
fn with_lines(found: &Found, text: &str) -> Diagnostic {
    let (summary, lines) = text.split_once('\n').unwrap_or((text, ""));
    lines.lines().fold(error(found, summary), |finding, line| finding.help(line.trim_start()))
}
