//! A folder with a manifest and the models that it names.

use knapsack_config::{DeviceProfiles, Environment, LoadedManifest, Report, load};
use std::fs;
use std::path::PathBuf;

/// A temporary folder with two models, two folders that are none, and a library.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        for file in [
            "models/checkpoint/config.json",
            "models/checkpoint/model.safetensors",
            "models/sharded/config.json",
            "models/sharded/model.safetensors.index.json",
            "models/mlc/mlc-chat-config.json",
            "models/mlc/tensor-cache.json",
            "models/older-mlc/mlc-chat-config.json",
            "models/older-mlc/ndarray-cache.json",
            "models/half/config.json",
            "models/pickled/config.json",
            "models/pickled/pytorch_model.bin",
            "models/gguf/model.gguf",
            "libs/llama.a",
        ] {
            folder.write(file, b"");
        }
        folder
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Reads `mlc-package-config.json`.
    pub(crate) fn load(&self) -> Result<LoadedManifest, Box<Report>> {
        let devices = DeviceProfiles::built_in().unwrap();
        load(
            &self.path("mlc-package-config.json"),
            &Environment { devices, chat_templates: vec!["llama-3".into(), "chatml".into()], ..Environment::default() },
        )
    }

    /// The findings as people see them, without the folder's own path.
    pub(crate) fn rendered(&self, report: &Report) -> String {
        let prefix = format!("{}{}", self.0.path().display(), std::path::MAIN_SEPARATOR);
        report.render(false).replace(&prefix, "").replace(&self.0.path().display().to_string(), ".")
    }
}
