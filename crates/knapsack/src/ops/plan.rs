//! `knapsack plan`: what `package` would compile, and the memory it takes; nothing is compiled or written.

use crate::cli::{PhoneArgs, PlanArgs};
use crate::packaging::{self, Shown};
use crate::phones;
use crate::report::Reporter;
use crate::speed;
use crate::table::{Align, Table};
use anyhow::Result;
use knapsack_config::DeviceProfile;
use knapsack_package::Planned;
use serde_json::json;

/// Plans every model of a manifest.
pub fn run(args: &PlanArgs, reporter: &Reporter) -> Result<()> {
    let shown = Shown::new(reporter);
    let packager = packaging::packager(&shown, args.lock.offline())?;
    let mut read = packaging::read(&args.manifest, reporter)?;
    let found = packager.find(&read.manifest, &args.lock.policy())?;
    let found = read.settle(found)?;
    let planned = packager.plan(&read.manifest, found.models, args.allow_over_budget);
    let planned = packaging::within_stores(&read.manifest, planned, args.store);
    let planned = read.settle(planned)?;
    let platform = read.manifest.device.value.platform;
    let profiles = packaging::profiles(&args.manifest)?;
    let wanted = phones::chosen(&PhoneArgs::default(), &read.manifest, &profiles)?;
    let phones: Vec<DeviceProfile> = match wanted.is_empty() {
        true => profiles.iter().filter(|profile| Some(profile.platform) == platform).cloned().collect(),
        false => wanted,
    };
    let speeds = planned.iter().map(|model| speed::speeds(model, &phones)).collect::<Result<Vec<_>>>()?;
    if reporter.is_json() {
        let models: Vec<_> = planned.iter().map(Planned::row).collect();
        let at_most: Vec<_> = planned.iter().zip(&speeds).map(|(model, speeds)| speed_value(model, speeds)).collect();
        let value = json!({
            "device": read.manifest.device.value, "models": models, "tokens_per_second_at_most": at_most
        });
        return reporter.result("plan", &value);
    }
    reporter.stdout(|out| {
        write!(out, "{}", table(&planned))?;
        for (model, speeds) in planned.iter().zip(&speeds) {
            if let Some(sentence) = speed::sentence(speeds) {
                writeln!(out, "{}: {sentence}", model.id())?;
            }
        }
        Ok(())
    })
}

fn speed_value(model: &Planned, speeds: &[speed::Speed<'_>]) -> serde_json::Value {
    let on: serde_json::Map<_, _> =
        speeds.iter().map(|speed| (speed.phone.name.clone(), json!(speed.roof.tokens_per_second()))).collect();
    json!({ "model_id": model.id(), "on": on })
}

/// The memory of each planned model: exact bytes, since that is what the plan is about.
pub fn table<'a>(models: impl IntoIterator<Item = &'a Planned>) -> Table {
    let models: Vec<&Planned> = models.into_iter().collect();
    let recurrent = models.iter().any(|model| model.memory.state > 0);
    let numbers = ["window", "chunk", "weights", "KV cache"].into_iter().chain(recurrent.then_some("state"));
    // Beside the total: it takes no memory that others could have.
    let looked_up = models.iter().any(|model| model.memory.file > 0);
    let numbers = numbers.chain(["workspace", "tokenizer", "total"]).chain(looked_up.then_some("in the file"));
    let numbers = numbers.chain(["budget"]);
    let columns: Vec<_> =
        std::iter::once(("model", Align::Left)).chain(numbers.map(|name| (name, Align::Right))).collect();
    let mut table = Table::new(&columns);
    for model in models {
        let windows = &model.windows;
        let window = match windows.sliding {
            Some(window) => format!("{window} sliding"),
            None => windows.context.to_string(),
        };
        let memory = &model.memory;
        let state = recurrent.then_some(memory.state);
        let bytes = [memory.weights, memory.kv_cache].into_iter().chain(state);
        let bytes = bytes.chain([memory.workspace, model.tokenizer.bytes, model.total()]);
        let bytes = bytes.chain(looked_up.then_some(memory.file));
        let bytes = bytes.map(|bytes| bytes.to_string());
        let budget = model.declared().map_or("as planned".to_owned(), |declared| declared.to_string());
        let sizes = [model.id().to_owned(), window, windows.chunk.to_string()];
        table.row(sizes.into_iter().chain(bytes).chain([budget]));
    }
    table
}
