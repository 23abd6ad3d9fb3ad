//! Stage 1: the manifest, and the profiles of phones that it may name.

use crate::cli::ManifestArgs;
use crate::exit::{AlreadyReported, OrWrongInput, WRONG_INPUT};
use crate::files::read_limited;
use crate::report::Reporter;
use anyhow::{Context, Result};
use knapsack_config::{DEVICES_FILE, DeviceProfiles, Environment, Loaded};

/// Reads and checks the manifest. Everything that is wrong with it has been shown when this fails; warnings and notices are for
/// the caller to show.
///
/// # Errors
/// With exit code 2.
pub fn load(args: &ManifestArgs, reporter: &Reporter) -> Result<Loaded> {
    let environment = Environment {
        hf_endpoint: std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.trim().is_empty()),
        devices: profiles(args)?,
    };
    knapsack_config::load(&args.config, &environment).map_err(|report| {
        reporter.diagnostics(&report);
        AlreadyReported(WRONG_INPUT).into()
    })
}

/// The profiles that come with Knapsack, and on top of them the user's: the file that `--devices` names, else the one of the
/// usual name beside the manifest.
///
/// # Errors
/// A file that cannot be read, or is no file of profiles; with exit code 2.
pub fn profiles(args: &ManifestArgs) -> Result<DeviceProfiles> {
    let mut profiles = DeviceProfiles::built_in()?;
    let beside = args.config.with_file_name(DEVICES_FILE);
    let own = match &args.devices {
        Some(file) => Some(file),
        None => beside.is_file().then_some(&beside),
    };
    if let Some(file) = own {
        let text = read_limited(file, DeviceProfiles::MAX_BYTES).or_wrong_input()?;
        let text = std::str::from_utf8(&text).with_context(|| file.display().to_string()).or_wrong_input()?;
        profiles.extend_from_json(text).with_context(|| file.display().to_string()).or_wrong_input()?;
    }
    Ok(profiles)
}
