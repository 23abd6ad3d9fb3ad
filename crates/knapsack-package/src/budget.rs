//! How much memory a model may take, and who says so.

use crate::model::Model;
use crate::text::bytes;
use knapsack_compiler::Fixed;
use knapsack_config::{AppMemory, DeviceProfile, ModelEntry, Overrides, Span};

/// The smallest of all limits that a model has; nothing limits it when `bytes` is `None`.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Bytes.
    pub bytes: Option<u64>,
    /// Where the manifest says so.
    pub span: Span,
    /// What says so, for messages: "the budget is …".
    pub of: String,
}

impl Budget {
    /// What the entry declares, or nothing.
    pub fn declared(entry: &ModelEntry) -> Self {
        let bytes = entry.estimated_vram_bytes.as_ref().map(|declared| declared.value);
        Budget { bytes, span: entry.span_of_budget(), of: "estimated_vram_bytes".to_owned() }
    }

    /// The smaller of this budget and what a phone, named at `span`, leaves to the models of an app; the same when nobody knows
    /// what it leaves.
    #[must_use]
    pub fn within(self, phone: &DeviceProfile, span: Span, app: &AppMemory) -> Self {
        match phone.available(app) {
            Some(available) if self.bytes.is_none_or(|bytes| available < bytes) => {
                Budget { bytes: Some(available), span, of: leaves(phone, app) }
            }
            _ => self,
        }
    }
}

/// What stays when sizes are fitted, whatever the manifest gives: that a model has a sliding window, its own or the manifest's, that
/// a window is no larger than a context that is given, and how many sinks there are.
pub fn fixed_sizes(given: &Overrides, model: &Model) -> Fixed {
    let size = |value: Option<u64>| value.and_then(|value| u32::try_from(value).ok());
    let own = model.own().windows;
    let window = own.sliding.or(given.sliding_window_size.map(|_| own.context));
    let context = size(given.context_window_size).unwrap_or(u32::MAX);
    Fixed {
        sliding_window_size: window.map(|window| window.min(context)),
        attention_sink_size: size(given.attention_sink_size),
    }
}

/// What a phone leaves to an app's models, in words.
fn leaves(phone: &DeviceProfile, app: &AppMemory) -> String {
    let entitled = app.increased_memory_limit && phone.app_limit_entitled.is_some();
    let entitlement = if entitled { " with the increased-memory entitlement" } else { "" };
    let limit = phone
        .limit(app.increased_memory_limit)
        .map_or_else(|| "an unknown share".to_owned(), |limit| bytes(limit.bytes));
    format!(
        "what {} leaves: an app may use {limit}{entitlement}, and keeps {} for itself",
        phone.title,
        bytes(app.reserve_bytes)
    )
}
