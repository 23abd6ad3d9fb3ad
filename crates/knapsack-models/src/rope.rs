//! Rotary position embeddings: what configurations say of them, and the frequencies that follow.

use crate::error::ConfigError;
use crate::fields::{Fields, invalid, missing, shortened};
use knapsack_ir::Growth;
use serde_json::{Map, Value};
use std::f64::consts::PI;

/// A rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the geometric series of wavelengths.
    pub base: f64,
    /// Leading elements of a head that are rotated; even.
    pub rotary: u32,
    /// How frequencies are changed for contexts longer than the ones trained with.
    pub scaling: RopeScaling,
}

/// How frequencies are changed for long contexts. Names and meaning are those of transformers.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All divided by a factor.
    Linear {
        /// What positions are divided by.
        factor: f64,
    },
    /// The base grows with the context beyond what was trained (NTK).
    Dynamic {
        /// What the base grows with, as the context does.
        factor: f64,
        /// Positions trained with.
        trained: u32,
    },
    /// Long wavelengths divided by a factor, short ones kept, a ramp between (Llama 3.1).
    Llama3 {
        /// What the frequencies of long wavelengths are divided by.
        factor: f64,
        /// Wavelengths above `original / low` are divided.
        low: f64,
        /// Wavelengths below `original / high` are kept.
        high: f64,
        /// Positions trained with before the extension.
        original: u32,
    },
    /// A divisor for each pair, one list for short contexts and one for long ones (Phi 3).
    LongRope {
        /// Divisors while the context is at most `original`.
        short: Vec<f64>,
        /// Divisors for longer contexts.
        long: Vec<f64>,
        /// Positions trained with before the extension.
        original: u32,
        /// Multiplier of cosine and sine.
        magnitude: f64,
    },
    /// A ramp over the pairs between kept and divided frequencies.
    Yarn {
        /// What the frequencies at the far end of the ramp are divided by.
        factor: f64,
        /// Positions trained with before the extension.
        original: u32,
        /// Rotations above which a frequency is kept.
        fast: f64,
        /// Rotations below which a frequency is divided.
        slow: f64,
        /// Whether the ends of the ramp are rounded to whole pairs.
        truncate: bool,
        /// Multiplier of cosine and sine.
        magnitude: f64,
    },
    /// The first pairs of a whole head are rotated, with the frequencies that they would have if all were.
    Proportional {
        /// Pairs with a frequency; the others stand still.
        pairs: u32,
        /// What the frequencies are divided by.
        factor: f64,
    },
}

/// The frequencies of a rotary embedding in a model compiled for a context.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeFrequencies {
    /// Radians per position of each pair; `rotary / 2` of them.
    pub frequencies: Vec<f32>,
    /// Multiplier of both cosine and sine.
    pub magnitude: f32,
}

impl RopeScaling {
    /// Whether positions beyond the trained ones are meant to work.
    pub fn extends(&self) -> bool {
        !matches!(self, RopeScaling::None | RopeScaling::Proportional { .. })
    }
}

