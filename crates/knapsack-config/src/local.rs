//! What a local folder holds, and what is missing when it is no model.

use crate::source::ModelForm;
use std::fs;
use std::path::Path;

/// MLC's configuration of a converted model.
const MLC_CONFIG: &str = "mlc-chat-config.json";
/// Index of the weights, and its older name.
const MLC_INDEXES: [&str; 2] = ["tensor-cache.json", "ndarray-cache.json"];
/// What an adapter has in place of a model's configuration.
const ADAPTER_CONFIG: &str = "adapter_config.json";
/// Configuration of a Hugging Face checkpoint.
const CHECKPOINT_CONFIG: &str = "config.json";
/// Index of a checkpoint in several files.
const CHECKPOINT_INDEX: &str = "model.safetensors.index.json";
/// Entries of a folder that are looked at.
const MAX_ENTRIES: usize = 10_000;

/// Why a path is not a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotAModel {
    Missing,
    Unreadable(String),
    NotAFolder,
    /// What was looked for, and whether it was there, a line each.
    Incomplete(Vec<String>),
}

/// Looks at a folder.
pub(crate) fn inspect(path: &Path) -> Result<ModelForm, NotAModel> {
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => NotAModel::Missing,
        _ => NotAModel::Unreadable(error.to_string()),
    })?;
    if !metadata.is_dir() {
        return Err(NotAModel::NotAFolder);
    }
    let has = |name: &str| path.join(name).is_file();
    let mlc_index = MLC_INDEXES.into_iter().any(has);
    if has(MLC_CONFIG) && mlc_index {
        return Ok(ModelForm::Mlc);
    }
    let names = names(path);
    let ends = |ending: &str| names.iter().any(|name| name.ends_with(ending));
    let tensors = ends(".safetensors") || has(CHECKPOINT_INDEX);
    if has(CHECKPOINT_CONFIG) && tensors {
        return Ok(ModelForm::Checkpoint);
    }
    let found = |found: bool| if found { "found" } else { "missing" };
    let state = |name: &str| match fs::metadata(path.join(name)) {
        Ok(metadata) if metadata.is_file() => "found",
        Ok(_) => "not a regular file",
        Err(_) => "missing",
    };
    let mut looked_for = vec![
        format!(
            "looked for an MLC model: {MLC_CONFIG} ({}), {} or {} ({})",
            state(MLC_CONFIG),
            MLC_INDEXES[0],
            MLC_INDEXES[1],
            found(mlc_index)
        ),
        format!(
            "looked for a checkpoint: {CHECKPOINT_CONFIG} ({}), *.safetensors or {CHECKPOINT_INDEX} ({})",
            state(CHECKPOINT_CONFIG),
            found(tensors)
        ),
    ];
    if has(ADAPTER_CONFIG) {
        looked_for
            .push(format!("it is an adapter ({ADAPTER_CONFIG}) without its base model: merge the two and save that"));
    } else if ends(".gguf") {
        looked_for.push("GGUF files are not read: use the checkpoint that they were made from".to_owned());
    } else if ends(".bin") && has(CHECKPOINT_CONFIG) || ends(".pth") || ends(".pt") {
        looked_for
            .push("pickled weights (.bin, .pt, .pth) are not read: use the safetensors of the same model".to_owned());
    }
    Err(NotAModel::Incomplete(looked_for))
}

/// The folder beside a missing one whose name is nearest, as the last part of a path.
pub(crate) fn nearest_sibling(path: &Path) -> Option<String> {
    let wanted = path.file_name()?.to_str()?;
    let siblings = names(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")));
    crate::suggest::nearest(wanted, siblings.iter().map(String::as_str)).map(str::to_owned)
}

/// Names in a folder, sorted; none when it can not be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().take(MAX_ENTRIES).flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}
