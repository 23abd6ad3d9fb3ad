//! `knapsack convert CHECKPOINT --quantization FORMAT -o DIR`.

use crate::cli::ConvertArgs;
use crate::exit::{Interrupted, WrongInput};
use crate::interrupt::Graceful;
use crate::report::Reporter;
use crate::table::bytes;
use knapsack_tensor::Quantization;
use knapsack_weights::{ConvertError, Progress, Report, Request};
use serde_json::json;
use std::num::NonZero;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Converts a checkpoint to a weight folder.
pub fn run(args: &ConvertArgs, reporter: &Reporter) -> anyhow::Result<()> {
    let request = Request {
        checkpoint: &args.checkpoint,
        output: &args.output,
        quantization: args.quantization.parse::<Quantization>()?,
        conv_template: args.conv_template.as_deref(),
        jobs: args.jobs.and_then(|jobs| NonZero::new(jobs as usize)),
    };
    let start = Instant::now();
    let report = convert(&request, reporter)?;
    show(&report, &args.output, start, reporter)
}

/// Converts with a progress bar; Ctrl-C ends it without leaving anything.
///
/// # Errors
/// Those of [`knapsack_weights::convert`], with the exit code that belongs to each.
pub fn convert(request: &Request<'_>, reporter: &Reporter) -> anyhow::Result<Report> {
    let name = request.checkpoint.file_name().unwrap_or(request.checkpoint.as_os_str()).to_string_lossy();
    reporter.status("Converting", format_args!("{name} to {}", request.quantization));
    let graceful = Graceful::new();
    let cancel = AtomicBool::new(false);
    let bar = OnceLock::new();
    let result = knapsack_weights::convert(request, &cancel, &|progress: Progress| {
        bar.get_or_init(|| reporter.bytes_bar("Converting", progress.total)).set_position(progress.done);
        if graceful.requested() {
            cancel.store(true, Ordering::Relaxed);
        }
    });
    if let Some(bar) = bar.get() {
        bar.finish_and_clear();
    }
    let report = result.map_err(|error| match error {
        ConvertError::Cancelled => Interrupted.into(),
        error if error.is_wrong_input() => WrongInput(error.into()).into(),
        error => anyhow::Error::from(error),
    })?;
    for notice in &report.notices {
        reporter.notice(notice);
    }
    Ok(report)
}

fn show(report: &Report, output: &Path, start: Instant, reporter: &Reporter) -> anyhow::Result<()> {
    let seconds = start.elapsed().as_secs_f64();
    if reporter.is_json() {
        let value = json!({
            "output": output,
            "family": report.family.name(),
            "quantization": report.quantization.name,
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
