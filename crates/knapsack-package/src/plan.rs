//! Stage 3: window sizes and memory of each model, held against its budget. Findings point at the manifest.

use crate::budget::{Budget, fixed_sizes};
use crate::find::Found;
use crate::model::{Model, given_sizes};
use crate::text::chain;
use crate::{Outcome, Packager, weights};
use knapsack_artifact::library::{MemoryPlan, Target};
use knapsack_bundle::Tokenizer;
use knapsack_compiler::{ChooseError, Chosen, CompileError, Notice, OverBudget, Size, WindowProblem, WindowProblems};
use knapsack_config::{Diagnostic, Manifest, ModelEntry, ModelForm, OverrideKey, Severity, Shipped, codes};
use knapsack_ir::Windows;
use knapsack_models::GraphError;
use serde::Serialize;

/// A model with what will be compiled for it, and what that will need on the device.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What stands behind the entry.
    pub found: Found,
    /// What its configuration says, ready to be compiled.
    pub model: Model,
    /// Sizes to compile for.
    pub windows: Windows,
    /// Exact device memory.
    pub memory: MemoryPlan,
    /// What turns its text into tokens.
    pub tokenizer: Tokenizer,
}

impl Planned {
    /// The manifest's name for it.
    pub fn id(&self) -> &str {
        self.found.id()
    }

    /// What the manifest says it may need, in bytes.
    pub fn declared(&self) -> Option<u64> {
        self.found.entry.estimated_vram_bytes.as_ref().map(|declared| declared.value)
    }

    /// The budget of the app config, in bytes: what the manifest says, or what the plan needs.
    pub fn estimated_vram_bytes(&self) -> u64 {
        self.declared().unwrap_or_else(|| self.total())
    }

    /// All memory that it takes, in bytes: the device's and the tokenizer's.
    pub const fn total(&self) -> u64 {
        self.memory.total().saturating_add(self.tokenizer.bytes)
    }

    /// What of it gets onto the device, as the stores count: every file of an MLC model; of a checkpoint the weights that it is
    /// converted to, and its small files.
    pub fn shipped(&self) -> Shipped<'_> {
        let files = &self.found.folder.files;
        let sizes = files.iter().filter(|file| !file.path.ends_with(".safetensors")).map(|file| file.size);
        let (weights, largest_file) = match self.model.kind {
            ModelForm::Mlc => (0, sizes.clone().max().unwrap_or(0)),
            // Shards are cut at tensors.
            ModelForm::Checkpoint => (self.memory.weights, 0),
        };
        Shipped { entry: &self.found.entry, bytes: sizes.sum::<u64>() + weights, largest_file }
    }

    /// For machines.
    pub fn row(&self) -> PlanRow<'_> {
        let Windows { context, sliding, sinks, chunk } = self.windows;
        PlanRow {
            model_id: self.id(),
            family: self.model.config.family.name,
            quantization: self.model.quantization.name,
            context_window_size: sliding.is_none().then_some(context),
            sliding_window_size: sliding,
            attention_sink_size: sliding.map(|_| sinks),
            prefill_chunk_size: chunk,
            weights: self.memory.weights,
            kv_cache: self.memory.kv_cache,
            state: self.memory.state,
            file: self.memory.file,
            workspace: self.memory.workspace,
            tokenizer: self.tokenizer.bytes,
            total: self.total(),
            estimated_vram_bytes: self.estimated_vram_bytes(),
            declared: self.declared().is_some(),
        }
    }
}

/// One row of `knapsack plan --message-format json`.
#[derive(Debug, Serialize)]
pub struct PlanRow<'a> {
    model_id: &'a str,
    family: &'a str,
    quantization: &'a str,
    context_window_size: Option<u32>,
    sliding_window_size: Option<u32>,
    attention_sink_size: Option<u32>,
    prefill_chunk_size: u32,
    weights: u64,
    kv_cache: u64,
    state: u64,
    file: u64,
    workspace: u64,
    tokenizer: u64,
    total: u64,
    estimated_vram_bytes: u64,
    declared: bool,
}

