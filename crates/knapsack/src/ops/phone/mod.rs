//! `--adb`: measures a package on a phone that is connected by a cable, and holds its logits against this machine's.

mod adb;
pub(super) mod reports;

use crate::cli::SDK_FOLDER;
use crate::exit::wrong_input;
use crate::files::write_atomically;
use crate::report::Reporter;
use crate::table::bytes;
use adb::{Phone, Source};
use anyhow::{Context, Result, ensure};
use knapsack_artifact::device::Abi;
use knapsack_bundle::digest::{FileDigests, Wanted};
use knapsack_runtime::Package;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The crate `knapsack-runner` for Android: `knapsack sdk build` writes it under this name.
pub(super) const RUNNER: &str = "knapsack-android-arm64";
/// What is run on the phone; the GPU may have no driver that is found.
const DEVICES: [&str; 2] = ["cpu", "opencl"];
/// The tokens whose logits are compared: any will do, so these are in every vocabulary.
pub(super) const TOKENS: [u32; 8] = [1, 5, 9, 13, 17, 21, 25, 29];

/// What to run where.
pub(super) struct Request<'a> {
    /// A package for Android.
    pub(super) package: &'a Path,
    pub(super) model: Option<&'a str>,
    /// Of the phone; empty: the only one.
    pub(super) serial: &'a str,
    /// `knapsack-runner` for Android; `None`: where one is found.
    pub(super) runner: Option<&'a Path>,
}

/// A phone with a package on it.
pub(super) struct Ready {
    phone: Phone,
    model: String,
    moved: u64,
}

impl Ready {
    /// Brings runner, library and weights to the phone, those that are not there already.
    ///
    /// # Errors
    /// What is no package for Android, a model that is not in it, no runner, no phone.
    pub(super) fn new(request: &Request<'_>, reporter: &Reporter) -> Result<Self> {
        if !Package::is_package(request.package) {
            return Err(wrong_input(format!(
                "{} is not a package: --adb takes one for Android",
                request.package.display()
            )));
        }
        let package = Package::open(request.package)?;
        let model = package.model(request.model)?;
        let library = format!("lib/{}/libmodel_android.so", Abi::ARM64.name);
        if !request.package.join(&library).is_file() {
            return Err(wrong_input(format!(
                "{} is no package for Android: it has no {library}",
                request.package.display()
            )));
        }
        let weights = package.bundled_weights(model).context("--adb needs the weights in the package")?;
        let runner = runner(request.runner)?;
        let phone = Phone::find(request.serial)?;
        let digests = FileDigests::in_memory();
        let mut files = BTreeMap::new();
        let mut add = |name: String, path: PathBuf| -> Result<()> {
            let hashed =
                digests.of(&path, Wanted::PACKAGE).with_context(|| format!("cannot read {}", path.display()))?;
            files.insert(name, Source { path, bytes: hashed.size, sha256: hashed.sha256().to_owned() });
            Ok(())
        };
        add("knapsack".into(), runner)?;
        add(format!("package/{library}"), request.package.join(&library))?;
        let config = "bundle/mlc-app-config.json";
        add(format!("package/{config}"), request.package.join(config))?;
        for file in &model.files {
            add(format!("package/bundle/{}/{}", model.model_id, file.path), weights.join(&file.path))?;
        }
        let moved =
            phone.sync(&files, &|path, size| reporter.status("Pushing", format_args!("{path} ({})", bytes(size))))?;
        phone.run(&["chmod", "755", "knapsack"])?;
        Ok(Ready { phone, model: model.model_id.clone(), moved })
    }

    /// Runs the runner on the phone.
    fn knapsack(&self, verb: &str, device: &str, more: &[&str]) -> Result<String> {
        let mut words = vec!["./knapsack", verb, "package", "--model", &self.model, "--device", device];
        words.extend(more);
        self.phone.run(&words)
    }

    /// The logits of tokens on a device of the phone, as a safetensors file here.
    ///
    /// # Errors
    /// A run that fails, or a file that does not come.
    pub(super) fn logits(&self, device: &str, tokens: &[u32], to: &Path) -> Result<()> {
        let tokens: Vec<String> = tokens.iter().map(u32::to_string).collect();
        self.knapsack("logits", device, &["--tokens", &tokens.join(","), "-o", "logits.safetensors"])?;
        self.phone.pull("logits.safetensors", to)
    }
}

fn runner(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(named) = named {
        ensure!(named.is_file(), wrong_input(format!("{} is no file", named.display())));
        return Ok(named.to_owned());
    }
    // Beside this program, as in a release; or where `knapsack sdk build` writes it.
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join(RUNNER)));
    let mut places = beside.into_iter().chain([Path::new(SDK_FOLDER).join(RUNNER)]);
    places.find(|path| path.is_file()).ok_or_else(|| {
        wrong_input(format!(
            "there is no {RUNNER} beside this program or in {SDK_FOLDER}: a release has it, `knapsack sdk build --target android` makes it; \
             or name one with --runner"
        ))
    })
}

/// How the logits of a phone differ from this machine's.
#[derive(Debug, Serialize)]
struct Difference {
    /// The largest, over the spread of this machine's.
    relative: f64,
    /// Tokens with the same most likely successor.
    same: usize,
    of: usize,
}

