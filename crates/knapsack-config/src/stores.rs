//! What the stores take, and what of it a package surely or possibly breaks. Every figure names its source: `data/stores.json`.
//!
//! `bundle_weight` puts weights beside the app and says nothing of a store: they may be pushed over a cable. So a package surely breaks
//! a limit only where its way through that store is stated, by a pack of the store or by the caller.

use crate::codes;
use crate::diagnostic::{Diagnostic, Severity};
use crate::manifest::{Manifest, ModelEntry};
use crate::source_map::Span;
use crate::text::bytes;
use knapsack_artifact::delivery::{Delivery, Store};
use knapsack_artifact::device::Platform;
use serde::Deserialize;

/// The figures that come with Knapsack.
const BUILT_IN: &str = include_str!("../data/stores.json");

/// One figure of a store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// What it is a limit of, for "… is what …".
    pub what: String,
    /// Above this it depends: on the rest of the app, or on which page is right.
    #[serde(default)]
    pub warning_above: Option<u64>,
    /// Above this it surely breaks.
    pub error_above: u64,
    /// Who says so.
    pub source: String,
}

impl Limit {
    /// How grave a value is, and which figure it is above.
    pub fn judge(&self, value: u64) -> Option<(Severity, u64)> {
        if value > self.error_above {
            return Some((Severity::Error, self.error_above));
        }
        self.warning_above.filter(|limit| value > *limit).map(|limit| (Severity::Warning, limit))
    }
}

/// The App Store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppleLimits {
    /// Bytes of an app.
    pub app: Limit,
    /// Bytes of `__TEXT`.
    pub text: Limit,
    /// Bytes of all packs.
    pub packs_total: Limit,
    /// How many packs.
    pub packs: Limit,
}

/// Google Play.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlayLimits {
    /// Bytes of the base module.
    pub base_module: Limit,
    /// Bytes of one pack.
    pub pack: Limit,
    /// Bytes of all modules and install-time packs.
    pub install_time_total: Limit,
    /// Bytes of all other packs.
    pub deferred_total: Limit,
    /// How many packs.
    pub packs: Limit,
}

/// Android, whoever delivers the app.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AndroidLimits {
    /// Bytes of an APK.
    pub apk: Limit,
    /// Bytes of a page.
    pub page: Limit,
}

/// What the stores take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreLimits {
    /// The day on which the sources were read.
    pub read: String,
    /// The App Store.
    pub apple: AppleLimits,
    /// Google Play.
    pub play: PlayLimits,
    /// Android.
    pub android: AndroidLimits,
}

/// A model as it is shipped.
#[derive(Clone, Copy, Debug)]
pub struct Shipped<'a> {
    /// What the manifest says.
    pub entry: &'a ModelEntry,
    /// Bytes of its files, as far as they are known: at least so many.
    pub bytes: u64,
    /// Bytes of the largest of them.
    pub largest_file: u64,
}

impl StoreLimits {
    /// The figures that come with Knapsack.
    pub fn built_in() -> Self {
        serde_json::from_str(BUILT_IN).expect("data/stores.json is read by a test")
    }

    /// Everything about the models of a manifest that a store refuses, or may refuse. `libraries`: bytes of the compiled models in
    /// one slice, where they are known. `through`: the store that the app is known to go through; a model in a pack of a store says
    /// the same. What that store refuses is an error, what another would refuse is a warning.
    pub fn check(
        &self,
        manifest: &Manifest,
        models: &[Shipped<'_>],
        libraries: Option<u64>,
        through: Option<Store>,
    ) -> Vec<Diagnostic> {
        let packed = || manifest.models.iter().find_map(|entry| entry.delivery.value.store());
        let stated = through.or_else(packed).is_some();
        let mut check = Check { limits: self, models, stated, findings: Vec::new() };
        match manifest.device.value.platform {
            Some(Platform::Android) => check.android(),
            Some(Platform::Ios | Platform::Macos) => check.apple(libraries, manifest.device.span),
            None => {}
        }
        check.findings
    }
}

struct Check<'a> {
    limits: &'a StoreLimits,
    models: &'a [Shipped<'a>],
    /// Whether the app goes through the store of its platform.
    stated: bool,
    findings: Vec<Diagnostic>,
}

/// What to do about weights that are too large for where they go.
const ELSEWHERE: &str = "\"asset_delivery\" of a model puts it into a pack of its own, or has the app download it";

/// What else there is for weights that are too large for an archive.
const PUSHED: &str = "beyond it `package` leaves `bundle` out of the Maven library: the app opens that folder where it is pushed to (`adb push`)";

