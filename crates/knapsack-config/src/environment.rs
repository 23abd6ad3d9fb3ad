//! What of the surroundings decides how a manifest is read.

use crate::devices::DeviceProfiles;

/// What of the surroundings decides how a manifest is read. Nothing else is looked at, but the files that it names.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The value of `HF_ENDPOINT`: a hub whose addresses are accepted as model sources besides the Hugging Face hub.
    pub hf_endpoint: Option<String>,
    /// The phones that `target_devices` may name.
    pub devices: DeviceProfiles,
    /// The presets that `chat_template` may name; when there are none here, every name is accepted.
    pub chat_templates: Vec<String>,
}
