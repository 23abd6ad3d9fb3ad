//! The page. Its templates escape what they are given; it has no script and names nothing outside of itself but the addresses of models.

use super::chart::{Bar, Mark, Part, bars};
use super::data::{APP_CONFIG, Held, ModelData, PackageData};
use crate::ops::inspect::{FoundLibrary, windows};
use crate::ops::memory::Growth;
use crate::table::bytes;
use knapsack_artifact::app_config::WeightsLocation;
use knapsack_artifact::library::MemoryPlan;
use knapsack_compiler::codegen::kernel_traffic;
use knapsack_config::{DeviceProfile, Severity};
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("style.css");
/// Files that are listed one by one; the rest is a sum.
const MOST_FILES: usize = 40;

/// The sections, with their headings.
const SECTIONS: [(&str, &str); 6] = [
    ("sizes", "Sizes"),
    ("memory", "Memory"),
    ("phones", "Phones"),
    ("stores", "Stores"),
    ("provenance", "Provenance"),
    ("kernels", "Kernels"),
];

/// The whole page.
pub(super) fn render(data: &PackageData) -> Markup {
    let models = data.models.len();
    let (count, total) =
        (if models == 1 { "1 model".to_owned() } else { format!("{models} models") }, bytes(data.bytes()));
    let platform = data.platform.map_or_else(|| "no phone".to_owned(), |platform| platform.to_string());
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                // Nothing may be loaded, whatever a name in the package looks like.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { "Package " (data.name) " – Knapsack" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#content" { "Skip to the content" }
                header {
                    h1 { "Package " (data.name) }
                    p.lead { (count) " for " (platform) ", " (total) " in " (data.files.len()) " files" }
                    nav aria-label="Sections" { ul { @for (id, title) in SECTIONS { li { a href={ "#" (id) } { (title) } } } } }
                }
                main id="content" {
                    (section(0, sizes(data)))
                    (section(1, html! { @for model in &data.models { (memory(data, model)) } }))
                    (section(2, phones(data)))
                    (section(3, stores(data)))
                    (section(4, provenance(data)))
                    (section(5, html! { @for found in &data.libraries { (kernels(found)) } }))
                }
                footer { "Written by knapsack " (env!("CARGO_PKG_VERSION")) ". Sizes are decimal: 1 MB is 1,000,000 bytes." }
            }
        }
    }
}

fn section(index: usize, content: Markup) -> Markup {
    let (id, title) = SECTIONS[index];
    html! { section aria-labelledby=(id) { h2 id=(id) { (title) } (content) } }
}

