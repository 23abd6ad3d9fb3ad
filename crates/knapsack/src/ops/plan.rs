//! `knapsack plan`: what `package` would compile, and the memory it takes; nothing is compiled or written.

use crate::cli::PlanArgs;
use crate::packaging::Workspace;
use crate::report::Reporter;
use crate::table::print_plan;
use anyhow::Result;
use serde_json::json;

/// Plans every model of a manifest.
pub fn run(args: &PlanArgs, reporter: &Reporter) -> Result<()> {
    let workspace = Workspace::new(reporter, args.lock.offline())?;
    let mut loaded = workspace.load(&args.manifest.config)?;
    let resolved = workspace.resolve(&loaded, &args.lock.locking())?;
    let plan = workspace.plan(&mut loaded, &resolved, args.allow_over_budget)?;
    if reporter.is_json() {
        let models: Vec<_> = plan.models.iter().map(|model| model.row()).collect();
        return reporter.result("plan", &json!({ "device": loaded.manifest.device.value, "models": models }));
    }
    print_plan(&plan, reporter)
}
