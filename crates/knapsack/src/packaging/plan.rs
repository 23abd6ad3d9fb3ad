//! Stage 3: window sizes and memory of each model, held against its budget. Findings point at the manifest.

use super::{Resolved, Workspace};
use crate::exit::{AlreadyReported, WRONG_INPUT};
use crate::model::{Model, compiler_overrides};
use anyhow::Result;
use knapsack_artifact::library::MemoryPlan;
use knapsack_compiler::{
    ChooseError, Chosen, CompileError, Notice, OverBudget, Overrides, Size, WindowProblem, WindowProblems,
};
use knapsack_config::{Diagnostic, Loaded, ModelEntry, OverrideKey, Severity, Span, codes};
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
        let mut findings = Vec::new();
        let mut models = Vec::new();
        for (entry, source) in loaded.manifest.models.iter().zip(&resolved.sources) {
            let budget = Budget::of(self, loaded, entry, &mut findings);
            let planned = plan_one(entry, &source.path, &budget, allow_over_budget);
            findings.extend(planned.findings);
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

/// How much a model may need, and who says so.
struct Budget {
    bytes: Option<u64>,
    span: Span,
    of: String,
}

impl Budget {
    /// The smallest of what the entry declares and what the target phones allow.
    fn of(workspace: &Workspace<'_>, loaded: &Loaded, entry: &ModelEntry, findings: &mut Vec<Diagnostic>) -> Self {
        let declared = entry.estimated_vram_bytes.as_ref().map(|declared| declared.value);
        let mut budget =
            Budget { bytes: declared, span: entry.span_of_budget(), of: "estimated_vram_bytes".to_owned() };
        for phone in &loaded.manifest.target_devices {
            let Some(profile) = workspace.profiles.get(&phone.value) else { continue };
            match profile.limit(false) {
                Some(limit) if budget.bytes.is_none_or(|bytes| limit.bytes < bytes) => {
                    let of = format!("what an app may use on {}", profile.title);
                    budget = Budget { bytes: Some(limit.bytes), span: phone.span, of };
                }
                Some(_) => {}
                None if loaded.manifest.models.first().is_some_and(|first| first.model_id == entry.model_id) => {
                    let message = format!("nobody has published what an app may use on {}: not checked", profile.title);
                    findings.push(Diagnostic::warning(codes::OVER_BUDGET, phone.span, message));
                }
                None => {}
            }
        }
        budget
    }
}

struct Outcome {
    model: Option<PlannedModel>,
    findings: Vec<Diagnostic>,
}

fn plan_one(entry: &ModelEntry, folder: &Path, budget: &Budget, allow_over_budget: bool) -> Outcome {
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
            let findings = findings(entry, &model, &chosen, budget, allow_over_budget);
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

fn findings(entry: &ModelEntry, model: &Model, chosen: &Chosen, budget: &Budget, allow: bool) -> Vec<Diagnostic> {
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
        let severity = if allow { Severity::Warning } else { Severity::Error };
        let diagnostic = Diagnostic::new(severity, codes::OVER_BUDGET, budget.span, format!("{id}: {over}"))
            .label(format!("this is {}", budget.of))
            .help(what_fits(model, over))
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
fn what_fits(model: &Model, over: &OverBudget) -> String {
    match model.choose(&Overrides::default(), Some(over.budget)) {
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
