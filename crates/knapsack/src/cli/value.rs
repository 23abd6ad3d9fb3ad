//! How values are read from the command line.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use knapsack_artifact::DeviceKind;
use knapsack_bundle::LinkMode;
use knapsack_device::Executor;

/// Accepts the names of rows, which the help lists with what they are.
fn rows<T: Clone + Send + Sync + 'static>(
    rows: impl Iterator<Item = (&'static str, &'static str, T)>,
) -> impl TypedValueParser<Value = T> {
    let rows: Vec<_> = rows.collect();
    let values: Vec<_> = rows.iter().map(|(name, about, _)| PossibleValue::new(name).help(about)).collect();
    PossibleValuesParser::new(values).map(move |name| {
        let row = rows.iter().find(|(row, ..)| *row == name);
        row.expect("only the names of rows are accepted").2.clone()
    })
}

/// Devices to package for.
pub(super) fn device_parser(devices: impl Iterator<Item = DeviceKind>) -> impl TypedValueParser<Value = DeviceKind> {
    rows(devices.map(|device| (device.name, device.about, device)))
}

/// Devices to run on.
pub(super) fn executor_parser() -> impl TypedValueParser<Value = Executor> {
    rows(Executor::ALL.iter().map(|executor| (executor.name, executor.about, *executor)))
}

/// How weights get into a package.
pub(super) fn link_mode_parser() -> impl TypedValueParser<Value = LinkMode> {
    rows(LinkMode::ALL.into_iter().map(|(name, mode, about)| (name, about, mode)))
}

/// Accepts the names of the quantization formats and lists them in the help.
pub(super) fn quantization_parser() -> PossibleValuesParser {
    knapsack_tensor::QUANTIZATIONS.map(|format| format.name).into()
}

pub(super) fn template_choice(text: &str) -> Result<knapsack_weights::TemplateChoice, String> {
    let choice = knapsack_weights::TemplateChoice::parse(text);
    choice.preset().map_err(|error| error.to_string())?;
    Ok(choice)
}

pub(super) fn number(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("not a number".to_owned()),
    }
}

/// A number of bytes with an optional decimal or binary unit.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let factor: u64 = match &text[digits.len()..] {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        unit => return Err(format!("unknown unit {unit}, expected B, KB, MB, GB, KiB, MiB or GiB")),
    };
    let value: f64 = digits.trim().parse().map_err(|_| "not a number of bytes".to_owned())?;
    let value = value * factor as f64;
    if (1.0..1e18).contains(&value) { Ok(value as u64) } else { Err("not a number of bytes".to_owned()) }
}

/// As [`bytes`], but nothing is a reserve too.
pub(super) fn reserve(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { bytes(text) }
}

pub(super) fn positive(text: &str) -> Result<f32, String> {
    number(text).and_then(|value| if value > 0.0 { Ok(value) } else { Err("must be above 0".to_owned()) })
}
