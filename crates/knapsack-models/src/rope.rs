//! Rotary position embeddings: what configurations say of them, and the frequencies that follow.

use crate::error::ConfigError;
use crate::fields::{Fields, invalid, missing};
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
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the context beyond what was trained (NTK).
    Dynamic {
        /// How fast.
        factor: f64,
        /// Positions trained with.
        trained: u32,
    },
    /// Long wavelengths divided by a factor, short ones kept, a ramp between (Llama 3.1).
    Llama3 {
        /// The divisor.
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
        /// The divisor.
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
        !matches!(self, RopeScaling::None)
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

    /// Reads base and scaling from a `config.json` or a `model_config`: `rope_theta` (`position_embedding_base` in MLC),
    /// `rope_scaling`, or transformers 5's `rope_parameters`.
    pub(crate) fn read(fields: &Fields<'_>, rotary: u32) -> Result<Self, ConfigError> {
        let parameters = fields.object("rope_parameters")?;
        let base_keys = ["position_embedding_base", "rope_theta", "rotary_emb_base"];
        let base = match fields.positive(&base_keys)? {
            Some(base) => Some(base),
            None => parameters.map(|p| p.positive(&["rope_theta"])).transpose()?.flatten(),
        };
        let base = base.unwrap_or(10_000.0);
        if base <= 1.0 {
            return Err(ConfigError::Contradiction(format!("a rope base of {base} is not above 1")));
        }
        let scaling = match (fields.object("rope_scaling")?, parameters) {
            (Some(scaling), _) | (None, Some(scaling)) => RopeScaling::read(fields, &scaling, rotary)?,
            (None, None) => RopeScaling::None,
        };
        Ok(Rope { base, rotary, scaling })
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

impl RopeScaling {
    /// Reads the object under `rope_scaling`; `config` is the one around it, `rotary` the rotated elements of a head.
    pub(crate) fn read(config: &Fields<'_>, scaling: &Fields<'_>, rotary: u32) -> Result<Self, ConfigError> {
        let kind = scaling.text(&["rope_type", "type"])?.unwrap_or("default");
        let trained = || {
            let keys = ["max_position_embeddings", "context_window_size"];
            config.positions(&keys)?.ok_or_else(|| missing(&["max_position_embeddings"]))
        };
        let original = || {
            let keys = ["original_max_position_embeddings"];
            match scaling.positions(&keys)? {
                Some(original) => Ok(Some(original)),
                None => config.positions(&keys),
            }
        };
        let factor = || scaling.positive(&["factor"])?.ok_or_else(|| missing(&["rope_scaling.factor"]));
        match kind {
            "default" | "none" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
            "dynamic" => Ok(RopeScaling::Dynamic { factor: at_least_one(factor()?)?, trained: trained()? }),
            "llama3" => {
                let low = scaling.positive(&["low_freq_factor"])?.unwrap_or(1.0);
                let high = scaling.positive(&["high_freq_factor"])?.unwrap_or(4.0);
                if high <= low {
                    return Err(ConfigError::Contradiction(format!(
                        "rope_scaling.high_freq_factor {high} is not above low_freq_factor {low}"
                    )));
                }
                let original =
                    original()?.ok_or_else(|| missing(&["rope_scaling.original_max_position_embeddings"]))?;
                Ok(RopeScaling::Llama3 { factor: factor()?, low, high, original })
            }
            "longrope" | "su" => {
                let original = original()?.ok_or_else(|| missing(&["original_max_position_embeddings"]))?;
                Self::read_longrope(scaling, rotary, original, trained()?)
            }
            "yarn" => {
                let original = match original()? {
                    Some(original) => original,
                    None => trained()?,
                };
                Self::read_yarn(scaling, at_least_one(factor()?)?, original)
            }
            other => Err(ConfigError::RopeScaling(other.chars().take(60).collect())),
        }
    }

    fn read_longrope(scaling: &Fields<'_>, rotary: u32, original: u32, trained: u32) -> Result<Self, ConfigError> {
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
        let magnitude = match scaling.positive(&["attention_factor"])? {
            Some(magnitude) => magnitude,
            None => {
                let factor = f64::from(trained) / f64::from(original);
                if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / f64::from(original).ln()).sqrt() }
            }
        };
        Ok(RopeScaling::LongRope { short, long, original, magnitude })
    }

    fn read_yarn(scaling: &Fields<'_>, factor: f64, original: u32) -> Result<Self, ConfigError> {
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
    let object = |key: &str| hf.get(key).and_then(Value::as_object);
    let scaling = object("rope_scaling").or_else(|| {
        let parameters = object("rope_parameters")?;
        // Gemma 3 has parameters for each kind of layer; only the global ones are ever scaled.
        parameters.get("full_attention").and_then(Value::as_object).or(Some(parameters))
    })?;
    let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str)?;
    (!matches!(kind, "default" | "none")).then(|| {
        let mut kept = scaling.clone();
        kept.shift_remove("rope_theta");
        kept.insert("rope_type".to_owned(), Value::from(kind));
        kept
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rope(config: Value) -> Result<Rope, ConfigError> {
        Rope::read(&Fields::new(&config).unwrap(), 8)
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
        let error = rope(json!({"rope_scaling": {"rope_type": "mrope"}})).unwrap_err();
        assert_eq!(error, ConfigError::RopeScaling("mrope".to_owned()));
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
