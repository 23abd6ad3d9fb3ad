//! The table of keys for `docs/manifest.md`, from the rows that reading uses.

use super::{Key, Written, WrittenModel};
use crate::overrides::OverrideKey;

/// Every key of a manifest with its meaning and what is wrong about values, as tables in Markdown.
pub fn key_tables() -> String {
    let row = |name: &str, meaning: &str, wrong: &str| format!("| `{name}` | {} | {wrong} |\n", meaning.trim());
    let table = |title: &str, rows: &[String]| {
        format!("### {title}\n\n| key | meaning | wrong |\n|---|---|---|\n{}", rows.concat())
    };
    let of = |keys: &[Key]| keys.iter().map(|key| row(key.name, key.meaning, key.wrong)).collect::<Vec<_>>();
    let overrides = OverrideKey::ALL.map(|key| row(key.as_str(), key.meaning(), key.accepts().wrong()));
    let (top, entry) = (of(Written::KEYS), of(WrittenModel::KEYS));
    let tables = [
        table("The manifest", &top),
        table("An entry of `model_list`", &entry),
        table("`overrides` of an entry", &overrides),
    ];
    tables.join("\n")
}
