//! Stage 3: window sizes and memory of each model, held against its budget. Findings point at the manifest.

use super::{Budget, Resolved, Workspace, fixed_sizes};
use crate::exit::{AlreadyReported, WRONG_INPUT};
use crate::model::{Model, compiler_overrides};
use anyhow::Result;
use knapsack_artifact::library::MemoryPlan;
use knapsack_compiler::{ChooseError, Chosen, CompileError, Notice, OverBudget, Size, WindowProblem, WindowProblems};
use knapsack_config::{Diagnostic, Loaded, Manifest, ModelEntry, OverrideKey, Severity, codes};
use knapsack_ir::Windows;
use knapsack_models::GraphError;
use serde::Serialize;
use std::path::Path;

/// A plan for every model of a manifest.
#[derive(Debug)]
pub struct Plan {
    /// In the order of the manifest.
    pub models: Vec<PlannedModel>,
}

/// What will be compiled for one entry, and what it will need on the device.
#[derive(Debug)]
pub struct PlannedModel {
    /// Name in the manifest.
    pub model_id: String,
    /// Its configuration.
    pub model: Model,
    /// Sizes to compile for.
    pub windows: Windows,
    /// Exact device memory.
    pub memory: MemoryPlan,
    /// What the manifest says it may need, in bytes.
    pub declared: Option<u64>,
}

impl PlannedModel {
    /// The budget of the app config: what the manifest says, or what the plan needs.
    pub fn estimated_vram_bytes(&self) -> u64 {
        self.declared.unwrap_or_else(|| self.memory.total())
    }
}

/// One row of `knapsack plan --message-format json`.
#[derive(Debug, Serialize)]
pub struct Row<'a> {
    model_id: &'a str,
    family: &'a str,
    quantization: &'a str,
    context_window_size: Option<u32>,
    sliding_window_size: Option<u32>,
    attention_sink_size: Option<u32>,
    prefill_chunk_size: u32,
    weights: u64,
    kv_cache: u64,
    workspace: u64,
    total: u64,
    estimated_vram_bytes: u64,
    declared: bool,
}

impl PlannedModel {
    /// For machines.
    pub fn row(&self) -> Row<'_> {
        let Windows { context, sliding, sinks, chunk } = self.windows;
        Row {
            model_id: &self.model_id,
            family: self.model.config.family.name(),
            quantization: self.model.quantization.name,
            context_window_size: sliding.is_none().then_some(context),
            sliding_window_size: sliding,
            attention_sink_size: sliding.map(|_| sinks),
            prefill_chunk_size: chunk,
            weights: self.memory.weights,
            kv_cache: self.memory.kv_cache,
            workspace: self.memory.workspace,
            total: self.memory.total(),
            estimated_vram_bytes: self.estimated_vram_bytes(),
            declared: self.declared.is_some(),
        }
    }
}

impl Workspace<'_> {
    /// Stage 3: plans every model; all findings are shown, errors of all models together.
    ///
    /// # Errors
    /// With exit code 2, when a model is not supported, its sizes contradict each other, or it does not fit its budget (unless
    /// `allow_over_budget`).
    pub fn plan(&self, loaded: &mut Loaded, resolved: &Resolved, allow_over_budget: bool) -> Result<Plan> {
        let severity = if allow_over_budget { Severity::Warning } else { Severity::Error };
        let mut findings: Vec<Diagnostic> = unknown_phones(loaded).collect();
        let mut models = Vec::new();
        for (entry, source) in loaded.manifest.models.iter().zip(&resolved.sources) {
            let planned = plan_one(entry, &source.path, &budget_of(loaded, entry), severity);
            findings.extend(planned.findings);
            if let Some(PlannedModel { model, windows, .. }) = &planned.model {
                findings.extend(too_large_buffers(loaded, entry, model, windows, severity));
            }
            models.extend(planned.model);
        }
        loaded.report.diagnostics.extend(findings);
        loaded.report.sort();
        self.reporter.diagnostics(&loaded.report);
        let failed = loaded.report.has_errors();
        // Shown once.
        loaded.report.diagnostics.clear();
        if failed { Err(AlreadyReported(WRONG_INPUT).into()) } else { Ok(Plan { models }) }
    }
}

