//! `knapsack logits PATH --tokens 1,2,3 -o FILE`: the logits of every position, as safetensors.

use super::phone;
use crate::cli::LogitsArgs;
use crate::open::{self, engine_error};
use crate::report::Reporter;
use anyhow::Context;
use knapsack_runner::logits;
use knapsack_runtime::CancelFlag;
use std::io::BufWriter;
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
    let buffered = BufWriter::with_capacity(1 << 20, file.as_file_mut());
    let mut writer = logits::Writer::new(buffered, args.tokens.len(), columns);
    session.score(&args.tokens, &CancelFlag::new(), &mut |_, row| writer.row(row)).map_err(engine_error)?;
    writer.finish().with_context(context)?;
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
