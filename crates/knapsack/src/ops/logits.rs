//! `knapsack logits PATH --tokens 1,2,3 -o FILE`: the logits of every position, as safetensors.

use super::phone;
use crate::cli::LogitsArgs;
use crate::open::{self, engine_error};
use crate::report::Reporter;
use anyhow::Context;
use knapsack_runtime::CancelFlag;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Computes the logits and writes them beside the output, then renames.
pub fn run(args: &LogitsArgs, reporter: &Reporter) -> anyhow::Result<()> {
    if let Some(serial) = &args.phone.adb {
        let (package, model) = (args.model.path.as_path(), args.model.model.as_deref());
        let request = phone::Request { package, model, serial, runner: args.phone.runner.as_deref() };
        let ready = phone::Ready::new(&request, reporter)?;
        ready.logits(args.model.device.device.name, &args.tokens, &args.output)?;
        reporter.status("Wrote", format_args!("{} from the phone", args.output.display()));
        return Ok(());
    }
    let loaded = open::load(&args.model, reporter)?;
    let mut session = loaded.session;
    let columns = session.info().vocab_size as usize;
    let folder = args.output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let context = || format!("cannot write {}", args.output.display());
    let mut file = temporary().tempfile_in(folder).with_context(context)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file.as_file_mut());
    let mut written = writer.write_all(&header(args.tokens.len(), columns));
    let mut sink = |_: usize, logits: &[f32]| {
        for value in logits {
            if written.is_ok() {
                written = writer.write_all(&value.to_le_bytes());
            }
        }
    };
    session.score(&args.tokens, &CancelFlag::new(), &mut sink).map_err(engine_error)?;
    written.and_then(|()| writer.flush()).with_context(context)?;
    drop(writer);
    knapsack_bundle::persist(file, &args.output).with_context(context)?;
    reporter.status("Wrote", format_args!("{} ({} x {columns} logits)", args.output.display(), args.tokens.len()));
    Ok(())
}

/// A file with the permissions of any other: temporary files are private by default.
fn temporary() -> tempfile::Builder<'static, 'static> {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "only Unix has these permissions"))]
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

/// Length of the JSON, then the JSON, padded with spaces so that the data starts at a multiple of 8.
fn header(rows: usize, columns: usize) -> Vec<u8> {
    let bytes = 4 * rows as u64 * columns as u64;
    let tensor = serde_json::json!({ "dtype": "F32", "shape": [rows, columns], "data_offsets": [0, bytes] });
    let mut json = serde_json::json!({ "logits": tensor }).to_string();
    while !json.len().is_multiple_of(8) {
        json.push(' ');
    }
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()
}