/// The smallest of what the entry declares and what the target phones leave.
fn budget_of(loaded: &Loaded, entry: &ModelEntry) -> Budget {
    let Manifest { target_devices, app_memory, .. } = &loaded.manifest;
    target_devices
        .iter()
        .fold(Budget::declared(entry), |budget, phone| budget.within(&phone.value, phone.span, app_memory))
}

/// Phones of which nobody knows what they leave.
fn unknown_phones(loaded: &Loaded) -> impl Iterator<Item = Diagnostic> {
    let Manifest { target_devices, app_memory, .. } = &loaded.manifest;
    let unknown = target_devices.iter().filter(|phone| phone.value.available(app_memory).is_none());
    unknown.map(|phone| {
        let title = &phone.value.title;
        let message = format!("nobody has published what an app may use on {title}: not checked");
        Diagnostic::warning(codes::OVER_BUDGET, phone.span, message)
    })
}

/// Buffers that the GPU of a target phone does not have.
fn too_large_buffers(
    loaded: &Loaded,
    entry: &ModelEntry,
    model: &Model,
    windows: &Windows,
    severity: Severity,
) -> Vec<Diagnostic> {
    let phones = loaded.manifest.target_devices.iter();
    let limits: Vec<_> = phones.filter_map(|phone| Some((phone, phone.value.max_buffer.as_ref()?))).collect();
    if limits.is_empty() {
        return Vec::new();
    }
    let id = &entry.model_id.value;
    let Ok(largest) = model.largest_buffer(windows) else { return Vec::new() };
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

struct Outcome {
    model: Option<PlannedModel>,
    findings: Vec<Diagnostic>,
}

fn plan_one(entry: &ModelEntry, folder: &Path, budget: &Budget, severity: Severity) -> Outcome {
    let quantization = entry.quantization.as_ref().map(|format| format.value.name);
    let model = match Model::open(folder, quantization) {
        Ok(model) => model,
        Err(error) => {
            let diagnostic = Diagnostic::error(codes::UNSUPPORTED_MODEL, entry.source.span, format!("{error:#}"));
            return Outcome { model: None, findings: vec![diagnostic] };
        }
    };
    let overrides = compiler_overrides(&entry.overrides);
    match model.choose(&overrides, budget.bytes) {
        Err(error) => Outcome { model: None, findings: choose_errors(entry, &error) },
        Ok(chosen) => {
            let findings = findings(entry, &model, &chosen, budget, severity);
            let declared = entry.estimated_vram_bytes.as_ref().map(|declared| declared.value);
            let Chosen { windows, memory, .. } = chosen;
            let model_id = entry.model_id.value.clone();
            Outcome { model: Some(PlannedModel { model_id, model, windows, memory, declared }), findings }
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
            let mut message = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(cause) = source {
                message = format!("{message}: {cause}");
                source = cause.source();
            }
            vec![Diagnostic::error(codes::UNSUPPORTED_MODEL, entry.source.span, message)]
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
            Notice::BeyondTrained { .. } => {
                let span = entry.span_of(OverrideKey::ContextWindowSize);
                Diagnostic::warning(codes::BEYOND_TRAINED_POSITIONS, span, format!("{id}: {notice}"))
            }
        })
        .collect();
    if let Some(over) = &chosen.over_budget {
        let declared = entry.estimated_vram_bytes.as_ref().is_some_and(|declared| declared.span == budget.span);
        let total = over.memory.total();
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
        && declared.value / 2 > chosen.memory.total()
    {
        let total = chosen.memory.total();
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
