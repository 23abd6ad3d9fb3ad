//! A part of stage 3: what a model's small files say of its weights, held against what its library will ask for. The weights
//! themselves may be at the hub still.

use crate::find::Found;
use crate::model::{FolderKind, Model, read_json};
use crate::text::{chain, listed};
use knapsack_artifact::WeightIndex;
use knapsack_config::{Diagnostic, codes};
use knapsack_models::{TensorUse, TensorsError};
use knapsack_source::Pinned;
use knapsack_weights::{ConvertError, ConvertRequest};
use std::collections::{BTreeMap, BTreeSet};

/// The file that a model must have to run on text.
pub(crate) const TOKENIZER: &str = "tokenizer.json";

/// What is wrong, at the model's source.
pub(crate) fn check(found: &Found, model: &Model) -> Vec<Diagnostic> {
    match (model.kind, &found.resolved.pinned) {
        (FolderKind::Mlc, _) => [index(found, model), tokenizer(found, model)].into_iter().flatten().collect(),
        (FolderKind::Checkpoint, Pinned::Local(_)) => checkpoint(found, model).into_iter().collect(),
        // The headers of its weights are at the hub still.
        (FolderKind::Checkpoint, Pinned::Hub(_)) => {
            let chat =
                knapsack_weights::chat_config(&found.folder.path, &model.quantization, &found.template_choice()).err();
            let chat = chat.and_then(|problem| unusable(found, &problem));
            [checkpoint_index(found, model), chat].into_iter().flatten().collect()
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
    let config = knapsack_models::json::parse(&model.config_bytes).unwrap_or_default();
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
    (!there(TOKENIZER)).then(|| {
        let message = format!(
            "{}: there is no {TOKENIZER}, without which Knapsack's runtime reads and writes no text",
            found.id()
        );
        Diagnostic::warning(codes::NO_TOKENIZER, found.entry.source.span, message)
    })
}

/// Headers, tokenizer and template of a checkpoint in a folder.
fn checkpoint(found: &Found, model: &Model) -> Option<Diagnostic> {
    let folder = &found.folder.path;
    // Nothing is written there, nor looked at.
    let request = ConvertRequest {
        checkpoint: folder,
        output: folder,
        quantization: model.quantization,
        chat_template: &found.template_choice(),
        jobs: None,
    };
    knapsack_weights::check(&request).err().and_then(|problem| unusable(found, &problem))
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