impl Rope {
    /// The frequencies for a context of `positions`. Longrope's list and dynamic scaling's base are chosen by it, once:
    /// transformers chooses anew for each sequence length, which invalidates what is already in a KV cache.
    pub fn frequencies(&self, positions: u32) -> RopeFrequencies {
        let pairs = self.rotary / 2;
        let dim = f64::from(self.rotary);
        let plain = |base: f64, pair: u32| base.powf(-2.0 * f64::from(pair) / dim);
        let each = |f: &dyn Fn(u32) -> f64| (0..pairs).map(|pair| f(pair) as f32).collect();
        let (frequencies, magnitude) = match &self.scaling {
            RopeScaling::None => (each(&|i| plain(self.base, i)), 1.0),
            RopeScaling::Linear { factor } => (each(&|i| plain(self.base, i) / factor), 1.0),
            RopeScaling::Dynamic { factor, trained } => {
                let length = f64::from(positions.max(*trained)) / f64::from(*trained);
                let growth = (factor * length - (factor - 1.0)).powf(dim / (dim - 2.0).max(1.0));
                (each(&|i| plain(self.base * growth, i)), 1.0)
            }
            RopeScaling::Llama3 { factor, low, high, original } => {
                let original = f64::from(*original);
                (each(&|i| llama3(plain(self.base, i), *factor, *low, *high, original)), 1.0)
            }
            RopeScaling::LongRope { short, long, original, magnitude } => {
                let divisors = if positions > *original { long } else { short };
                (each(&|i| plain(self.base, i) / divisors.get(i as usize).copied().unwrap_or(1.0)), *magnitude)
            }
            RopeScaling::Yarn { factor, original, fast, slow, truncate, magnitude } => {
                let (start, end) = self.yarn_ramp(f64::from(*original), *fast, *slow, *truncate);
                let frequency = |i: u32| {
                    let divided = ((f64::from(i) - start) / (end - start)).clamp(0.0, 1.0);
                    let kept = plain(self.base, i);
                    kept / factor * divided + kept * (1.0 - divided)
                };
                (each(&frequency), *magnitude)
            }
            RopeScaling::Proportional { pairs, factor } => {
                (each(&|i| if i < *pairs { plain(self.base, i) / factor } else { 0.0 }), 1.0)
            }
        };
        RopeFrequencies { frequencies, magnitude: magnitude as f32 }
    }

    /// The pairs between which yarn's ramp goes from kept to divided: where a frequency makes `fast` and `slow` rotations in
    /// the original context.
    fn yarn_ramp(&self, original: f64, fast: f64, slow: f64, truncate: bool) -> (f64, f64) {
        let dim = f64::from(self.rotary);
        let pair = |rotations: f64| dim * (original / (rotations * 2.0 * PI)).ln() / (2.0 * self.base.ln());
        let (mut start, mut end) = (pair(fast), pair(slow));
        if truncate {
            (start, end) = (start.floor(), end.ceil());
        }
        (start, end) = (start.max(0.0), end.min(dim - 1.0));
        if start == end {
            end += 0.001;
        }
        (start, end)
    }
}

