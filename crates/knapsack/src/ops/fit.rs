//! `knapsack fit`: the sizes with the largest context that fit a phone, and why.

use crate::cli::FitArgs;
use crate::exit::{AlreadyReported, FAILED, OrWrongInput, wrong_input};
use crate::files::write_atomically;
use crate::packaging::{self, Read, Shown};
use crate::phones;
use crate::report::Reporter;
use crate::table::{Align, Table};
use anyhow::{Context, Result};
use knapsack_compiler::{Chosen, MIN_CHUNK, Notice, OverBudget};
use knapsack_config::{Manifest, ModelEntry, Overrides, set_overrides};
use knapsack_ir::Windows;
use knapsack_package::{Budget, Found, Model, fixed_sizes};
use knapsack_tensor::QUANTIZATIONS;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Fits models, and with `--write` changes the manifest.
pub fn run(args: &FitArgs, reporter: &Reporter) -> Result<()> {
    let profiles = packaging::profiles(&args.on.manifest)?;
    let mut read = packaging::read(&args.on.manifest, reporter)?;
    let shown = Shown::new(reporter);
    let packager = packaging::packager(&shown, args.on.lock.offline())?;
    let places = phones::models(&args.on.models, &read.manifest)?;
    let phones = phones::chosen(&args.on.phones, &read.manifest, &profiles)?;
    let budgets = budgets(args, &read.manifest, &phones, reporter)?;
    let found = packager.find(&read.manifest, &args.on.lock.policy())?;
    let found = read.settle(found)?.models;
    let mut fitted = Vec::with_capacity(places.len());
    for &place in &places {
        fitted.push(Fitted::of(&found[place], &budgets[place], args.min_context)?);
    }
    let fits = fitted.iter().all(|model| model.problem.is_none());
    let written = if fits && args.write { write(&read, &fitted)? } else { Vec::new() };
    show(args, &fitted, &written, reporter)?;
    if fits { Ok(()) } else { Err(AlreadyReported(FAILED).into()) }
}

/// How much each model may take, in the order of the manifest.
fn budgets(
    args: &FitArgs,
    manifest: &Manifest,
    phones: &[knapsack_config::DeviceProfile],
    reporter: &Reporter,
) -> Result<Vec<Budget>> {
    let app = phones::app_memory(&args.on.phones, &manifest.app_memory);
    if phones.is_empty() && args.budget.is_none() {
        return Err(wrong_input("fit to what? Give --phone or --budget, or target_devices in the manifest"));
    }
    for phone in phones.iter().filter(|phone| phone.available(&app).is_none()) {
        let message = format!("nobody has published what an app may use on {}", phone.title);
        if args.budget.is_none() {
            return Err(wrong_input(format!("{message}: give --budget")));
        }
        reporter.warning(format_args!("{message}: only --budget counts"));
    }
    let budget = |entry: &ModelEntry| {
        let mut budget = Budget::declared(entry);
        for phone in phones {
            budget = budget.within(phone, entry.model_id.span, &app);
        }
        if let Some(given) = args.budget.filter(|given| budget.bytes.is_none_or(|bytes| *given < bytes)) {
            budget = Budget { bytes: Some(given), of: "--budget".to_owned(), ..budget };
        }
        budget
    };
    Ok(manifest.models.iter().map(budget).collect())
}

/// A model with the sizes that fit, or what is wrong with the smallest.
struct Fitted<'a> {
    entry: &'a ModelEntry,
    budget: u64,
    of: &'a str,
    /// Bytes of the budget that the tokenizer takes.
    tokenizer: u64,
    chosen: Chosen,
    /// Why it does not fit.
    problem: Option<String>,
}

impl<'a> Fitted<'a> {
    fn of(found: &'a Found, budget: &'a Budget, min_context: u32) -> Result<Self> {
        let entry = &found.entry;
        let format = entry.quantization.as_ref().map(|format| format.value.name);
        let model = Model::open(&found.folder.path, format).or_wrong_input()?;
        let Budget { bytes: Some(bytes), of, .. } = budget else {
            return Err(wrong_input("nothing limits the memory"));
        };
        let fixed = fixed_sizes(&entry.overrides, &model);
        let model = Model { tokenizer: knapsack_package::tokenizer(found).bytes, ..model };
        let chosen = model.fit(&fixed, *bytes).or_wrong_input()?;
        let smallest = with_context(&chosen.windows, min_context);
        let problem = match chosen.over_budget {
            _ if context(&model.own().windows) < min_context => {
                let own = context(&model.own().windows);
                Some(format!("the model's own context is {own}, less than {min_context}"))
            }
            Some(over) => Some(format!("{}: {over}", sizes(&over.windows))),
            None if context(&chosen.windows) < min_context => {
                let memory = model.memory(&smallest)?;
                let over = OverBudget { budget: *bytes, memory, beside: model.tokenizer, windows: smallest };
                Some(format!("{} is the most that fits; {}: {over}", sizes(&chosen.windows), sizes(&smallest)))
            }
            None => None,
        };
        let problem = problem.map(|problem| match other_formats(&model, &smallest, *bytes) {
            formats if formats.is_empty() => problem,
            formats => format!("{problem}; as {} it would fit", formats.join(" or ")),
        });
        Ok(Fitted { entry, budget: *bytes, of, tokenizer: model.tokenizer, chosen, problem })
    }

