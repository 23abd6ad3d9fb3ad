//! `knapsack schema`: the JSON Schema of the manifest, for editors.

use crate::report::Reporter;

/// Prints the schema.
pub fn run(reporter: &Reporter) -> anyhow::Result<()> {
    let schema = knapsack_config::json_schema();
    reporter.stdout(|out| out.write_all(schema.as_bytes()))
}