/// A table that scrolls by itself where it is too wide, also by keyboard.
fn table(caption: &str, head: &[(&str, bool)], rows: &[Vec<Markup>]) -> Markup {
    let class = |number: bool| if number { "number" } else { "" };
    html! {
        div.scroll tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { (caption) }
                thead { tr { @for (name, number) in head { th scope="col" class=(class(*number)) { (name) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            @for (index, (cell, (_, number))) in row.iter().zip(head).enumerate() {
                                @if index == 0 { th scope="row" { (cell) } } @else { td class=(class(*number)) { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn text(value: impl std::fmt::Display) -> Markup {
    html! { (value.to_string()) }
}

fn sizes(data: &PackageData) -> Markup {
    let row = |model: &ModelData| {
        let library =
            data.library(&model.config).map_or_else(|| "missing".to_owned(), |found| bytes(found.blob.len() as u64));
        let files = model.config.files.len();
        vec![text(&model.config.model_id), text(model.delivery), text(files), text(bytes(model.bytes())), text(library)]
    };
    let models: Vec<_> = data.models.iter().map(row).collect();
    let bar = |model: &ModelData| Bar {
        label: model.config.model_id.chars().take(18).collect(),
        parts: vec![Part { class: "weights", bytes: model.bytes() }],
    };
    let chart: Vec<Bar> = data.models.iter().map(bar).collect();
    let (listed, rest) = data.files.split_at(data.files.len().min(MOST_FILES));
    let mut files: Vec<_> =
        listed.iter().map(|(name, size)| vec![html! { code { (name) } }, text(bytes(*size))]).collect();
    if !rest.is_empty() {
        let sum = rest.iter().map(|(_, size)| size).sum();
        files.push(vec![text(format!("{} more", rest.len())), text(bytes(sum))]);
    }
    let head =
        [("model", false), ("delivery", false), ("files", true), ("weights and tokenizer", true), ("library", true)];
    html! {
        (table("What each model brings", &head, &models))
        (bars("Size of each model's files", &chart, &[]))
        details { summary { "Every file" } (table("Files of the package, largest first", &[("file", false), ("size", true)], &files)) }
    }
}

fn memory(data: &PackageData, model: &ModelData) -> Markup {
    let config = &model.config;
    let Some(plan) = &config.planned_memory else {
        return html! { h3 { (config.model_id) } p { "The package does not say what it needs." } };
    };
    let parts = |weights, cache, workspace, tokenizer| {
        vec![
            Part { class: "weights", bytes: weights },
            Part { class: "cache", bytes: cache },
            Part { class: "workspace", bytes: workspace },
            Part { class: "tokenizer", bytes: tokenizer },
        ]
    };
    // What recurrent layers remember stands where the cache does.
    let planned = parts(plan.weights, plan.kv_cache + plan.state, plan.workspace, plan.tokenizer);
    let mut chart = vec![Bar { label: "as packaged".into(), parts: planned }];
    let chunk = config.prefill_chunk_size;
    let planned = model.growth.iter().filter(|growth| Some(growth.prefill_chunk_size) == chunk);
    chart.extend(planned.map(|growth| Bar {
        label: format!("context {}", growth.context),
        parts: {
            let MemoryPlan { weights, kv_cache, state, workspace, .. } = growth.memory;
            parts(weights, kv_cache + state, workspace, growth.tokenizer)
        },
    }));
    let available =
        |phone: &DeviceProfile| Some(Mark { label: phone.title.clone(), bytes: phone.available(&data.app)? });
    let marks: Vec<Mark> = data.phones.iter().filter_map(available).collect();
    let sizes = data.library(config).map(|found| windows(&found.library)).unwrap_or_default();
    let title = format!("Memory of {} for growing contexts, with what phones leave", config.model_id);
    html! {
        section.card aria-label=(config.model_id) {
            h3 { (config.model_id) }
            p { (sizes) ": " strong { (bytes(plan.total)) } " = "
                (key("weights", plan.weights)) (key("cache", plan.kv_cache + plan.state))
                (key("workspace", plan.workspace)) (key("tokenizer", plan.tokenizer))
                @if plan.file > 0 { "; beside that " (bytes(plan.file)) " of weights stay in the mapped file" } }
            (bars(&title, &chart, &marks))
            @if model.growth.is_empty() {
                p { "How it grows is not known here: the model's configuration is not in the package." }
            } @else { details { summary { "By context and chunk" } (matrix(&model.growth)) } }
        }
    }
}

/// A colour of the chart with what it stands for.
fn key(class: &str, size: u64) -> Markup {
    let name = if class == "cache" { "KV cache" } else { class };
    html! { span.term { span class={ "key " (class) } {} (name) " " (bytes(size)) } " " }
}

fn matrix(growth: &[Growth]) -> Markup {
    let mut chunks: Vec<u32> = growth.iter().map(|growth| growth.prefill_chunk_size).collect();
    chunks.sort_unstable();
    chunks.dedup();
    let names: Vec<String> = chunks.iter().map(|chunk| format!("chunk {chunk}")).collect();
    let head: Vec<(&str, bool)> =
        [("context", false)].into_iter().chain(names.iter().map(|name| (name.as_str(), true))).collect();
    let rows = growth.chunk_by(|a, b| a.context == b.context).map(|row| {
        let cell = |chunk: &u32| {
            let found = row.iter().find(|growth| growth.prefill_chunk_size == *chunk);
            text(found.map_or_else(|| "–".to_owned(), |growth| bytes(growth.total)))
        };
        let context = row.first().map_or(0, |growth| growth.context);
        std::iter::once(text(context)).chain(chunks.iter().map(cell)).collect::<Vec<_>>()
    });
    table("Total memory", &head, &rows.collect::<Vec<_>>())
}

fn phones(data: &PackageData) -> Markup {
    let ids: Vec<&str> = data.models.iter().map(|model| model.config.model_id.as_str()).collect();
    let head: Vec<(&str, bool)> = [("phone", false), ("RAM", true), ("for models", true)]
        .into_iter()
        .chain(ids.iter().map(|id| (*id, false)))
        .collect();
    let row = |phone: &DeviceProfile| {
        let available = phone.available(&data.app);
        let fits = |model: &ModelData| {
            let total = model.config.planned_memory.map(|plan| plan.total);
            match (available, total) {
                (Some(available), Some(total)) if total <= available => {
                    html! { span.good { "fits" } ", " (bytes(available - total)) " left" }
                }
                (Some(available), Some(total)) => html! { span.bad { "too large" } " by " (bytes(total - available)) },
                _ => html! { span.warn { "nobody knows" } },
            }
        };
        let left = available.map_or_else(|| "unknown".to_owned(), bytes);
        let first = [text(&phone.title), text(bytes(phone.ram.bytes)), text(left)];
        first.into_iter().chain(data.models.iter().map(fits)).collect::<Vec<_>>()
    };
    let rows: Vec<_> = data.phones.iter().map(row).collect();
    let with = if data.app.increased_memory_limit { "with" } else { "without" };
    html! {
        (table("Which phone holds what, one model at a time", &head, &rows))
        p { "For models: what one app may use " (with) " the increased-memory entitlement, less " (bytes(data.app.reserve_bytes))
            " for the app itself. The sources of these figures: " code { "knapsack memory --list-phones" } "." }
    }
}

fn stores(data: &PackageData) -> Markup {
    let state = |held: &Held| match held.severity {
        None => html! { span.good { "within" } },
        Some(Severity::Error) => html! { span.bad { "too large" } },
        Some(_) => html! { span.warn { "depends on the rest of the app" } },
    };
    let row = |held: &Held| {
        let warning = held.limit.warning_above.map_or_else(|| "–".to_owned(), bytes);
        vec![text(held.what), text(bytes(held.value)), text(warning), text(bytes(held.limit.error_above)), state(held)]
    };
    let head = [("what", false), ("at least", true), ("depends above", true), ("breaks above", true), ("", false)];
    let rows: Vec<_> = data.limits.iter().map(row).collect();
    html! {
        (table("What the stores take", &head, &rows))
        details { summary { "Sources, read on " (data.limits_read) }
            ul { @for held in &data.limits { li { (held.what) ": " (held.limit.source) } } } }
    }
}

fn provenance(data: &PackageData) -> Markup {
    html! {
        @for model in &data.models {
            @let config = &model.config;
            section.card aria-label=(config.model_id) {
                h3 { (config.model_id) }
                ul {
                    @if let WeightsLocation::Download(url) = &config.weights { li { "Source: " a href=(url) rel="noreferrer" { (url) } } }
                    li { "Revision: " @match &config.revision { Some(revision) => code { (revision) }, None => "none: a local model" } }
                    li { "Licence: " @match &model.licence {
                        Some(licence) => (licence),
                        None => { "not stated. " code { "\"app\": { \"license\": … }" } " in the model's entry of the manifest states it" } } }
                    li { "Library: " code { (config.model_lib) } }
                }
                details { summary { (config.files.len()) " files with their SHA-256" }
                    (table("Files, as the app verifies them", &[("file", false), ("size", true), ("SHA-256", false)], &hashes(model))) }
            }
        }
        p { "From " code { (APP_CONFIG) } "." }
    }
}

fn hashes(model: &ModelData) -> Vec<Vec<Markup>> {
    let row = |file: &knapsack_artifact::app_config::AppFile| {
        vec![html! { code { (file.path) } }, text(bytes(file.size)), html! { span.hash { (file.sha256) } }]
    };
    model.config.files.iter().map(row).collect()
}

fn kernels(found: &FoundLibrary) -> Markup {
    let library = &found.library;
    let row = |row: &knapsack_compiler::codegen::KernelTraffic| {
        let sum = |traffic: &knapsack_compiler::codegen::Traffic| traffic.weights + traffic.cache + traffic.activations;
        vec![
            html! { code { (row.kernel) } },
            text(row.function),
            text(row.launches),
            text(&row.summary),
            text(bytes(sum(&row.must))),
            text(format!("{:.2}", row.ratio())),
        ]
    };
    let rows: Vec<_> = kernel_traffic(library).iter().map(row).collect();
    let head = [
        ("kernel", false),
        ("function", false),
        ("launches", true),
        ("what it does", false),
        ("must move", true),
        ("moves / must", true),
    ];
    let places = found.places.len();
    html! {
        section.card aria-label=(library.name) {
            h3 { code { (library.name) } }
            p { (library.model.family) " " (library.model.quantization) ", " (windows(library)) "; " (bytes(found.blob.len() as u64))
                " in each of " (places) (if places == 1 { " place" } else { " places" }) }
            @if rows.is_empty() { p { "No kernels: this library runs on the CPU." } } @else { (table("Kernels", &head, &rows)) }
        }
    }
}
