//! What Knapsack wrote into a package: `.knapsack/package.json`. It is what makes a folder Knapsack's, and only what it lists
//! is ever deleted. It holds content hashes and no times or host paths, so equal packages have equal records.

use super::output::Output;
use crate::error::BundleError;
use knapsack_artifact::names;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::path::Path;

/// Where it is.
pub(super) const PATH: &str = ".knapsack/package.json";
/// Breaking version.
const VERSION: u32 = 1;
const FORMAT: &str = "knapsack-package";
const MAX_BYTES: u64 = 64 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    format: String,
    version: u32,
    compiler: String,
    /// By path.
    pub(super) files: BTreeMap<String, RecordedFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RecordedFile {
    pub(super) size: u64,
    pub(super) sha256: String,
    /// What an archive was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) recipe: Option<String>,
}

impl Record {
    /// Of these files but the record itself; `archives`: hashes of those that were unknown before they were written.
    pub(super) fn new(outputs: &[Output], archives: &HashMap<String, String>) -> Self {
        let file = |output: &Output| RecordedFile {
            size: output.size,
            sha256: archives.get(&output.path).unwrap_or(&output.sha256).clone(),
            recipe: output.recipe.clone(),
        };
        let outputs = outputs.iter().filter(|output| output.path != PATH);
        Self {
            format: FORMAT.into(),
            version: VERSION,
            compiler: concat!("knapsack ", env!("CARGO_PKG_VERSION")).into(),
            files: outputs.map(|output| (output.path.clone(), file(output))).collect(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("a record has only serializable fields");
        text.push(b'\n');
        text
    }

    /// Reads the record of a package; `None` when there is none.
    pub(super) fn read(package: &Path) -> Result<Option<Self>, BundleError> {
        let path = package.join(PATH);
        let damaged = |problem: String| BundleError::DamagedRecord { path: path.clone(), problem };
        let mut text = Vec::new();
        match std::fs::File::open(&path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut text)) {
            Ok(_) if text.len() as u64 > MAX_BYTES => return Err(damaged("it is too large".into())),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(source) => return Err(BundleError::Io { action: "read", path, source }),
        }
        // The version first: the rest of another version may look different.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if head.format != FORMAT {
            return Err(damaged(format!("its format is `{}`, not `{FORMAT}`", head.format.escape_default())));
        }
        if head.version != VERSION {
            return Err(damaged(format!("it has version {}, this build reads version {VERSION}", head.version)));
        }
        let record: Self = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        for path in record.files.keys() {
            names::check_relative_path(path).map_err(|error| damaged(error.to_string()))?;
        }
        Ok(Some(record))
    }

    /// Whether Knapsack wrote the file.
    pub(super) fn lists(&self, path: &str) -> bool {
        path == PATH || self.files.contains_key(path)
    }
}
