use knapsack_artifact::InvalidLibrary;
use knapsack_artifact::library::Target;
use knapsack_artifact::weight_index::WeightIndexError;
use std::path::PathBuf;

/// Why a device could not load or run a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum DeviceError {
    /// A file could not be read or mapped.
    #[error("cannot read {}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// The library contradicts itself.
    #[error("the model library is invalid")]
    Library { source: Box<InvalidLibrary> },
    /// The weight folder's index cannot be used.
    #[error("cannot use the weights in {}", folder.display())]
    WeightIndex { folder: PathBuf, source: Box<WeightIndexError> },
    /// The weight folder does not hold what the library needs.
    #[error("weights in {} do not match the model library: {problem}", folder.display())]
    Weights { folder: PathBuf, problem: String },
    /// Memory that the plan needs cannot be had.
    #[error("cannot allocate {bytes} bytes for the {what}")]
    OutOfMemory {
        /// Which part of the plan.
        what: &'static str,
        bytes: u64,
    },
    /// A part of the plan is larger than any buffer of the device. Parts are not spread over several buffers: kernels address a
    /// tensor as one.
    #[error("the {what} is {bytes} bytes, but the largest buffer of device {device} is {largest}")]
    BufferTooLarge {
        device: &'static str,
        /// Which part of the plan, or which parameter.
        what: String,
        bytes: u64,
        /// What the device can do.
        largest: u64,
    },
    /// The caller asked for something outside the plan.
    #[error("invalid call: {0}")]
    InvalidCall(String),
    /// The device is not there or lacks something.
    #[error("device {device} is unavailable: {reason}")]
    Unavailable { device: &'static str, reason: String },
    /// The library holds no kernels for this device.
    #[error("device {device} runs libraries with its own kernels; this one was compiled for {found:?}")]
    WrongTarget {
        device: &'static str,
        /// What the library was compiled for.
        found: Target,
    },
    /// The driver does not build the library's kernels.
    #[error("the kernels do not build on device {device}: {log}")]
    KernelBuild {
        device: &'static str,
        /// The driver's log.
        log: String,
    },
    /// The watch of the call said that it should stop. What was running has ended.
    #[error("interrupted")]
    Interrupted,
    /// The system lets apps in the background do no work on the device. The work that was running is lost; nothing else is.
    #[error("device {device} may not be used while the app is in the background")]
    NotPermitted { device: &'static str },
    /// The driver refused something. The model that ran is not usable any more; others are.
    #[error("device {device} cannot {operation}: {status}")]
    Driver {
        device: &'static str,
        operation: &'static str,
        /// The driver's code.
        status: String,
    },
}
