#[cfg(not(target_vendor = "apple"))]
use crate::opencl::{OpenClDevice, OpenClOptions};
use crate::{CpuDevice, Device, DeviceError, LoadedModel, Watch, WeightFiles};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use std::path::PathBuf;
use std::sync::Arc;

/// The best that there is for each model: the GPU, where there is one and it can run the model's library, else the CPU.
pub struct BestDevice {
    gpu: Result<Box<dyn Device>, DeviceError>,
    cpu: CpuDevice,
}

/// Opens the best device there is: Metal on Apple's systems, OpenCL on a GPU elsewhere, and always the CPU for what those cannot do.
/// `programs` is a folder for the OpenCL programs that the driver compiled; without one every load compiles.
pub fn best(programs: Option<PathBuf>) -> BestDevice {
    BestDevice { gpu: gpu(programs), cpu: CpuDevice::new() }
}

#[cfg(target_vendor = "apple")]
fn gpu(_: Option<PathBuf>) -> Result<Box<dyn Device>, DeviceError> {
    Ok(Box::new(crate::metal::MetalDevice::open()?))
}

#[cfg(not(target_vendor = "apple"))]
fn gpu(programs: Option<PathBuf>) -> Result<Box<dyn Device>, DeviceError> {
    let device = OpenClDevice::open(OpenClOptions { cache: programs, ..OpenClOptions::default() })?;
    match device.info().gpu {
        true => Ok(Box::new(device)),
        // The CPU through OpenCL is slower than our own routines.
        false => {
            Err(DeviceError::Unavailable { device: "opencl", reason: format!("{} is no GPU", device.info().name) })
        }
    }
}

impl BestDevice {
    /// A GPU, or why there is none, and the CPU.
    pub const fn new(gpu: Result<Box<dyn Device>, DeviceError>, cpu: CpuDevice) -> Self {
        BestDevice { gpu, cpu }
    }

    /// The GPU that is used, or why none is.
    ///
    /// # Errors
    /// Why there is none.
    pub fn gpu(&self) -> Result<&dyn Device, &DeviceError> {
        self.gpu.as_deref()
    }
}

impl Device for BestDevice {
    fn name(&self) -> &'static str {
        "best"
    }

    fn description(&self) -> String {
        match &self.gpu {
            Ok(gpu) => format!("{}; for what it cannot do {}", gpu.description(), self.cpu.description()),
            Err(reason) => format!("{} ({reason})", self.cpu.description()),
        }
    }

    /// What the GPU runs; libraries for anything else are executed by the CPU.
    fn target(&self) -> Target {
        self.gpu.as_ref().map_or(Target::Host, |gpu| gpu.target())
    }

    fn load_from(
        &self,
        library: Arc<ModelLibrary>,
        files: &dyn WeightFiles,
        watch: &dyn Watch,
    ) -> Result<Box<dyn LoadedModel>, DeviceError> {
        if let Ok(gpu) = &self.gpu
            && library.target == gpu.target()
        {
            match gpu.load_from(library.clone(), files, watch) {
                Err(error) if is_the_gpus_own(&error) => {}
                outcome => return outcome,
            }
        }
        self.cpu.load_from(library, files, watch)
    }
}

/// Whether the CPU may succeed where a GPU failed so.
const fn is_the_gpus_own(error: &DeviceError) -> bool {
    match error {
        DeviceError::OutOfMemory { .. }
        | DeviceError::BufferTooLarge { .. }
        | DeviceError::Unavailable { .. }
        | DeviceError::WrongTarget { .. }
        | DeviceError::KernelBuild { .. }
        | DeviceError::Driver { .. } => true,
        DeviceError::Io { .. }
        | DeviceError::Library { .. }
        | DeviceError::WeightIndex { .. }
        | DeviceError::Weights { .. }
        | DeviceError::InvalidCall(_)
        | DeviceError::Interrupted
        | DeviceError::NotPermitted { .. } => false,
    }
}
