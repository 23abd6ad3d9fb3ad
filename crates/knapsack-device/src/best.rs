use crate::{CpuDevice, Device, DeviceError, LoadedModel, Watch, WeightFiles};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use std::sync::Arc;

/// The best that there is for each model: the GPU, where there is one and it can run the model's library, else the CPU.
pub struct BestDevice {
    gpu: Result<Box<dyn Device>, DeviceError>,
    cpu: CpuDevice,
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
                Err(error) if is_the_gpus_own(&error) => {
                    log::warn!("{} runs on the CPU: {error}", library.name);
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Folder;
    use crate::gpu::tests::library;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A GPU whose every load fails.
    struct Broken {
        error: fn() -> DeviceError,
        asked: Arc<AtomicUsize>,
    }

    impl Device for Broken {
        fn name(&self) -> &'static str {
            "broken"
        }

        fn target(&self) -> Target {
            Target::OpenCl
        }

        fn description(&self) -> String {
            "a broken GPU".to_owned()
        }

        fn load_from(
            &self,
            _: Arc<ModelLibrary>,
            _: &dyn WeightFiles,
            _: &dyn Watch,
        ) -> Result<Box<dyn LoadedModel>, DeviceError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Err((self.error)())
        }
    }

    /// How often the GPU was asked, and the error: the CPU refuses this library, because it contradicts itself.
    fn load(target: Target, error: fn() -> DeviceError) -> (usize, DeviceError) {
        let asked = Arc::new(AtomicUsize::new(0));
        let device = BestDevice::new(Ok(Box::new(Broken { error, asked: asked.clone() })), CpuDevice::new());
        assert!(device.description().starts_with("a broken GPU; for what it cannot do "), "{}", device.description());
        let library = ModelLibrary { target, ..library(4) };
        let error = device.load_from(Arc::new(library), &Folder::new("nowhere"), &()).err().unwrap();
        (asked.load(Ordering::Relaxed), error)
    }

    #[test]
    fn the_cpu_does_what_the_gpu_cannot() {
        let build = || DeviceError::KernelBuild { device: "broken", log: String::new() };
        assert!(matches!(load(Target::OpenCl, build), (1, DeviceError::Library { .. })));
        assert!(matches!(load(Target::Metal, build), (0, DeviceError::Library { .. })), "not its kernels");
        let memory = || DeviceError::OutOfMemory { what: "model", bytes: 1 };
        assert!(matches!(load(Target::OpenCl, memory), (1, DeviceError::Library { .. })));
        // What the CPU could not do either, and what was asked for.
        assert!(matches!(load(Target::OpenCl, || DeviceError::Interrupted), (1, DeviceError::Interrupted)));
        let missing = || DeviceError::Io { path: "shard".into(), source: std::io::ErrorKind::NotFound.into() };
        assert!(matches!(load(Target::OpenCl, missing), (1, DeviceError::Io { .. })));
    }

    #[test]
    fn without_a_gpu_the_cpu_says_why() {
        let reason = DeviceError::Unavailable { device: "opencl", reason: "no library".to_owned() };
        let device = BestDevice::new(Err(reason), CpuDevice::new());
        assert_eq!(device.target(), Target::Host);
        assert!(device.gpu().is_err() && device.description().contains("no library"), "{}", device.description());
    }
}