/// Measures on the phone; `host` are this machine's logits of [`TOKENS`].
///
/// # Errors
/// As [`Ready::new`]; no device of the phone that runs.
pub(super) fn bench(
    ready: &Ready,
    host: &[f32],
    options: &[&str],
    report: Option<&Path>,
    reporter: &Reporter,
) -> Result<Value> {
    let work = tempfile::tempdir()?;
    let mut runs = Vec::new();
    for device in DEVICES {
        reporter.status("Measuring", format_args!("{} on {device} of the phone", ready.model));
        let before = ready.phone.temperature();
        let outcome = measured(ready, device, host, options, work.path());
        let after = ready.phone.temperature();
        runs.push(match outcome {
            Ok((figures, difference)) => {
                json!({ "device": device, "figures": figures, "logits": difference, "celsius_before": before, "celsius_after": after })
            }
            Err(problem) => json!({ "device": device, "problem": format!("{problem:#}") }),
        });
    }
    let property = |name: &str| ready.phone.ask(&format!("getprop {name}"));
    let value = json!({
        "format": "knapsack-phone-report",
        "version": 1,
        "phone": {
            "manufacturer": property("ro.product.manufacturer"),
            "model": property("ro.product.model"),
            "chip": property("ro.soc.model"),
            "android": property("ro.build.version.release"),
            "memory": ready.phone.ask("grep MemTotal /proc/meminfo"),
        },
        "model": ready.model,
        "knapsack": env!("CARGO_PKG_VERSION"),
        "pushed_bytes": ready.moved,
        "runs": runs,
    });
    if let Some(path) = report {
        write_atomically(path, format!("{}\n", serde_json::to_string_pretty(&value)?).as_bytes())?;
        reporter.status("Wrote", path.display());
    }
    let ran = runs.iter().any(|run| run.get("figures").is_some());
    ensure!(
        ran,
        "nothing ran on the phone: {}",
        runs.iter().filter_map(|run| run["problem"].as_str()).collect::<Vec<_>>().join("; ")
    );
    Ok(value)
}

fn measured(ready: &Ready, device: &str, host: &[f32], options: &[&str], work: &Path) -> Result<(Value, Difference)> {
    let mut more = vec!["--json"];
    more.extend(options);
    let text = ready.knapsack("bench", device, &more)?;
    let line = text.lines().find(|line| line.starts_with('{')).context("the runner printed no figures")?;
    let figures = serde_json::from_str(line).context("the runner's figures")?;
    let path = work.join(format!("{device}.safetensors"));
    ready.logits(device, &TOKENS, &path)?;
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    Ok((figures, difference(&values(&bytes)?, host)?))
}

/// The numbers of the file that `knapsack logits` writes.
fn values(bytes: &[u8]) -> Result<Vec<f32>> {
    let length = bytes.first_chunk::<8>().map(|head| u64::from_le_bytes(*head)).context("no safetensors file")?;
    let start = usize::try_from(length).ok().and_then(|length| length.checked_add(8)).context("no safetensors file")?;
    let data = bytes.get(start..).context("a safetensors file that is cut short")?;
    Ok(data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

fn difference(phone: &[f32], host: &[f32]) -> Result<Difference> {
    let rows = TOKENS.len();
    ensure!(
        phone.len() == host.len() && !host.is_empty() && host.len().is_multiple_of(rows),
        "{} logits, not {}",
        phone.len(),
        host.len()
    );
    let spread = host.iter().fold(f32::MIN, |a, b| a.max(*b)) - host.iter().fold(f32::MAX, |a, b| a.min(*b));
    let largest = phone
        .iter()
        .zip(host)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0f32, |most, d| if d > most || d.is_nan() { d } else { most });
    let best = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(index, _)| index);
    let columns = host.len() / rows;
    let same = phone.chunks(columns).zip(host.chunks(columns)).filter(|(a, b)| best(a) == best(b)).count();
    Ok(Difference { relative: f64::from(largest) / f64::from(spread.max(f32::MIN_POSITIVE)), same, of: rows })
}

/// The report as lines for people.
pub(super) fn show(value: &Value, reporter: &Reporter) -> Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let phone = &value["phone"];
    reporter.line(format_args!(
        "phone      {} {}, {}, Android {}",
        text(&phone["manufacturer"]),
        text(&phone["model"]),
        text(&phone["chip"]),
        text(&phone["android"])
    ))?;
    for run in value["runs"].as_array().into_iter().flatten() {
        let device = text(&run["device"]);
        if let Some(problem) = run["problem"].as_str() {
            reporter.line(format_args!("{device:<10} did not run: {problem}"))?;
            continue;
        }
        let (figures, logits) = (&run["figures"], &run["logits"]);
        let number = |name: &str| figures[name].as_f64().unwrap_or(0.0);
        let degrees = |name: &str| run[name].as_f64().map_or_else(|| "?".to_owned(), |value| format!("{value:.0}"));
        reporter.line(format_args!(
            "{device:<10} prefill {:.1} tokens/s, decode {:.1} tokens/s, {:.1} % of {:.1} GB/s, {} resident, {} to {} degrees",
            number("prefill_tokens_per_second"),
            number("decode_tokens_per_second"),
            100.0 * number("bandwidth_share"),
            number("read_bytes_per_second") / 1e9,
            bytes(figures["peak_rss_bytes"].as_u64().unwrap_or(0)),
            degrees("celsius_before"),
            degrees("celsius_after"),
        ))?;
        reporter.line(format_args!(
            "           logits differ by {:.1e} of their spread, {} of {} most likely tokens are the same",
            logits["relative"].as_f64().unwrap_or(f64::NAN),
            logits["same"],
            logits["of"]
        ))?;
    }
    Ok(())
}
