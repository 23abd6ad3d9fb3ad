//! `knapsack memory`: what each model needs on each phone, and how that grows with its sizes.

use super::phone::reports;
use crate::cli::MemoryArgs;
use crate::exit::OrWrongInput;
use crate::packaging::{self, Shown};
use crate::phones;
use crate::report::Reporter;
use crate::speed;
use crate::table::{Align, Table, bytes};
use anyhow::Result;
use knapsack_artifact::library::MemoryPlan;
use knapsack_compiler::{MIN_CHUNK, MIN_CONTEXT};
use knapsack_config::{AppMemory, DeviceProfile, DeviceProfiles};
use knapsack_ir::Windows;
use knapsack_package::{Model, PlanRow, Planned, fixed_sizes};
use serde::Serialize;
use serde_json::json;
use std::fmt::Write;

/// Shows the memory of each model; whether it fits does not change the exit code.
pub fn run(args: &MemoryArgs, reporter: &Reporter) -> Result<()> {
    let profiles = packaging::profiles(&args.on.manifest)?;
    let as_json = args.on.json.json || reporter.is_json();
    if args.list_phones {
        return list_phones(&profiles, as_json, reporter);
    }
    let mut read = packaging::read(&args.on.manifest, reporter)?;
    let shown = Shown::new(reporter);
    let packager = packaging::packager(&shown, args.on.lock.offline())?;
    let places = phones::models(&args.on.models, &read.manifest)?;
    let app = phones::app_memory(&args.on.phones, &read.manifest.app_memory);
    let mut phones = phones::chosen(&args.on.phones, &read.manifest, &profiles)?;
    if phones.is_empty() {
        let platform = read.manifest.device.value.platform;
        phones = profiles.iter().filter(|profile| Some(profile.platform) == platform).cloned().collect();
    }
    let found = packager.find(&read.manifest, &args.on.lock.policy())?;
    let found = read.settle(found)?;
    // What does not fit is shown, not refused.
    let planned = packager.plan(&read.manifest, found.models, true);
    let planned = read.settle(planned)?;
    let reports = places.iter().map(|&place| ModelMemory::of(&planned[place], &phones, &app));
    let reports = reports.collect::<Result<Vec<_>>>()?;
    let measured = args.measured.as_deref().map(reports::read).transpose().or_wrong_input()?.unwrap_or_default();
    if as_json {
        let mut value =
            json!({ "device": read.manifest.device.value, "app": app, "phones": phones, "models": reports });
        if args.measured.is_some() {
            value["measured"] = json!(measured);
        }
        return if reporter.is_json() { reporter.result("memory", &value) } else { reporter.line(value) };
    }
    let mut text = String::new();
    for model in &reports {
        model.write(&phones, &mut text)?;
        if let Some(table) = reports::table(&measured, model.planned.id()) {
            writeln!(text, "{table}")?;
        }
    }
    writeln!(text, "{}", footnote(&app))?;
    reporter.stdout(|out| write!(out, "{text}"))
}

fn footnote(app: &AppMemory) -> String {
    let with = if app.increased_memory_limit { "with" } else { "without" };
    format!(
        "available: what one app may use {with} the increased-memory entitlement, less {} that the app keeps for itself;\n\
         the sources of these figures: `knapsack memory --list-phones`",
        bytes(app.reserve_bytes)
    )
}

/// A model on one phone.
#[derive(Debug, Serialize)]
struct OnPhone {
    phone: String,
    /// Bytes for all models together; unknown for most Android phones.
    available: Option<u64>,
    /// Unknown where `available` is.
    fits: Option<bool>,
    /// `available` less what the model needs.
    left: Option<i128>,
    /// Largest context (or sliding window) that would fit; `None` when none does, or nobody knows.
    largest_context: Option<u32>,
    /// Whether the GPU can have the largest buffer; unknown where its limit is.
    largest_buffer_fits: Option<bool>,
    /// Tokens a second at most, by what is counted of the kernels with a full cache; unknown where the GPU is.
    tokens_per_second_at_most: Option<f64>,
}

/// Memory for other sizes.
#[derive(Debug, Serialize)]
pub(super) struct Growth {
    /// Context, or sliding window.
    pub(super) context: u32,
    pub(super) prefill_chunk_size: u32,
    #[serde(flatten)]
    pub(super) memory: MemoryPlan,
    /// The same for all sizes, and part of the total.
    pub(super) tokenizer: u64,
    pub(super) total: u64,
}

