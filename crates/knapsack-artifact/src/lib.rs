//! The contract between the machine that packages and the device that runs.
