//! Converts a checkpoint and says how long it took: `convert CHECKPOINT OUTPUT [FORMAT] [THREADS]`.

use knapsack_weights::{ConvertRequest, TemplateChoice, convert};
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, checkpoint, output, rest @ ..] = arguments.as_slice() else {
        return Err("usage: convert CHECKPOINT OUTPUT [FORMAT] [THREADS]".into());
    };
    let quantization = rest.first().map_or("q4f16_1", String::as_str).parse()?;
    let jobs = rest.get(1).map(|threads| threads.parse::<NonZero<usize>>()).transpose()?;
    let (checkpoint, output) = (Path::new(checkpoint), Path::new(output));
    let start = Instant::now();
    let request = ConvertRequest { checkpoint, output, quantization, chat_template: &TemplateChoice::Model, jobs };
    let report = convert(&request, &AtomicBool::new(false), &|_| {})?;
    let seconds = start.elapsed().as_secs_f64();
    let rate = report.source_bytes as f64 / seconds / 1e6;
    println!("{seconds:.3} s, {rate:.0} MB/s of the checkpoint, {} bytes in {} files", report.bytes, report.shards);
    Ok(())
}
