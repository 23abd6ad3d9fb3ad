//! What a manifest packages for: the rows of [`DeviceKind`] that apps are made for.

use knapsack_artifact::DeviceKind;

/// Every accepted name.
pub(crate) fn names() -> Vec<&'static str> {
    DeviceKind::packaged().map(|device| device.name).collect()
}

/// The names as alternatives, each quoted as in JSON.
pub(crate) fn alternatives() -> String {
    let names: Vec<String> = names().iter().map(|name| format!("\"{name}\"")).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// The device that another name for it probably means.
pub(crate) fn guess(name: &str) -> Option<DeviceKind> {
    let name = name.to_ascii_lowercase();
    let alias = DeviceKind::packaged().find(|device| device.aliases.contains(&name.as_str()));
    alias.or_else(|| crate::suggest::nearest(&name, names()).and_then(DeviceKind::named))
}
