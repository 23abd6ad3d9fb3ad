//! What models can be run on at this machine: one row each, which command lines and programs ask.

use crate::best::BestDevice;
#[cfg(target_vendor = "apple")]
use crate::metal::MetalDevice;
use crate::opencl::{OpenClDevice, OpenClOptions};
use crate::{CpuDevice, Device, DeviceError, Isa, ReferenceDevice};
use std::path::PathBuf;

/// How a device is opened. What does not concern it, it ignores.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Threads of the CPU; `None`: as [`CpuDevice::new`].
    pub threads: Option<usize>,
    /// A folder for the OpenCL programs that the driver compiled; without one every load compiles.
    pub programs: Option<PathBuf>,
}

/// A kind of device that executes models on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Executor {
    /// As command lines write it, and as [`Device::name`] says it.
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    open: fn(&OpenOptions) -> Result<Box<dyn Device>, DeviceError>,
}

impl Executor {
    /// The CPU, with its vector instructions.
    pub const CPU: Executor = Executor {
        name: "cpu",
        about: "The CPU, with its vector instructions",
        open: |options| Ok(Box::new(cpu(options))),
    };
    /// The oracle for every other device.
    pub const CPU_REFERENCE: Executor = Executor {
        name: "cpu-reference",
        about: "The CPU, one number at a time in the order of the definition: slow, for comparing",
        open: |_| Ok(Box::new(ReferenceDevice)),
    };
    /// An OpenCL device.
    pub const OPENCL: Executor =
        Executor { name: "opencl", about: "An OpenCL device", open: |options| Ok(Box::new(opencl(options)?)) };
    /// Apple's GPU.
    #[cfg(target_vendor = "apple")]
    pub const METAL: Executor =
        Executor { name: "metal", about: "Apple's GPU", open: |_| Ok(Box::new(MetalDevice::open()?)) };
    /// The best that there is.
    pub const BEST: Executor = Executor {
        name: "best",
        about: "The GPU where there is one that can run the model, else the CPU",
        open: |options| Ok(Box::new(best(options))),
    };

    /// Every row.
    pub const ALL: &'static [Executor] = &[
        Executor::CPU,
        Executor::CPU_REFERENCE,
        Executor::OPENCL,
        #[cfg(target_vendor = "apple")]
        Executor::METAL,
        Executor::BEST,
    ];

    /// The row of a name.
    pub fn named(name: &str) -> Option<Executor> {
        Executor::ALL.iter().copied().find(|executor| executor.name == name)
    }

    /// Opens the device.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] when this machine has none.
    pub fn open(&self, options: &OpenOptions) -> Result<Box<dyn Device>, DeviceError> {
        (self.open)(options)
    }
}

/// Opens the best device there is: the GPU where there is one, and always the CPU for what that cannot do.
pub fn best(options: &OpenOptions) -> BestDevice {
    let gpu = gpu(options);
    if let Err(reason) = &gpu {
        log::info!("models run on the CPU: {reason}");
    }
    BestDevice::new(gpu, cpu(options))
}

/// Metal on Apple's systems.
#[cfg(target_vendor = "apple")]
fn gpu(_: &OpenOptions) -> Result<Box<dyn Device>, DeviceError> {
    Ok(Box::new(MetalDevice::open()?))
}

/// OpenCL elsewhere.
#[cfg(not(target_vendor = "apple"))]
fn gpu(options: &OpenOptions) -> Result<Box<dyn Device>, DeviceError> {
    let device = opencl(options)?;
    match device.info().gpu {
        true => Ok(Box::new(device)),
        // The CPU through OpenCL is slower than our own routines.
        false => {
            Err(DeviceError::Unavailable { device: "opencl", reason: format!("{} is no GPU", device.info().name) })
        }
    }
}

fn opencl(options: &OpenOptions) -> Result<OpenClDevice, DeviceError> {
    OpenClDevice::open(OpenClOptions { cache: options.programs.clone(), ..OpenClOptions::default() })
}

fn cpu(options: &OpenOptions) -> CpuDevice {
    match options.threads {
        Some(threads) => CpuDevice::with(Isa::best(), threads).expect("the best instruction set is available"),
        None => CpuDevice::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_open_what_they_name() {
        for executor in Executor::ALL {
            assert_eq!(Executor::named(executor.name).unwrap().about, executor.about);
            match executor.open(&OpenOptions { threads: Some(1), programs: None }) {
                Ok(device) => assert_eq!(device.name(), executor.name),
                Err(DeviceError::Unavailable { device, .. }) => assert_eq!(device, executor.name),
                Err(error) => panic!("{}: {error}", executor.name),
            }
        }
    }

    #[test]
    fn the_best_there_is_always_opens_with_the_threads_asked_for() {
        let device = Executor::BEST.open(&OpenOptions { threads: Some(3), programs: None }).unwrap();
        assert!(device.description().contains("3 threads"), "{}", device.description());
    }
}