impl Packager<'_> {
    /// Stage 3: plans every model; nothing is compiled. Findings are errors when a model is not supported, its sizes contradict
    /// each other, or it does not fit its budget (a warning with `allow_over_budget`).
    pub fn plan(&self, manifest: &Manifest, models: Vec<Found>, allow_over_budget: bool) -> Outcome<Vec<Planned>> {
        let severity = if allow_over_budget { Severity::Warning } else { Severity::Error };
        let mut findings: Vec<Diagnostic> = unknown_phones(manifest).collect();
        let mut planned = Vec::with_capacity(models.len());
        for found in models {
            findings.extend(unusable_template(&found));
            let budget = budget_of(manifest, &found.entry);
            let Outcome { product, findings: of_model } = plan_one(found, &budget, severity);
            findings.extend(of_model);
            if let Some(model) = &product {
                findings.extend(too_large_buffers(manifest, model, severity));
            }
            planned.extend(product);
        }
        Outcome::of(planned, findings)
    }
}

/// A checkpoint's chat template that fails. An MLC folder keeps its `conv_template`, which is no program.
fn unusable_template(found: &Found) -> Option<Diagnostic> {
    let folder = &found.folder.path;
    if folder.join("mlc-chat-config.json").is_file() {
        return None;
    }
    let asked = found.entry.chat_template.as_ref();
    let error = knapsack_weights::check_chat_template(folder, &found.template_choice()).err()?;
    let span = asked.map_or(found.entry.source.span, |asked| asked.span);
    let message = format!("{}: {}", found.id(), chain(&error));
    let finding = Diagnostic::error(codes::BAD_CHAT_TEMPLATE, span, message);
    Some(finding.help(weights::OTHER_TEMPLATE))
}

/// The smallest of what the entry declares and what the target phones leave.
fn budget_of(manifest: &Manifest, entry: &ModelEntry) -> Budget {
    let Manifest { target_devices, app_memory, .. } = manifest;
    target_devices
        .iter()
        .fold(Budget::declared(entry), |budget, phone| budget.within(&phone.value, phone.span, app_memory))
}

/// Phones of which nobody knows what they leave.
fn unknown_phones(manifest: &Manifest) -> impl Iterator<Item = Diagnostic> {
    let Manifest { target_devices, app_memory, .. } = manifest;
    let unknown = target_devices.iter().filter(|phone| phone.value.available(app_memory).is_none());
    unknown.map(|phone| {
        let title = &phone.value.title;
        let message = format!("nobody has published what an app may use on {title}: not checked");
        Diagnostic::warning(codes::OVER_BUDGET, phone.span, message)
    })
}

/// Buffers that the GPU of a target phone does not have.
fn too_large_buffers(manifest: &Manifest, planned: &Planned, severity: Severity) -> Vec<Diagnostic> {
    let phones = manifest.target_devices.iter();
    let limits: Vec<_> = phones.filter_map(|phone| Some((phone, phone.value.max_buffer.as_ref()?))).collect();
    if limits.is_empty() {
        return Vec::new();
    }
    let id = planned.id();
    let Ok(largest) = planned.model.largest_buffer(&planned.windows) else { return Vec::new() };
    let beyond = limits.into_iter().filter(|(_, limit)| largest > limit.bytes);
    beyond
        .map(|(phone, limit)| {
            let message = format!(
                "{id}: needs a buffer of {largest} bytes, and the largest of {} is {}",
                phone.value.title, limit.bytes
            );
            Diagnostic::new(severity, codes::BUFFER_TOO_LARGE, phone.span, message)
        })
        .collect()
}

fn plan_one(found: Found, budget: &Budget, severity: Severity) -> Outcome<Planned> {
    let entry = &found.entry;
    let quantization = entry.quantization.as_ref().map(|format| format.value.name);
    let model = match Model::open(&found.folder.path, quantization) {
        Ok(model) => model,
        Err(error) => {
            let diagnostic = Diagnostic::error(codes::UNSUPPORTED_MODEL, entry.source.span, chain(&error));
            return Outcome { product: None, findings: vec![diagnostic] };
        }
    };
    let mut of_weights = weights::check(&found, &model);
    let tokenizer = crate::tokenizer(&found);
    let model = Model { tokenizer: tokenizer.bytes, ..model };
    match model.choose(&given_sizes(&entry.overrides), budget.bytes) {
        Err(error) => {
            of_weights.extend(choose_errors(entry, &error));
            Outcome { product: None, findings: of_weights }
        }
        Ok(chosen) => {
            let mut findings = findings(entry, &model, &chosen, budget, severity);
            findings.extend(of_weights);
            // What would be refused when it is built is refused now.
            if let Err(error) = model.compile(chosen.windows, Target::Host, None) {
                findings.push(Diagnostic::error(codes::UNSUPPORTED_MODEL, entry.source.span, chain(&error)));
            }
            let Chosen { windows, memory, .. } = chosen;
            Outcome { product: Some(Planned { found, model, windows, memory, tokenizer }), findings }
        }
    }
}

