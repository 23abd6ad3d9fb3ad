use crate::registry::{FAMILIES, Family};
use std::fmt;

/// An architecture that no family implements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedFamily {
    /// What the configuration names: an architecture or a model type.
    pub found: String,
    /// The supported family whose names are nearest to it.
    pub nearest: Family,
}

impl fmt::Display for UnsupportedFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "model architecture `{}` is not supported; the nearest is `{}`; supported are",
            self.found, self.nearest
        )?;
        for (index, family) in FAMILIES.iter().enumerate() {
            write!(f, "{} {}", if index == 0 { "" } else { "," }, family.name())?;
        }
        Ok(())
    }
}

impl std::error::Error for UnsupportedFamily {}

/// Why a model's configuration cannot be used.
#[derive(Debug, thiserror::Error, PartialEq)]
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
        /// The key.
        key: String,
        /// Its value, shortened.
        found: String,
        /// What is accepted.
        expected: String,
    },
    /// A valid value that no supported model of the family has.
    #[error("`{key}` = {found} is not supported for {family}")]
    NotSupported {
        /// The key.
        key: String,
        /// Its value, shortened.
        found: String,
        /// The family.
        family: &'static str,
    },
    /// A rope scaling that is not known.
    #[error("rope scaling `{0}` is not known; known are default, linear, dynamic, llama3, longrope, su and yarn")]
    RopeScaling(String),
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

impl fmt::Display for TensorsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the checkpoint's tensors do not fit its configuration ({})", self.family)?;
        for (what, names) in [("missing", &self.missing), ("left over", &self.left_over)] {
            if !names.is_empty() {
                write!(f, "\n  {what} ({}):", names.len())?;
                for name in names {
                    write!(f, "\n    {name}")?;
                }
            }
        }
        if !self.misshapen.is_empty() {
            write!(f, "\n  of another shape ({}):", self.misshapen.len())?;
            for (name, found, expected) in &self.misshapen {
                write!(f, "\n    {name}: {found:?}, expected {expected:?}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for TensorsError {}