/// Frequency of one pair by Llama 3.1's rule (`_compute_llama3_parameters` in transformers).
fn llama3(frequency: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let wavelength = 2.0 * PI / frequency;
    if wavelength < original / high {
        frequency
    } else if wavelength > original / low {
        frequency / factor
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// What a family says of its rotary embeddings where a configuration is silent.
#[derive(Clone, Copy)]
pub(crate) struct RopeDefaults {
    /// Frequency `i` is `base^(-2 i / dim)`.
    pub(crate) base: f64,
    /// Share of a head that is rotated.
    pub(crate) partial: f64,
    /// What layers with a window have.
    pub(crate) windowed: Windowed,
}

/// The rotary embedding of layers with a window of their own.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Windowed {
    /// That of the others.
    Same,
    /// Another one, which is not scaled, with this base where `rope_local_base_freq` is silent; `None`: with that of the others.
    Unscaled(Option<f64>),
}

/// Most models'.
pub(crate) const PLAIN: RopeDefaults = RopeDefaults { base: 10_000.0, partial: 1.0, windowed: Windowed::Same };

/// The rotary embeddings of a model by kind of layer.
pub(crate) struct Ropes {
    /// Of layers that see everything.
    pub(crate) full: Rope,
    /// Of layers with a window of their own.
    pub(crate) windowed: Rope,
}

/// Keys of the base, at the top of a configuration: transformers', MLC's, and those of the first gpt_neox and lfm2 configurations.
const BASES: [&str; 4] = ["position_embedding_base", "rope_theta", "rotary_emb_base", "theta"];
/// Keys of the rotated share of a head.
const SHARES: [&str; 3] = ["partial_rotary_factor", "rotary_pct", "rope_pct"];
/// The dictionary's names in transformers 4 and 5.
const DICTIONARIES: [&str; 2] = ["rope_scaling", "rope_parameters"];
/// Keys of a dictionary that change nothing for text, or are read only by some types; MLC repeats both counts of positions there.
const IDLE: [&str; 5] =
    ["mrope_section", "mrope_interleaved", "finetuned", "original_max_position_embeddings", "max_position_embeddings"];

/// Reads everything that a configuration says of rotary embeddings: transformers 4 keeps base and share at the top and the rest in
/// `rope_scaling`; transformers 5 all of it in `rope_parameters`, flat or by kind of layer. They are read as one dictionary.
pub(crate) fn read(fields: &Fields<'_>, head_dim: u32, defaults: &RopeDefaults) -> Result<Ropes, ConfigError> {
    let [old, new] = DICTIONARIES;
    let dictionary = match (fields.object(old)?, fields.object(new)?) {
        (Some(old), Some(new)) => Some(agreeing(old, new)?),
        (old, new) => old.or(new),
    };
    let reader = Reader { top: fields, dictionary, by_layer: false, head_dim, defaults };
    let kinds = match dictionary {
        Some(dictionary) => [dictionary.object("full_attention")?, dictionary.object("sliding_attention")?],
        None => [None, None],
    };
    if let [Some(full), Some(windowed)] = kinds {
        let of = |kind| Reader { dictionary: Some(kind), by_layer: true, ..reader }.read();
        return Ok(Ropes { full: of(full)?, windowed: of(windowed)? });
    }
    if let [Some(one), None] | [None, Some(one)] = kinds {
        let rope = Reader { dictionary: Some(one), by_layer: true, ..reader }.read()?;
        return Ok(Ropes { windowed: rope.clone(), full: rope });
    }
    let full = reader.read()?;
    let windowed = match defaults.windowed {
        Windowed::Same => full.clone(),
        Windowed::Unscaled(base) => Rope {
            base: fields.positive(&["rope_local_base_freq"])?.or(base).unwrap_or(full.base),
            scaling: RopeScaling::None,
            ..full
        },
    };
    Ok(Ropes { full, windowed })
}

/// How queries grow with the position (`llama_4_scaling_beta` in the rope dictionary).
pub(crate) fn query_growth(fields: &Fields<'_>) -> Result<Option<Growth>, ConfigError> {
    for name in DICTIONARIES {
        let Some(dictionary) = fields.object(name)? else { continue };
        let Some(beta) = dictionary.positive_f32(&["llama_4_scaling_beta"])? else { continue };
        let key = ["original_max_position_embeddings"];
        let original = dictionary.positions(&key)?.or(fields.positions(&key)?).ok_or_else(|| missing(&key))?;
        return Ok(Some(Growth { beta, original }));
    }
    Ok(None)
}

/// The first rope key that has a value and that nobody asked for: one without a meaning for this family or this type of rope. A
/// model whose rope is half understood gives wrong numbers.
pub(crate) fn unread(fields: &Fields<'_>) -> Option<String> {
    let is_rope = |key: &str| key.contains("rope") || key.contains("rotary");
    let top = fields.unasked().map(|(key, _)| key).find(|key| is_rope(key));
    top.map(str::to_owned).or_else(|| {
        DICTIONARIES.iter().find_map(|name| {
            let dictionary = fields.object(name).ok()??;
            let inner = dictionary.unasked().map(|(key, _)| format!("{name}.{key}")).next();
            inner.or_else(|| {
                ["full_attention", "sliding_attention"].iter().find_map(|kind| {
                    let nested = dictionary.object(kind).ok()??;
                    nested.unasked().map(|(key, _)| format!("{name}.{kind}.{key}")).next()
                })
            })
        })
    })
}

/// Both dictionaries as one, unless they say different things.
fn agreeing<'a>(old: Fields<'a>, new: Fields<'a>) -> Result<Fields<'a>, ConfigError> {
    let number = |value: &Value| value.as_f64();
    for (key, value) in old.entries() {
        let Some(other) = new.own(key) else { continue };
        let same = value == other || (number(value).is_some() && number(value) == number(other));
        if !same && !value.is_null() && !other.is_null() {
            return Err(ConfigError::Contradiction(format!(
                "`{}.{key}` is {} and `{}.{key}` is {}",
                DICTIONARIES[0],
                shortened(value),
                DICTIONARIES[1],
                shortened(other)
            )));
        }
    }
    Ok(old.with_rest(&new))
}

/// Reads one rotary embedding.
#[derive(Clone, Copy)]
struct Reader<'f, 'a> {
    top: &'f Fields<'a>,
    dictionary: Option<Fields<'a>>,
    /// Whether the dictionary is that of one kind of layer: values at the top are only its defaults then.
    by_layer: bool,
    head_dim: u32,
    defaults: &'f RopeDefaults,
}

impl Reader<'_, '_> {
    /// A number that may stand at the top or in the dictionary, but not as two different ones.
    fn either(&self, top: &[&str], inner: &[&str]) -> Result<Option<f64>, ConfigError> {
        let outside = self.top.positive(top)?;
        let inside = self.dictionary.map(|d| d.positive(inner)).transpose()?.flatten();
        match (outside, inside) {
            (Some(outside), Some(inside)) if outside != inside && !self.by_layer => {
                Err(ConfigError::Contradiction(format!(
                    "`{}` is {outside}, and {inside} in the rope dictionary",
                    self.top.get(top).map_or("", |(key, _)| key)
                )))
            }
            (outside, inside) => Ok(inside.or(outside)),
        }
    }

    fn read(&self) -> Result<Rope, ConfigError> {
        let base = self.either(&BASES, &["rope_theta"])?.unwrap_or(self.defaults.base);
        if base <= 1.0 {
            return Err(ConfigError::Contradiction(format!("a rope base of {base} is not above 1")));
        }
        let share = self.either(&SHARES, &SHARES)?.unwrap_or(self.defaults.partial);
        if share > 1.0 {
            return Err(ConfigError::Contradiction(format!(
                "a share of {share} of a head is rotated: more than all of it"
            )));
        }
        // Rounded down, as transformers does.
        let rotary = match self.top.count(&["rotary_dim"])? {
            Some(rotary) => rotary,
            None => (f64::from(self.head_dim) * share) as u32,
        };
        let Some(dictionary) = self.dictionary else { return Ok(Rope { base, rotary, scaling: RopeScaling::None }) };
        dictionary.skip(&IDLE);
        let kind = match (dictionary.text(&["rope_type"])?, dictionary.text(&["type"])?) {
            (Some(kind), Some(other)) if synonym(kind) != synonym(other) => {
                return Err(ConfigError::Contradiction(format!(
                    "the rope's `rope_type` is {kind} and its `type` {other}"
                )));
            }
            (kind, other) => kind.or(other).unwrap_or("default"),
        };
        if synonym(kind) == "proportional" {
            let pairs = (f64::from(self.head_dim) * share / 2.0) as u32;
            let factor = dictionary.positive(&["factor"])?.unwrap_or(1.0);
            return Ok(Rope { base, rotary: self.head_dim, scaling: RopeScaling::Proportional { pairs, factor } });
        }
        if let ("dynamic", Some(alpha)) = (kind, dictionary.positive(&["alpha"])?) {
            // Hunyuan's: one larger base for every length. The rest of its dictionary has no effect in transformers either.
            dictionary.skip(&["factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"]);
            let dim = f64::from(rotary);
            let base = base * alpha.powf(dim / (dim - 2.0).max(1.0));
            return Ok(Rope { base, rotary, scaling: RopeScaling::None });
        }
        Ok(Rope { base, rotary, scaling: self.scaling(kind, &dictionary, rotary)? })
    }

    fn trained(&self) -> Result<u32, ConfigError> {
        let own = ["max_position_embeddings", "context_window_size"];
        let inner = self.dictionary.map(|d| d.positions(&own[..1])).transpose()?.flatten();
        self.top.positions(&own)?.or(inner).ok_or_else(|| missing(&own[..1]))
    }

    /// Positions trained with before an extension.
    fn original(&self) -> Result<Option<u32>, ConfigError> {
        let key = ["original_max_position_embeddings"];
        let inner = self.dictionary.map(|d| d.positions(&key)).transpose()?.flatten();
        let outer = self.top.positions(&key)?;
        match (inner, outer) {
            (Some(inner), Some(outer)) if inner != outer && !self.by_layer => {
                Err(ConfigError::Contradiction(format!("`{}` is {outer}, and {inner} in the rope dictionary", key[0])))
            }
            (inner, outer) => Ok(inner.or(outer)),
        }
    }

    fn scaling(&self, kind: &str, scaling: &Fields<'_>, rotary: u32) -> Result<RopeScaling, ConfigError> {
        let factor = || scaling.positive(&["factor"])?.ok_or_else(|| missing(&["rope_scaling.factor"]));
        match synonym(kind) {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
            "dynamic" => Ok(RopeScaling::Dynamic { factor: at_least_one(factor()?)?, trained: self.trained()? }),
            "llama3" => {
                let low = scaling.positive(&["low_freq_factor"])?.unwrap_or(1.0);
                let high = scaling.positive(&["high_freq_factor"])?.unwrap_or(4.0);
                if high <= low {
                    return Err(ConfigError::Contradiction(format!(
                        "rope_scaling.high_freq_factor {high} is not above low_freq_factor {low}"
                    )));
                }
                let original =
                    self.original()?.ok_or_else(|| missing(&["rope_scaling.original_max_position_embeddings"]))?;
                Ok(RopeScaling::Llama3 { factor: factor()?, low, high, original })
            }
            "longrope" => {
                let original = self.original()?.ok_or_else(|| missing(&["original_max_position_embeddings"]))?;
                longrope(scaling, rotary, original, self.trained()?)
            }
            "yarn" => {
                let original = match self.original()? {
                    Some(original) => original,
                    None => self.trained()?,
                };
                yarn(scaling, at_least_one(factor()?)?, original)
            }
            other => Err(ConfigError::RopeScaling(other.chars().take(60).collect())),
        }
    }
}

/// One name for each type of rope. With several positions for each token (`mrope`), those of text are all the same.
fn synonym(kind: &str) -> &str {
    match kind {
        "none" | "mrope" => "default",
        "su" => "longrope",
        other => other,
    }
}

fn longrope(scaling: &Fields<'_>, rotary: u32, original: u32, trained: u32) -> Result<RopeScaling, ConfigError> {
    let pairs = rotary as usize / 2;
    let list = |key: &str| {
        let list = scaling.factors(key, pairs)?;
        if list.len() == pairs {
            Ok(list)
        } else {
            let value = Value::from(list.len());
            Err(invalid(&format!("length of {key}"), &value, &format!("{pairs}, the pairs of rotated elements")))
        }
    };
    let (short, long) = (list("short_factor")?, list("long_factor")?);
    let factor = scaling.positive(&["factor"])?.unwrap_or(f64::from(trained) / f64::from(original));
    let magnitude = match scaling.positive(&["attention_factor"])? {
        Some(magnitude) => magnitude,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / f64::from(original).ln()).sqrt(),
    };
    Ok(RopeScaling::LongRope { short, long, original, magnitude })
}