#[derive(Serialize)]
struct ModelMemory<'a> {
    #[serde(flatten)]
    row: PlanRow<'a>,
    #[serde(skip)]
    planned: &'a Planned,
    largest_buffer: u64,
    on: Vec<OnPhone>,
    growth: Vec<Growth>,
}

impl<'a> ModelMemory<'a> {
    fn of(planned: &'a Planned, phones: &[DeviceProfile], app: &AppMemory) -> Result<Self> {
        let largest_buffer = planned.model.largest_buffer(&planned.windows)?;
        let speeds = speed::speeds(planned, phones)?;
        let mut on = Vec::with_capacity(phones.len());
        for phone in phones {
            let available = phone.available(app);
            let total = planned.total();
            on.push(OnPhone {
                phone: phone.name.clone(),
                available,
                fits: available.map(|available| total <= available),
                left: available.map(|available| i128::from(available) - i128::from(total)),
                largest_context: available.map(|available| largest_context(planned, available)).transpose()?.flatten(),
                largest_buffer_fits: phone.max_buffer.as_ref().map(|limit| largest_buffer <= limit.bytes),
                tokens_per_second_at_most: speeds
                    .iter()
                    .find(|speed| speed.phone.name == phone.name)
                    .map(|speed| speed.roof.tokens_per_second()),
            });
        }
        Ok(ModelMemory {
            row: planned.row(),
            planned,
            largest_buffer,
            on,
            growth: growth(&planned.model, &planned.windows, planned.tokenizer.bytes)?,
        })
    }

    fn write(&self, phones: &[DeviceProfile], text: &mut String) -> Result<()> {
        let Planned { model, windows, memory, tokenizer, .. } = self.planned;
        let parts = memory.parts().chain([("tokenizer", tokenizer.bytes)]);
        let parts: Vec<String> = parts.map(|(name, bytes)| format!("{name} {bytes}")).collect();
        writeln!(text, "{} ({}, {})", self.planned.id(), model.quantization.name, sizes(windows))?;
        writeln!(
            text,
            "  {} = {} bytes; largest buffer {}\n",
            parts.join(" + "),
            self.planned.total(),
            bytes(self.largest_buffer)
        )?;
        if memory.file > 0 {
            writeln!(text, "  {} bytes of weights stay in the mapped file, beside that\n", memory.file)?;
        }
        writeln!(text, "{}", self.phones(phones))?;
        writeln!(text, "{}", self.matrix())?;
        Ok(())
    }

    fn phones(&self, phones: &[DeviceProfile]) -> Table {
        let of = if self.planned.windows.sliding.is_some() { "largest window" } else { "largest context" };
        let mut table = Table::new(&[
            ("phone", Align::Left),
            ("RAM", Align::Right),
            ("available", Align::Right),
            ("fits", Align::Left),
            ("left", Align::Right),
            (of, Align::Right),
            ("tokens/s at most", Align::Right),
        ]);
        for (phone, on) in phones.iter().zip(&self.on) {
            let buffer = on.largest_buffer_fits == Some(false);
            let fits = match on.fits {
                _ if buffer => "no: a buffer is too large",
                Some(true) => "yes",
                Some(false) => "no",
                None => "nobody knows",
            };
            let unknown = || "-".to_owned();
            table.row([
                phone.name.clone(),
                bytes(phone.ram.bytes),
                on.available.map_or_else(unknown, bytes),
                fits.to_owned(),
                on.left.map_or_else(unknown, signed),
                on.largest_context.map_or_else(unknown, |context| context.to_string()),
                on.tokens_per_second_at_most.map_or_else(unknown, |rate| format!("{rate:.1}")),
            ]);
        }
        table
    }