impl Check<'_> {
    fn android(&mut self) {
        let limits = self.limits;
        let bundled = self.total("the bundled weights take", |delivery| delivery == Delivery::Bundled);
        self.sum(&bundled, &limits.play.base_module, ELSEWHERE);
        self.sum(&bundled, &limits.android.apk, PUSHED);
        let at_install = |delivery| matches!(delivery, Delivery::Bundled | Delivery::PlayInstallTime);
        let total = self.total("what is there when the app is installed takes", at_install);
        // Without packs it is the same as the app's own size, which has a lower limit.
        if total.bytes > bundled.bytes {
            let help = "\"play-fast-follow\" and \"play-on-demand\" count apart, \"download\" does not count";
            self.sum(&total, &limits.play.install_time_total, help);
        }
        let deferred = |delivery| matches!(delivery, Delivery::PlayFastFollow | Delivery::PlayOnDemand);
        let deferred = self.total("the on-demand and fast-follow packs take", deferred);
        self.sum(&deferred, &limits.play.deferred_total, "\"download\" does not count");
        for model in self.models.iter().filter(|model| model.entry.delivery.value.store() == Some(Store::Play)) {
            let text = format!("{}: its largest file has", model.entry.model_id.value);
            let help = "files are put whole into packs: convert the model again, in smaller shards";
            self.judge(model.entry.delivery.span, &text, model.largest_file, &limits.play.pack, help);
        }
        let count = |model: &Shipped<'_>| model.bytes.div_ceil(limits.play.pack.error_above).max(1);
        self.count(Store::Play, &limits.play.packs, count);
    }

    fn apple(&mut self, libraries: Option<u64>, device: Span) {
        let limits = self.limits;
        let bundled = self.total("the bundled weights take", |delivery| delivery == Delivery::Bundled);
        self.sum(&bundled, &limits.apple.app, ELSEWHERE);
        let packs = self.total("the asset packs take", |delivery| delivery.store() == Some(Store::Apple));
        self.sum(&packs, &limits.apple.packs_total, "\"download\" does not count");
        self.count(Store::Apple, &limits.apple.packs, |_| 1);
        if let Some(bytes) = libraries {
            let help = "fewer models in one app: each compiled library is a part of the executable";
            self.judge(device, "the compiled models take", bytes, &limits.apple.text, help);
        }
    }

    fn total(&self, what: &'static str, of: impl Fn(Delivery) -> bool) -> Total {
        let models = self.models.iter().filter(|model| of(model.entry.delivery.value));
        let bytes = models.clone().map(|model| model.bytes).fold(0, u64::saturating_add);
        // The largest is the one that something can be done about.
        let span = models.max_by_key(|model| model.bytes).map(|model| model.entry.delivery.span);
        Total { what, bytes, span }
    }

    fn sum(&mut self, total: &Total, limit: &Limit, help: &str) {
        if let Some(span) = total.span {
            self.judge(span, total.what, total.bytes, limit, help);
        }
    }

    fn judge(&mut self, span: Span, what: &str, value: u64, limit: &Limit, help: &str) {
        let Some((severity, figure)) = limit.judge(value) else { return };
        let message = format!("{what} at least {}, and {} is what {}", bytes(value), bytes(figure), limit.what);
        self.findings.push(self.finding(severity, span, message, limit).help(help));
    }

    fn count(&mut self, store: Store, limit: &Limit, packs: impl Fn(&Shipped<'_>) -> u64) {
        let models = self.models.iter().filter(|model| model.entry.delivery.value.store() == Some(store));
        let Some(last) = models.clone().next_back() else { return };
        let count: u64 = models.map(packs).sum();
        let Some((severity, figure)) = limit.judge(count) else { return };
        let message = format!("{count} packs, and a store takes {figure} {}", limit.what);
        self.findings.push(self.finding(severity, last.entry.delivery.span, message, limit));
    }

    fn finding(&self, judged: Severity, span: Span, message: String, limit: &Limit) -> Diagnostic {
        let severity = if self.stated { judged } else { Severity::Warning };
        let finding = Diagnostic::new(severity, codes::STORE_LIMIT, span, message);
        let finding =
            finding.help(format!("{} (read {}); `--store none` leaves this check out", limit.source, self.limits.read));
        match severity == judged {
            true => finding,
            false => finding
                .help("an error where the app is known to go through that store: `--store play`, `--store app-store`"),
        }
    }
}

/// What several models take together.
struct Total {
    what: &'static str,
    bytes: u64,
    /// Where the largest of them says how it is delivered.
    span: Option<Span>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_in_order_and_has_a_source() {
        let limits = StoreLimits::built_in();
        let StoreLimits { read, apple, play, android } = &limits;
        assert_eq!(read.len(), "2026-11-25".len());
        let all = [
            &apple.app,
            &apple.text,
            &apple.packs_total,
            &apple.packs,
            &play.base_module,
            &play.pack,
            &play.install_time_total,
            &play.deferred_total,
            &play.packs,
            &android.apk,
            &android.page,
        ];
        for limit in all {
            assert!(!limit.what.is_empty() && limit.source.len() > 20, "{limit:?}");
            assert!(limit.warning_above.is_none_or(|warning| warning < limit.error_above), "{limit:?}");
        }
    }

    #[test]
    fn a_figure_itself_is_allowed() {
        let base = StoreLimits::built_in().play.base_module;
        assert_eq!(base.judge(200_000_000), None);
        assert_eq!(base.judge(200_000_001), Some((Severity::Warning, 200_000_000)));
        assert_eq!(base.judge(500_000_000), Some((Severity::Warning, 200_000_000)));
        assert_eq!(base.judge(500_000_001), Some((Severity::Error, 500_000_000)));
    }
}
