//! `knapsack compile`: one model, one device, one file.

use crate::cli::CompileArgs;
use crate::exit::OrWrongInput;
use crate::files::write_atomically;
use crate::report::Reporter;
use anyhow::Result;
use knapsack_artifact::device::Form;
use knapsack_bundle::Library;
use knapsack_bundle::objects::{archive, shared_library};
use knapsack_package::{Model, given_sizes};
use std::sync::Arc;

/// Compiles the model and writes the library: a static archive for Apple devices, a shared library (arm64-v8a) for Android,
/// the bare library for the host.
pub fn run(args: &CompileArgs, reporter: &Reporter) -> Result<()> {
    let model = Model::open(&args.model, args.quantization.as_deref()).or_wrong_input()?;
    let overrides = args.overrides.overrides.clone().unwrap_or_default();
    let chosen = model.choose(&given_sizes(&overrides), None).or_wrong_input()?;
    for notice in &chosen.notices {
        reporter.notice(notice);
    }
    let library = Library::new(Arc::new(model.compile(chosen.windows, args.device.target, None)?))?;
    let libraries = std::slice::from_ref(&library);
    let bytes = match args.device.form {
        Form::Framework([slice, ..]) => archive(*slice, libraries)?,
        Form::SharedLibraries([abi, ..]) => shared_library(*abi, libraries)?,
        Form::Framework([]) | Form::SharedLibraries([]) | Form::Blob => library.blob().to_vec(),
    };
    write_atomically(&args.output, &bytes)?;
    if reporter.is_json() {
        let value = serde_json::json!({
            "model_lib": library.name(),
            "path": args.output,
            "bytes": bytes.len(),
            "memory": library.library().memory,
        });
        return reporter.result("compiled", &value);
    }
    reporter
        .status("Compiled", format_args!("{} to {} ({} bytes)", library.name(), args.output.display(), bytes.len()));
    Ok(())
}
