//! Overrides of a model's own values: from a manifest entry, or from `--overrides` on the command line.

use crate::suggest::nearest;
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Largest value of any size override: positions are 32-bit in the kernels.
pub const MAX_OVERRIDE: u64 = i32::MAX as u64;

/// Which values an override takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepts {
    /// At least 1, or -1.
    Size,
    /// At least 0, or -1.
    SizeOrNone,
    /// As a size, without effect: a phone serves one conversation at a time.
    Ignored,
    /// Only 1.
    One,
    /// MLC's optimization settings.
    Setting,
    /// Only false.
    False,
}

impl Accepts {
    /// As a JSON Schema.
    pub(crate) fn schema(self) -> serde_json::Value {
        match self {
            Accepts::Size | Accepts::Ignored => {
                json!({ "type": "integer", "anyOf": [{ "minimum": 1, "maximum": MAX_OVERRIDE }, { "const": -1 }] })
            }
            Accepts::SizeOrNone => json!({ "type": "integer", "minimum": -1, "maximum": MAX_OVERRIDE }),
            Accepts::One => json!({ "type": "integer", "const": 1 }),
            Accepts::Setting => json!({ "type": "string" }),
            Accepts::False => json!({ "const": false }),
        }
    }

    /// Which values are wrong, for the documentation.
    pub(crate) const fn wrong(self) -> &'static str {
        match self {
            Accepts::Size | Accepts::Ignored => "0, below -1, not a whole number: error",
            Accepts::SizeOrNone => "below -1, not a whole number: error",
            Accepts::One => "anything but 1: error",
            Accepts::Setting => "neither `O0` to `O3` nor a list such as `flashinfer=1;cudagraph=0`: error",
            Accepts::False => "anything but false: error",
        }
    }
}