    fn id(&self) -> &str {
        &self.entry.model_id.value
    }

    fn overrides(&self) -> Overrides {
        let Windows { context, sliding, chunk, .. } = self.chosen.windows;
        Overrides {
            context_window_size: sliding.is_none().then_some(u64::from(context)),
            sliding_window_size: sliding.map(u64::from),
            prefill_chunk_size: Some(u64::from(chunk)),
            ..Overrides::default()
        }
    }

    fn value(&self) -> Value {
        let Windows { context, sliding, chunk, .. } = self.chosen.windows;
        let memory = &self.chosen.memory;
        json!({
            "model_id": self.id(),
            "fits": self.problem.is_none(),
            "problem": self.problem,
            "context_window_size": sliding.is_none().then_some(context),
            "sliding_window_size": sliding,
            "prefill_chunk_size": chunk,
            "weights": memory.weights,
            "kv_cache": memory.kv_cache,
            "state": memory.state,
            "file": memory.file,
            "workspace": memory.workspace,
            "tokenizer": self.tokenizer,
            "total": memory.total() + self.tokenizer,
            "budget": self.budget,
            "budget_of": self.of,
            "reasons": self.chosen.notices.iter().map(Notice::to_string).collect::<Vec<_>>(),
        })
    }
}

const fn context(windows: &Windows) -> u32 {
    match windows.sliding {
        Some(window) => window,
        None => windows.context,
    }
}

/// The smallest sizes with this context.
fn with_context(windows: &Windows, context: u32) -> Windows {
    let chunk = MIN_CHUNK.min(context);
    match windows.sliding {
        Some(_) => Windows { sliding: Some(context), sinks: windows.sinks.min(context - 1), chunk, ..*windows },
        None => Windows { context, chunk, ..*windows },
    }
}

fn sizes(windows: &Windows) -> String {
    let of = if windows.sliding.is_some() { "window" } else { "context" };
    format!("{of} {}, chunk {}", context(windows), windows.chunk)
}

/// For a checkpoint, the formats in which it would fit.
fn other_formats(model: &Model, windows: &Windows, budget: u64) -> Vec<&'static str> {
    let fits = |format: &knapsack_tensor::Quantization| {
        model
            .with_format(format)
            .and_then(|other| other.memory(windows).ok())
            .is_some_and(|memory| memory.total().saturating_add(model.tokenizer) <= budget)
    };
    QUANTIZATIONS.iter().filter(|format| fits(format)).map(|format| format.name).collect()
}

fn show(args: &FitArgs, fitted: &[Fitted<'_>], written: &[PathBuf], reporter: &Reporter) -> Result<()> {
    let value = || json!({ "models": fitted.iter().map(Fitted::value).collect::<Vec<_>>(), "written": written });
    if reporter.is_json() {
        return reporter.result("fit", &value());
    }
    if args.on.json.json {
        return reporter.line(value());
    }
    let mut table = Table::new(&[
        ("model", Align::Left),
        ("window", Align::Right),
        ("chunk", Align::Right),
        ("total", Align::Right),
        ("budget", Align::Right),
        ("left", Align::Right),
    ]);
    for model in fitted.iter().filter(|model| model.problem.is_none()) {
        let (windows, total) = (&model.chosen.windows, model.chosen.memory.total());
        let window = match windows.sliding {
            Some(window) => format!("{window} sliding"),
            None => windows.context.to_string(),
        };
        let numbers = [total, model.budget, model.budget.saturating_sub(total)].map(|count| count.to_string());
        table.row([model.id().to_owned(), window, windows.chunk.to_string()].into_iter().chain(numbers));
    }
    if !table.is_empty() {
        reporter.stdout(|out| write!(out, "{table}"))?;
    }
    for model in fitted {
        match &model.problem {
            Some(problem) => reporter.problem(format_args!("{} does not fit ({}): {problem}", model.id(), model.of)),
            None => {
                reporter.notice(format_args!("{}: the budget is {}", model.id(), model.of));
                for notice in &model.chosen.notices {
                    reporter.notice(format_args!("{}: {notice}", model.id()));
                }
            }
        }
    }
    for path in written {
        reporter.status("Wrote", path.display());
    }
    Ok(())
}

/// Puts the sizes into the files that say something about the models: the manifest, or one that it extends. Gives those that
/// changed.
fn write(read: &Read<'_>, fitted: &[Fitted<'_>]) -> Result<Vec<PathBuf>> {
    let mut texts: BTreeMap<PathBuf, (String, String)> = BTreeMap::new();
    for model in fitted {
        let path = read.report().sources.file(model.entry.span.file).path().to_owned();
        let shown = || format!("cannot change {}", path.display());
        if !texts.contains_key(&path) {
            let text = std::fs::read_to_string(&path).with_context(shown)?;
            texts.insert(path.clone(), (text.clone(), text));
        }
        let Some((_, new)) = texts.get_mut(&path) else { continue };
        *new = set_overrides(new, model.id(), &model.overrides()).with_context(shown)?;
    }
    let mut changed = Vec::new();
    for (path, (old, new)) in texts {
        if old != new {
            write_atomically(&path, new.as_bytes())?;
            changed.push(path);
        }
    }
    Ok(changed)
}