fn choose_errors(entry: &ModelEntry, error: &ChooseError<GraphError>) -> Vec<Diagnostic> {
    match error {
        ChooseError::Compile(CompileError::Windows(WindowProblems(problems))) => problems
            .iter()
            .map(|problem| {
                let key = match problem {
                    WindowProblem::Range { name, .. } => {
                        OverrideKey::parse(name).unwrap_or(OverrideKey::ContextWindowSize)
                    }
                    WindowProblem::SinksBeyondWindow { .. } => OverrideKey::AttentionSinkSize,
                    _ => OverrideKey::PrefillChunkSize,
                };
                Diagnostic::error(codes::BAD_OVERRIDE, entry.span_of(key), problem.to_string())
            })
            .collect(),
        other => {
            vec![Diagnostic::error(codes::UNSUPPORTED_MODEL, entry.source.span, chain(other))]
        }
    }
}

fn findings(
    entry: &ModelEntry,
    model: &Model,
    chosen: &Chosen,
    budget: &Budget,
    severity: Severity,
) -> Vec<Diagnostic> {
    let id = &entry.model_id.value;
    let mut list: Vec<Diagnostic> = chosen
        .notices
        .iter()
        .map(|notice| match notice {
            Notice::Chosen { size, .. } => {
                let span = entry.span_of(key_of(*size));
                Diagnostic::notice(codes::CHOSEN, span, format!("{id}: {notice}"))
            }
            Notice::LargeCache { .. } => {
                let span = entry.span_of(OverrideKey::ContextWindowSize);
                Diagnostic::warning(codes::LARGE_KV_CACHE, span, format!("{id}: {notice}"))
            }
            Notice::BeyondTrained { .. } => {
                let span = entry.span_of(OverrideKey::ContextWindowSize);
                Diagnostic::warning(codes::BEYOND_TRAINED_POSITIONS, span, format!("{id}: {notice}"))
            }
        })
        .collect();
    if let Some(over) = &chosen.over_budget {
        let declared = entry.estimated_vram_bytes.as_ref().is_some_and(|declared| declared.span == budget.span);
        let total = over.total();
        let larger =
            declared.then(|| format!("or declare {total}, or nothing: then the app config says what is planned"));
        let diagnostic = Diagnostic::new(severity, codes::OVER_BUDGET, budget.span, format!("{id}: {over}"))
            .label(format!("this is {}", budget.of))
            .help(what_fits(entry, model, over))
            .maybe_help(larger)
            .help("`--allow-over-budget` makes this a warning");
        list.push(diagnostic);
    }
    if let Some(declared) = &entry.estimated_vram_bytes
        && declared.value / 2 > chosen.memory.total().saturating_add(model.tokenizer)
    {
        let total = chosen.memory.total().saturating_add(model.tokenizer);
        let message = format!("{id}: estimated_vram_bytes is more than twice the {total} bytes that the model needs");
        let help = "leave it out, and the app config gets what the plan says";
        list.push(Diagnostic::warning(codes::BUDGET_TOO_LARGE, declared.span, message).help(help));
    }
    list
}

fn key_of(size: Size) -> OverrideKey {
    match size {
        Size::Context => OverrideKey::ContextWindowSize,
        Size::Sliding => OverrideKey::SlidingWindowSize,
        Size::Sinks => OverrideKey::AttentionSinkSize,
        Size::Chunk => OverrideKey::PrefillChunkSize,
    }
}

/// The overrides with which the model would fit, or that none would do.
fn what_fits(entry: &ModelEntry, model: &Model, over: &OverBudget) -> String {
    match model.fit(&fixed_sizes(&entry.overrides, model), over.budget) {
        Ok(Chosen { windows, over_budget: None, .. }) => {
            let window = match windows.sliding {
                Some(window) => format!("\"sliding_window_size\": {window}"),
                None => format!("\"context_window_size\": {}", windows.context),
            };
            format!("these overrides would fit: {window}, \"prefill_chunk_size\": {}", windows.chunk)
        }
        _ => format!("no context window fits: weights alone take {} bytes", over.memory.weights),
    }
}
