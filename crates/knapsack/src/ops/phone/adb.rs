//! A phone on a cable, through Android's `adb`, which is the user's.

use crate::exit::wrong_input;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

/// Where everything goes on the phone: the folder in which the shell may run programs.
const FOLDER: &str = "/data/local/tmp/knapsack";
/// A program in its place, for machines on which `adb` has another name.
const PROGRAM: &str = "KNAPSACK_ADB";

/// A phone.
pub(super) struct Phone {
    program: OsString,
    serial: String,
}

impl Phone {
    /// The phone of that serial number, or the only one.
    ///
    /// # Errors
    /// No `adb`, no phone, or several and none named.
    pub(super) fn find(serial: &str) -> Result<Self> {
        let program = std::env::var_os(PROGRAM).unwrap_or_else(|| "adb".into());
        let out = Command::new(&program).arg("devices").output().with_context(|| {
            format!(
                "cannot start {}: install Android's platform tools, or set {PROGRAM} to adb's path",
                program.display()
            )
        })?;
        ensure!(out.status.success(), "adb devices: {}", String::from_utf8_lossy(&out.stderr).trim());
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let phones: Vec<(&str, &str)> = text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once('\t'))
            .map(|(id, state)| (id, state.trim()))
            .collect();
        let names = || phones.iter().map(|(id, state)| format!("{id} ({state})")).collect::<Vec<_>>().join(", ");
        let found = match serial {
            "" if phones.len() > 1 => {
                return Err(wrong_input(format!(
                    "several phones are connected: {}; name one with --adb SERIAL",
                    names()
                )));
            }
            "" => phones.first(),
            serial => phones.iter().find(|(id, _)| *id == serial),
        };
        let Some((id, state)) = found else {
            let others = if phones.is_empty() { String::new() } else { format!(" (connected: {})", names()) };
            let help = "connect it by USB and switch on USB debugging in its developer options";
            anyhow::bail!(
                "there is no phone{}{others}: {help}",
                if serial.is_empty() { String::new() } else { format!(" {serial}") }
            );
        };
        ensure!(*state == "device", "the phone {id} is {state}: unlock it and allow USB debugging for this computer");
        Ok(Phone { program, serial: (*id).to_owned() })
    }

    fn adb(&self, arguments: &[&str]) -> Result<String> {
        let out = Command::new(&self.program)
            .arg("-s")
            .arg(&self.serial)
            .args(arguments)
            .output()
            .context("cannot start adb")?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if out.status.success() {
            return Ok(text);
        }
        let problem = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        anyhow::bail!("adb {}: {}", arguments.join(" "), if problem.is_empty() { text.trim() } else { &problem });
    }

    /// What a command prints in the phone's folder; each argument is one word there.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<String> {
        let words: Vec<String> = arguments.iter().map(|word| quoted(word)).collect();
        self.adb(&["shell", &format!("cd {FOLDER} && {}", words.join(" "))])
    }

    /// The first line that a shell's command prints; empty where it fails.
    pub(super) fn ask(&self, command: &str) -> String {
        let text = self.adb(&["shell", command]).unwrap_or_default();
        text.lines().next().unwrap_or_default().trim().to_owned()
    }

    /// Brings the files to the phone whose content it does not have, and removes others; bytes that were moved.
    pub(super) fn sync(&self, files: &BTreeMap<String, Source>, moving: &dyn Fn(&str, u64)) -> Result<u64> {
        self.adb(&["shell", &format!("mkdir -p {FOLDER}")])?;
        let listed =
            self.adb(&["shell", &format!("cd {FOLDER} && find . -type f -exec sha256sum {{}} +")]).unwrap_or_default();
        let there: BTreeMap<&str, &str> = listed
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(sum, path)| (path.trim().trim_start_matches("./"), sum))
            .collect();
        let mut moved = 0;
        for (path, source) in files {
            if there.get(path.as_str()) == Some(&source.sha256.as_str()) {
                continue;
            }
            moving(path, source.bytes);
            let remote = format!("{FOLDER}/{path}");
            if let Some((folder, _)) = remote.rsplit_once('/') {
                self.adb(&["shell", &format!("mkdir -p {}", quoted(folder))])?;
            }
            self.adb(&["push", &source.path.to_string_lossy(), &remote])?;
            moved += source.bytes;
        }
        for path in there.keys().filter(|path| !files.contains_key(**path)) {
            self.adb(&["shell", &format!("rm -f {}", quoted(&format!("{FOLDER}/{path}")))])?;
        }
        Ok(moved)
    }

    /// Brings a file of the phone's folder here.
    pub(super) fn pull(&self, path: &str, to: &Path) -> Result<()> {
        self.adb(&["pull", &format!("{FOLDER}/{path}"), &to.to_string_lossy()]).map(drop)
    }

    /// The highest temperature of any sensor, in degrees Celsius; `None` where the phone tells none.
    pub(super) fn temperature(&self) -> Option<f64> {
        let text = self.adb(&["shell", "cat /sys/class/thermal/thermal_zone*/temp 2>/dev/null"]).unwrap_or_default();
        // Thousandths of a degree; sensors that are off say nonsense.
        let values = text.lines().filter_map(|line| line.trim().parse::<f64>().ok()).map(|value| value / 1000.0);
        values
            .filter(|value| (1.0..150.0).contains(value))
            .fold(None, |most, value| Some(most.map_or(value, |m: f64| m.max(value))))
    }
}

/// A file that belongs on the phone.
pub(super) struct Source {
    pub(super) path: std::path::PathBuf,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// One word of a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