fn yarn(scaling: &Fields<'_>, factor: f64, original: u32) -> Result<RopeScaling, ConfigError> {
    let grown = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
    let both = (scaling.positive(&["mscale"])?, scaling.positive(&["mscale_all_dim"])?);
    let magnitude = match (scaling.positive(&["attention_factor"])?, both) {
        (Some(magnitude), _) => magnitude,
        (None, (Some(one), Some(all))) => grown(one) / grown(all),
        (None, _) => grown(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        original,
        fast: scaling.positive(&["beta_fast"])?.unwrap_or(32.0),
        slow: scaling.positive(&["beta_slow"])?.unwrap_or(1.0),
        truncate: scaling.flag(&["truncate"], true)?,
        magnitude,
    })
}

fn at_least_one(factor: f64) -> Result<f64, ConfigError> {
    if factor >= 1.0 {
        Ok(factor)
    } else {
        Err(invalid("rope_scaling.factor", &Value::from(factor), "a number of at least 1"))
    }
}

/// The `rope_scaling` object to keep for later readers: the checkpoint's own, with transformers 5's `rope_parameters` put into
/// the older form; `None` where nothing is scaled.
pub(crate) fn scaling_object(hf: &Map<String, Value>) -> Option<Map<String, Value>> {
    let scaling = dictionary(hf)?;
    let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str)?;
    (synonym(kind) != "default").then(|| {
        let mut kept = scaling.clone();
        kept.shift_remove("rope_theta");
        kept.insert("rope_type".to_owned(), Value::from(kind));
        kept
    })
}

