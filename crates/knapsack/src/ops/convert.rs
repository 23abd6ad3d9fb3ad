//! `knapsack convert CHECKPOINT --quantization FORMAT -o DIR`.

use crate::cli::ConvertArgs;
use crate::packaging::Shown;
use crate::report::Reporter;
use crate::table::bytes;
use knapsack_package::convert;
use knapsack_tensor::Quantization;
use knapsack_weights::{Conversion, ConvertRequest};
use serde_json::json;
use std::num::NonZero;
use std::path::Path;
use std::time::Instant;

/// Converts a checkpoint to a weight folder.
pub fn run(args: &ConvertArgs, reporter: &Reporter) -> anyhow::Result<()> {
    let request = ConvertRequest {
        checkpoint: &args.checkpoint,
        output: &args.output,
        quantization: args.quantization.parse::<Quantization>()?,
        chat_template: &args.chat_template,
        jobs: args.jobs.and_then(|jobs| NonZero::new(jobs as usize)),
    };
    let start = Instant::now();
    let name = args.checkpoint.file_name().unwrap_or(args.checkpoint.as_os_str()).to_string_lossy();
    let report = convert(&request, &name, &Shown::new(reporter))?;
    show(&report, &args.output, start, reporter)
}

fn show(report: &Conversion, output: &Path, start: Instant, reporter: &Reporter) -> anyhow::Result<()> {
    for warning in &report.chat_warnings {
        reporter.warning(warning);
    }
    let seconds = start.elapsed().as_secs_f64();
    if reporter.is_json() {
        let value = json!({
            "output": output,
            "family": report.family.name,
            "quantization": report.quantization.name,
            "chat_template": report.chat_template,
            "conv_template": report.conv_template,
            "tensors": report.tensors,
            "shards": report.shards,
            "bytes": report.bytes,
            "source_bytes": report.source_bytes,
            "bits_per_parameter": report.bits_per_parameter,
            "seconds": seconds,
        });
        return reporter.result("converted", &value);
    }
    reporter.status(
        "Converted",
        format_args!(
            "{} to {} in {seconds:.1} s: {} tensors, {:.2} bits per parameter, in {}",
            bytes(report.source_bytes),
            bytes(report.bytes),
            report.tensors,
            report.bits_per_parameter,
            output.display()
        ),
    );
    Ok(())
}
