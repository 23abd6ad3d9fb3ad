//! `knapsack plan`: what `package` would compile, and the memory it takes; nothing is compiled or written.

use crate::cli::PlanArgs;
use crate::packaging::{self, Plan, Workspace};
use crate::report::Reporter;
use crate::table::{Align, Table};
use anyhow::Result;
use serde_json::json;

/// Plans every model of a manifest.
pub fn run(args: &PlanArgs, reporter: &Reporter) -> Result<()> {
    let workspace = Workspace::new(reporter, args.lock.offline())?;
    let mut loaded = packaging::load(&args.manifest, reporter)?;
    let resolved = workspace.resolve(&loaded, &args.lock.locking())?;
    let plan = workspace.plan(&mut loaded, &resolved, args.allow_over_budget)?;
    if reporter.is_json() {
        let models: Vec<_> = plan.models.iter().map(|model| model.row()).collect();
        return reporter.result("plan", &json!({ "device": loaded.manifest.device.value, "models": models }));
    }
    print_plan(&plan, reporter)
}

/// The memory of each planned model: exact bytes, since that is what the plan is about.
pub fn print_plan(plan: &Plan, reporter: &Reporter) -> Result<()> {
    let numbers = ["window", "chunk", "weights", "KV cache", "workspace", "total", "budget"];
    let columns: Vec<_> =
        std::iter::once(("model", Align::Left)).chain(numbers.map(|name| (name, Align::Right))).collect();
    let mut table = Table::new(&columns);
    for model in &plan.models {
        let windows = &model.windows;
        let window = match windows.sliding {
            Some(window) => format!("{window} sliding"),
            None => windows.context.to_string(),
        };
        let memory = &model.memory;
        let bytes = [memory.weights, memory.kv_cache, memory.workspace, memory.total()].map(|bytes| bytes.to_string());
        let budget = model.declared.map_or("as planned".to_owned(), |declared| declared.to_string());
        let sizes = [model.model_id.clone(), window, windows.chunk.to_string()];
        table.row(sizes.into_iter().chain(bytes).chain([budget]));
    }
    reporter.stdout(|out| write!(out, "{table}"))
}