/// The rope dictionary of the layers that see everything; where there are several kinds of layer, only theirs is ever scaled.
pub(crate) fn dictionary(hf: &Map<String, Value>) -> Option<&Map<String, Value>> {
    let found = DICTIONARIES.iter().find_map(|name| hf.get(*name).and_then(Value::as_object))?;
    found.get("full_attention").and_then(Value::as_object).or(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Asked;
    use serde_json::json;

    fn rope(config: Value) -> Result<Rope, ConfigError> {
        let asked = Asked::default();
        read(&Fields::new(&config, &asked).unwrap(), 8, &PLAIN).map(|ropes| ropes.full)
    }

    #[test]
    fn frequencies_of_each_kind() {
        let none = rope(json!({"rope_theta": 10000.0})).unwrap().frequencies(100);
        assert_eq!(none.frequencies, [1.0, 0.1, 0.01, 0.001]);
        let linear = rope(json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap().frequencies(100);
        assert_eq!(linear.frequencies, [0.5, 0.05, 0.005, 0.0005]);
        let long =
            rope(json!({"max_position_embeddings": 64, "original_max_position_embeddings": 16, "rope_scaling": {
            "type": "su", "short_factor": [1, 1, 1, 1], "long_factor": [1, 2, 4, 10]}}))
            .unwrap();
        assert_eq!(long.frequencies(16).frequencies, [1.0, 0.1, 0.01, 0.001]);
        assert_eq!(long.frequencies(17).frequencies, [1.0, 0.05, 0.0025, 0.0001]);
        // sqrt(1 + ln 4 / ln 16)
        assert!((long.frequencies(17).magnitude - 1.5f32.sqrt()).abs() < 1e-6);
        let dynamic =
            rope(json!({"max_position_embeddings": 64, "rope_scaling": {"rope_type": "dynamic", "factor": 2}}))
                .unwrap();
        assert_eq!(dynamic.frequencies(64).frequencies, none.frequencies);
        assert!(dynamic.frequencies(128).frequencies[3] < none.frequencies[3]);
    }

    #[test]
    fn an_unknown_kind_is_named() {
        let error = rope(json!({"rope_scaling": {"rope_type": "ntk"}})).unwrap_err();
        assert_eq!(error, ConfigError::RopeScaling("ntk".to_owned()));
    }

    #[test]
    fn bad_values_are_refused() {
        for scaling in [
            json!({"rope_type": "linear"}),
            json!({"rope_type": "linear", "factor": 0}),
            json!({"rope_type": "linear", "factor": "2"}),
            json!({"rope_type": "yarn", "factor": 0.5, "original_max_position_embeddings": 64}),
            json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
                "original_max_position_embeddings": 64}),
            json!({"rope_type": "longrope", "short_factor": [1, 1], "long_factor": [1, 2, 4, 10],
                "original_max_position_embeddings": 64}),
            json!({"rope_type": "longrope", "short_factor": [0, 1, 1, 1], "long_factor": [1, 2, 4, 10],
                "original_max_position_embeddings": 64}),
            json!([1]),
        ] {
            let config = json!({"max_position_embeddings": 128, "rope_scaling": scaling});
            assert!(rope(config.clone()).is_err(), "{config}");
        }
    }
}
