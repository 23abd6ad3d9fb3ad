//! Launches recorded once and started together, where a device has an extension for it: launches never change, so that what a token
//! runs is one call to the driver, or a few.

mod khronos;
mod qualcomm;

use super::api::{Api, Context, Event, Kernel, RawDevice, RawPlatform};
use super::status::Status;
use std::sync::Arc;

/// Whether a device with these extensions records.
pub(super) fn are_recorded(extensions: &str) -> bool {
    has(extensions, khronos::EXTENSION) || has(extensions, qualcomm::EXTENSION)
}

fn has(extensions: &str, name: &str) -> bool {
    extensions.split_whitespace().any(|extension| extension == name)
}

/// The functions of an extension.
#[derive(Clone, Copy)]
pub(super) enum Recorder {
    Khronos(khronos::Functions),
    Qualcomm(qualcomm::Functions),
}

impl Recorder {
    /// `None` where the device, whose extensions these are, has none that can be used.
    pub(super) fn of(api: &Api, platform: RawPlatform, device: RawDevice, extensions: &str) -> Option<Self> {
        let khronos = || khronos::Functions::load(api, platform, device).map(Recorder::Khronos);
        let qualcomm = || qualcomm::Functions::load(api, platform, device).map(Recorder::Qualcomm);
        let khronos = has(extensions, khronos::EXTENSION).then(khronos).flatten();
        khronos.or_else(|| has(extensions, qualcomm::EXTENSION).then(qualcomm).flatten())
    }
}

/// A kernel with its work groups, and the threads of each.
pub(super) type Command<'a> = (&'a Kernel, [u32; 3], [u32; 3]);

/// Recorded launches, each after the one before it; released with this.
pub(super) enum Commands {
    Khronos(khronos::Commands),
    Qualcomm(qualcomm::Commands),
}

impl Commands {
    /// `None` where the device does not record.
    ///
    /// # Safety
    /// As [`Context::launch`] for each, whenever these commands run.
    pub(super) unsafe fn record(context: &Arc<Context>, launches: &[Command<'_>]) -> Option<Result<Self, Status>> {
        Some(match context.recorder? {
            Recorder::Khronos(functions) => {
                // SAFETY: by the contract.
                unsafe { khronos::Commands::record(context, functions, launches) }.map(Commands::Khronos)
            }
            Recorder::Qualcomm(functions) => {
                // SAFETY: by the contract.
                unsafe { qualcomm::Commands::record(context, functions, launches) }.map(Commands::Qualcomm)
            }
        })
    }

    /// Starts them, after what was enqueued; gives the event of their end.
    pub(super) fn start(&self) -> Result<Event, Status> {
        match self {
            Commands::Khronos(commands) => commands.start(),
            Commands::Qualcomm(commands) => commands.start(),
        }
    }
}