    /// Totals in megabytes, contexts down and chunks across.
    fn matrix(&self) -> Table {
        let windows = &self.planned.windows;
        let mut chunks: Vec<u32> = self.growth.iter().map(|growth| growth.prefill_chunk_size).collect();
        chunks.sort_unstable();
        chunks.dedup();
        let of = if windows.sliding.is_some() { "MB by window" } else { "MB by context" };
        let columns: Vec<(String, Align)> = [(of.to_owned(), Align::Left)]
            .into_iter()
            .chain(chunks.iter().map(|chunk| (format!("chunk {chunk}"), Align::Right)))
            .collect();
        let mut table = Table::new(&columns);
        for row in self.growth.chunk_by(|a, b| a.context == b.context) {
            let cell = |&chunk: &u32| {
                let growth = row.iter().find(|growth| growth.prefill_chunk_size == chunk);
                growth.map_or_else(|| "-".to_owned(), |growth| growth.total.div_ceil(1_000_000).to_string())
            };
            let context = row.first().map_or(0, |growth| growth.context).to_string();
            table.row([context].into_iter().chain(chunks.iter().map(cell)));
        }
        table
    }
}

fn sizes(windows: &Windows) -> String {
    match windows.sliding {
        Some(window) => format!("sliding window {window} + {} sinks, chunk {}", windows.sinks, windows.chunk),
        None => format!("context {}, chunk {}", windows.context, windows.chunk),
    }
}

fn signed(count: i128) -> String {
    let size = bytes(u64::try_from(count.unsigned_abs()).unwrap_or(u64::MAX));
    if count < 0 { format!("-{size}") } else { size }
}

fn largest_context(planned: &Planned, available: u64) -> Result<Option<u32>> {
    let fitted = planned.model.fit(&fixed_sizes(&planned.found.entry.overrides, &planned.model), available)?;
    let windows = fitted.windows;
    Ok(fitted.over_budget.is_none().then(|| windows.sliding.unwrap_or(windows.context)))
}

/// The plan for contexts and chunks that double, up to the model's own, and for its planned sizes.
pub(super) fn growth(model: &Model, planned: &Windows, tokenizer: u64) -> Result<Vec<Growth>> {
    let own = model.own().windows;
    let planned_context = planned.sliding.unwrap_or(planned.context);
    let most = match planned.sliding {
        Some(_) => own.sliding.unwrap_or(own.context),
        None => own.context,
    };
    let chunks = doubling(MIN_CHUNK, own.chunk, planned.chunk);
    let mut list = Vec::new();
    for context in doubling(MIN_CONTEXT, most, planned_context) {
        for &chunk in chunks.iter().filter(|&&chunk| chunk <= context) {
            let windows = match planned.sliding {
                Some(_) => Windows { sliding: Some(context), sinks: planned.sinks.min(context - 1), chunk, ..*planned },
                None => Windows { context, chunk, ..*planned },
            };
            let memory = model.memory(&windows)?;
            list.push(Growth {
                context,
                prefill_chunk_size: chunk,
                memory,
                tokenizer,
                total: memory.total() + tokenizer,
            });
        }
    }
    Ok(list)
}

/// `from`, twice that, and so on up to `to`, with `to` and `also`, in order.
fn doubling(from: u32, to: u32, also: u32) -> Vec<u32> {
    let mut list: Vec<u32> = std::iter::successors(Some(from), |size| size.checked_mul(2))
        .take_while(|&size| size < to)
        .chain([to, also])
        .collect();
    list.sort_unstable();
    list.dedup();
    list
}

/// The profiles with every figure and its source.
fn list_phones(profiles: &DeviceProfiles, as_json: bool, reporter: &Reporter) -> Result<()> {
    if as_json {
        let value = json!({ "devices": profiles.iter().collect::<Vec<_>>() });
        return if reporter.is_json() { reporter.result("phones", &value) } else { reporter.line(value) };
    }
    let mut text = String::new();
    for profile in profiles.iter() {
        writeln!(text, "{} ({})", profile.name, profile.title)?;
        let figures = [
            ("RAM", Some(&profile.ram)),
            ("one app", profile.app_limit.as_ref()),
            ("entitled app", profile.app_limit_entitled.as_ref()),
            ("largest buffer", profile.max_buffer.as_ref()),
        ];
        for (name, figure) in figures {
            match figure {
                Some(figure) => writeln!(text, "  {name:<15} {:>8}  {}", bytes(figure.bytes), figure.source)?,
                None => writeln!(text, "  {name:<15} {:>8}  nobody has published or reported it", "-")?,
            }
        }
        writeln!(text)?;
    }
    writeln!(
        text,
        "A file {} beside the manifest, or `--devices FILE`, adds profiles or replaces some.",
        knapsack_config::DEVICES_FILE
    )?;
    reporter.stdout(|out| write!(out, "{text}"))
}