/// Declares the keys of `overrides`, a row each: what it means, its name, and which values it takes. Those of `sizes` change what
/// is compiled and are fields of [`Overrides`]; those of `others` are accepted for MLC's sake.
macro_rules! overrides {
    (
        sizes { $($(#[doc = $meaning:literal])+ $key:ident $field:ident: $accepts:ident;)+ }
        others { $($(#[doc = $other_meaning:literal])+ $other:ident $other_name:ident: $other_accepts:ident;)+ }
    ) => {
        /// A key that may stand in `overrides`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum OverrideKey {
            $($(#[doc = $meaning])+ $key,)+
            $($(#[doc = $other_meaning])+ $other,)+
        }

        impl OverrideKey {
            /// Those that change what is compiled.
            const SIZES: &'static [OverrideKey] = &[$(OverrideKey::$key),+];

            /// Every key, in the order in which they are listed for users.
            pub const ALL: [OverrideKey; [$(stringify!($key),)+ $(stringify!($other)),+].len()] =
                [$(OverrideKey::$key,)+ $(OverrideKey::$other),+];

            /// The key as it is written.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(OverrideKey::$key => stringify!($field),)+
                    $(OverrideKey::$other => stringify!($other_name),)+
                }
            }

            /// What it says.
            pub(crate) const fn meaning(self) -> &'static str {
                match self {
                    $(OverrideKey::$key => concat!($($meaning),+).trim_ascii(),)+
                    $(OverrideKey::$other => concat!($($other_meaning),+).trim_ascii(),)+
                }
            }

            /// Which values it takes.
            pub(crate) const fn accepts(self) -> Accepts {
                match self {
                    $(OverrideKey::$key => Accepts::$accepts,)+
                    $(OverrideKey::$other => Accepts::$other_accepts,)+
                }
            }
        }

        /// Overrides that change what is compiled. What is neither given nor in `own` is left to be chosen.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
        pub struct Overrides {
            $(
                $(#[doc = $meaning])+
                pub $field: Option<u64>,
            )+
            /// Sizes that are asked for as the model's own, written as `-1`.
            pub own: BTreeSet<OverrideKey>,
        }

        impl Overrides {
            /// The number given for a key, `None` when there is none or the key changes nothing that is compiled.
            pub fn get(&self, key: OverrideKey) -> Option<u64> {
                match key {
                    $(OverrideKey::$key => self.$field,)+
                    _ => None,
                }
            }

            /// Sets a size, to the model's own where there is no number; keys that change nothing that is compiled are ignored.
            pub(crate) fn set(&mut self, key: OverrideKey, value: Option<u64>) {
                match key {
                    $(OverrideKey::$key => self.$field = value,)+
                    _ => return,
                }
                if value.is_none() {
                    self.own.insert(key);
                }
            }
        }
    };
}

overrides! {
    sizes {
        /// Positions that a conversation may hold.
        ContextWindowSize context_window_size: Size;
        /// Positions that attention sees, when it slides.
        SlidingWindowSize sliding_window_size: Size;
        /// Tokens that one prefill call may take.
        PrefillChunkSize prefill_chunk_size: Size;
        /// First positions that a sliding window always sees; 0 is none.
        AttentionSinkSize attention_sink_size: SizeOrNone;
    }
    others {
        /// Accepted, without effect: a phone serves one conversation at a time.
        MaxBatchSize max_batch_size: Ignored;
        /// Accepted when it is 1: one device runs the whole model.
        TensorParallelShards tensor_parallel_shards: One;
        /// Accepted when it is 1: one device runs the whole model.
        PipelineParallelStages pipeline_parallel_stages: One;
        /// Accepted, without effect: MLC's optimization settings.
        Opt opt: Setting;
        /// Accepted when it is false: one device runs the whole model.
        Disaggregation disaggregation: False;
    }
}

impl OverrideKey {
    /// The key of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.as_str() == name)
    }
}

impl fmt::Display for OverrideKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Overrides {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Overrides::default()
    }

    /// What is wrong between the values, each alone being right.
    pub fn conflicts(&self) -> Vec<OverrideConflict> {
        let mut found = Vec::new();
        if let (Some(chunk), Some(window)) = (self.prefill_chunk_size, self.context_window_size)
            && chunk > window
        {
            found.push(OverrideConflict::ChunkBeyondContext { chunk, window });
        }
        if let Some(window) = self.sliding_window_size {
            if let Some(chunk) = self.prefill_chunk_size.filter(|&chunk| chunk > window) {
                found.push(OverrideConflict::ChunkBeyondSlidingWindow { chunk, window });
            }
            if let Some(context) = self.context_window_size.filter(|&context| context < window) {
                found.push(OverrideConflict::SlidingBeyondContext { window, context });
            }
            if let Some(sinks) = self.attention_sink_size.filter(|&sinks| sinks >= window) {
                found.push(OverrideConflict::SinksBeyondSlidingWindow { sinks, window });
            }
        }
        found
    }
}

impl fmt::Display for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for key in OverrideKey::ALL {
            match self.get(key) {
                Some(value) => write!(f, "{separator}{key}={value}")?,
                None if self.own.contains(&key) => write!(f, "{separator}{key}=-1")?,
                None => continue,
            }
            separator = ",";
        }
        Ok(())
    }
}

/// Two overrides that can not both hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum OverrideConflict {
    /// A chunk must fit the context.
    #[error("prefill_chunk_size {chunk} is larger than context_window_size {window}")]
    ChunkBeyondContext { chunk: u64, window: u64 },
    /// A chunk must fit the sliding window.
    #[error("prefill_chunk_size {chunk} is larger than sliding_window_size {window}")]
    ChunkBeyondSlidingWindow { chunk: u64, window: u64 },
    /// A window that is never full does not slide.
    #[error("sliding_window_size {window} is larger than context_window_size {context}, so it would never slide")]
    SlidingBeyondContext { window: u64, context: u64 },
    /// Sinks are part of what the window sees.
    #[error("attention_sink_size {sinks} leaves nothing of sliding_window_size {window}")]
    SinksBeyondSlidingWindow { sinks: u64, window: u64 },
}

impl OverrideConflict {
    /// The two keys: the one to blame first.
    pub fn keys(&self) -> [OverrideKey; 2] {
        match self {
            OverrideConflict::ChunkBeyondContext { .. } => {
                [OverrideKey::PrefillChunkSize, OverrideKey::ContextWindowSize]
            }
            OverrideConflict::ChunkBeyondSlidingWindow { .. } => {
                [OverrideKey::PrefillChunkSize, OverrideKey::SlidingWindowSize]
            }
            OverrideConflict::SlidingBeyondContext { .. } => {
                [OverrideKey::SlidingWindowSize, OverrideKey::ContextWindowSize]
            }
            OverrideConflict::SinksBeyondSlidingWindow { .. } => {
                [OverrideKey::AttentionSinkSize, OverrideKey::SlidingWindowSize]
            }
        }
    }
}

/// Why one override's value is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum OverrideValueError {
    /// 0 where at least one is needed.
    #[error("{key} must be at least 1, or -1 for the model's own value")]
    Zero { key: OverrideKey },
    /// Below -1.
    #[error("{key} {value} is negative; only -1 is, for the model's own value")]
    Negative { key: OverrideKey, value: i128 },
    /// Beyond [`MAX_OVERRIDE`].
    #[error("{key} {value} is larger than {MAX_OVERRIDE}")]
    TooLarge { key: OverrideKey, value: i128 },
    /// A key of which only one value is accepted.
    #[error("{key} must be {only}")]
    Only { key: OverrideKey, only: &'static str },
}

/// Checks a whole-number override. `Ok(None)` is the model's own value.
pub(crate) fn check_number(key: OverrideKey, value: i128) -> Result<Option<u64>, OverrideValueError> {
    match (key.accepts(), value) {
        (Accepts::One, 1) => Ok(Some(1)),
        (Accepts::One, _) => Err(OverrideValueError::Only { key, only: "1" }),
        (_, -1) => Ok(None),
        (Accepts::Size | Accepts::Ignored, 0) => Err(OverrideValueError::Zero { key }),
        (_, value) if value < -1 => Err(OverrideValueError::Negative { key, value }),
        (_, value) if value > i128::from(MAX_OVERRIDE) => Err(OverrideValueError::TooLarge { key, value }),
        (_, value) => Ok(Some(value as u64)),
    }
}

/// Why `--overrides` can not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum ParseOverridesError {
    /// A part without `=`.
    #[error("`{0}` is not of the form key=value")]
    NoValue(String),
    /// A key that does not exist or can not be set here.
    #[error("unknown override `{key}`{}", suggestion.as_ref().map(|s| format!(", did you mean `{s}`?")).unwrap_or_default())]
    UnknownKey { key: String, suggestion: Option<String> },
    /// A key given twice.
    #[error("{0} is given twice")]
    Twice(OverrideKey),
    /// Not a whole number.
    #[error("{key} must be a whole number, not `{value}`")]
    NotANumber { key: OverrideKey, value: String },
    /// A number out of range.
    #[error(transparent)]
    Value(#[from] OverrideValueError),
    /// Two values that can not both hold.
    #[error(transparent)]
    Conflict(#[from] OverrideConflict),
}

impl FromStr for Overrides {
    type Err = ParseOverridesError;

    /// Reads `context_window_size=2048,prefill_chunk_size=128`; `;` separates too, as in MLC's own `--overrides`.
    fn from_str(text: &str) -> Result<Self, ParseOverridesError> {
        let mut overrides = Overrides::default();
        let mut seen = Vec::new();
        for part in text.split([',', ';']).map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| ParseOverridesError::NoValue(part.to_owned()))?;
            let (name, value) = (name.trim(), value.trim());
            let Some(key) = OverrideKey::parse(name).filter(|key| OverrideKey::SIZES.contains(key)) else {
                let known = OverrideKey::SIZES.iter().map(|key| key.as_str());
                let suggestion = nearest(name, known).map(str::to_owned);
                return Err(ParseOverridesError::UnknownKey { key: name.to_owned(), suggestion });
            };
            if seen.contains(&key) {
                return Err(ParseOverridesError::Twice(key));
            }
            seen.push(key);
            let number = value.parse().map_err(|_| ParseOverridesError::NotANumber { key, value: value.to_owned() })?;
            overrides.set(key, check_number(key, number)?);
        }
        match overrides.conflicts().into_iter().next() {
            Some(conflict) => Err(conflict.into()),
            None => Ok(overrides),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_command_line_form() {
        let overrides: Overrides =
            "context_window_size=2048, prefill_chunk_size=128;attention_sink_size=0".parse().unwrap();
        assert_eq!(overrides.context_window_size, Some(2048));
        assert_eq!(overrides.prefill_chunk_size, Some(128));
        assert_eq!(overrides.attention_sink_size, Some(0));
        assert_eq!(overrides.to_string(), "context_window_size=2048,prefill_chunk_size=128,attention_sink_size=0");
        assert_eq!("".parse(), Ok(Overrides::default()));
        let own: Overrides = "sliding_window_size=-1".parse().unwrap();
        assert!(own.sliding_window_size.is_none() && own.own.contains(&OverrideKey::SlidingWindowSize));
        assert_eq!(own.to_string().parse(), Ok(own));
    }

    #[test]
    fn refuses_with_the_reason() {
        let refused = |text: &str| text.parse::<Overrides>().unwrap_err().to_string();
        assert_eq!(
            refused("context_windw_size=1"),
            "unknown override `context_windw_size`, did you mean `context_window_size`?"
        );
        assert_eq!(refused("prefill_chunk_size"), "`prefill_chunk_size` is not of the form key=value");
        assert_eq!(refused("prefill_chunk_size=2k"), "prefill_chunk_size must be a whole number, not `2k`");
        assert_eq!(
            refused("prefill_chunk_size=0"),
            "prefill_chunk_size must be at least 1, or -1 for the model's own value"
        );
        assert_eq!(
            refused("prefill_chunk_size=-2"),
            "prefill_chunk_size -2 is negative; only -1 is, for the model's own value"
        );
        assert_eq!(refused("prefill_chunk_size=2147483648"), "prefill_chunk_size 2147483648 is larger than 2147483647");
        assert_eq!(refused("prefill_chunk_size=1,prefill_chunk_size=2"), "prefill_chunk_size is given twice");
        assert_eq!(
            refused("prefill_chunk_size=64,context_window_size=32"),
            "prefill_chunk_size 64 is larger than context_window_size 32"
        );
    }
}
