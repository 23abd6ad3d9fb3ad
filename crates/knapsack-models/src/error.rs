use std::fmt;

/// An architecture that no family implements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedFamily {
    /// What the configuration names: an architecture or a model type.
    pub found: String,
    /// The supported family whose names are nearest to it, where one is near.
    pub nearest: Option<&'static str>,
    /// The names of all families.
    pub supported: Vec<&'static str>,
}

impl fmt::Display for UnsupportedFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "model architecture `{}` is not supported; ", self.found)?;
        if let Some(nearest) = self.nearest {
            write!(f, "the nearest is `{nearest}`; ")?;
        }
        write!(f, "supported are {}", self.supported.join(", "))
    }
}

impl std::error::Error for UnsupportedFamily {}

/// Why a model's configuration cannot be used.
#[derive(Debug, thiserror::Error, PartialEq)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum ConfigError {
    /// Not an object, or not one that describes a model.
    #[error("the model configuration {0}")]
    Shape(&'static str),
    /// No family implements it.
    #[error(transparent)]
    Unsupported(#[from] UnsupportedFamily),
    /// A needed key is absent or null.
    #[error("the model configuration lacks `{key}`")]
    Missing {
        /// The key, or the alternatives, joined by `or`.
        key: String,
    },
    /// A value of the wrong type or out of range.
    #[error("`{key}` of the model configuration is {found}, expected {expected}")]
    Invalid {
        key: String,
        /// Its value, shortened.
        found: String,
        expected: String,
    },
    /// A valid value that no supported model of the family has.
    #[error("`{key}` = {found} is not supported for {family}")]
    NotSupported {
        key: String,
        /// Its value, shortened.
        found: String,
        family: &'static str,
    },
    /// A rope scaling that is not known.
    #[error(
        "rope scaling `{0}` is not known; known are default, linear, dynamic, llama3, longrope, su, yarn and proportional"
    )]
    RopeScaling(String),
    /// A rope key that means nothing here, so that the model would be computed with other rotations than it was trained with.
    #[error(
        "`{key}` of the model configuration has no meaning for {family} with this rope, which would be computed without it"
    )]
    RopeKey {
        /// The key, with the dictionary's name.
        key: String,
        family: &'static str,
    },
    /// A checkpoint of a kind that cannot be converted.
    #[error("{found} cannot be packaged: {instead}")]
    Unusable {
        found: String,
        /// What to use in its place.
        instead: &'static str,
    },
    /// Values that do not go together.
    #[error("the model configuration contradicts itself: {0}")]
    Contradiction(String),
}

/// A checkpoint whose tensors are not those of its configuration. All of them are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorsError {
    /// The family that the configuration names.
    pub family: &'static str,
    /// Tensors the model needs and the checkpoint lacks.
    pub missing: Vec<String>,
    /// Tensors of the checkpoint that the model has no use for.
    pub left_over: Vec<String>,
    /// Tensors of another shape, with the shape found and the one expected.
    pub misshapen: Vec<(String, Vec<u64>, Vec<u64>)>,
}

impl TensorsError {
    /// Whether there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.left_over.is_empty() && self.misshapen.is_empty()
    }
}

/// Most names of one list that are shown.
const SHOWN: usize = 10;

/// Beginnings of names by which a folder can be told, and what they mean.
const BEGINNINGS: [(&str, &str); 3] = [
    (
        "base_model.model.",
        "these are the names of an adapter (PEFT) that was not merged: merge it into its base model and save that",
    ),
    ("language_model.", "these are the names of a language model inside a larger one, whose configuration is another"),
    ("layers.", "these are the names of a bare model without its head: `model.` is missing before them"),
];

impl TensorsError {
    /// What the names say about the kind of checkpoint this is.
    fn hint(&self) -> Option<&'static str> {
        let has = |part: &str| self.left_over.iter().any(|name| name.contains(part));
        if has(".lora_A.") || has(".lora_B.") {
            return Some(BEGINNINGS[0].1);
        }
        if has(".qweight") || has(".weight_packed") || has(".absmax") || has(".weight_scale") {
            return Some("these are the names of quantized weights: use the checkpoint that they were made from");
        }
        let begins = |beginning: &str| self.left_over.iter().any(|name| name.starts_with(beginning));
        BEGINNINGS.iter().find(|(beginning, _)| begins(beginning)).map(|(_, hint)| *hint)
    }
}

impl fmt::Display for TensorsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the checkpoint's tensors do not fit its configuration ({})", self.family)?;
        if let Some(hint) = self.hint() {
            write!(f, "; {hint}")?;
        }
        let misshapen =
            self.misshapen.iter().map(|(name, found, expected)| format!("{name}: {found:?}, expected {expected:?}"));
        let lists = [
            ("missing", self.missing.clone()),
            ("left over", self.left_over.clone()),
            ("of another shape", misshapen.collect()),
        ];
        for (what, names) in lists.iter().filter(|(_, names)| !names.is_empty()) {
            write!(f, "\n  {what} ({}):", names.len())?;
            for name in names.iter().take(SHOWN) {
                write!(f, "\n    {name}")?;
            }
            if names.len() > SHOWN {
                write!(f, "\n    and {} more", names.len() - SHOWN)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for TensorsError {}
