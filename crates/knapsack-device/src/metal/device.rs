use super::NAME;
use super::backend::MetalBackend;
use crate::gpu::GpuModel;
use crate::{Account, Device, DeviceError, LoadedModel, Watch, WeightFiles, Weights};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLCommandQueue, MTLCreateSystemDefaultDevice, MTLDevice};
use std::sync::Arc;

/// The system's GPU.
#[derive(Clone)]
pub struct MetalDevice {
    gpu: Arc<Gpu>,
}

struct Gpu {
    /// `Some` until it is dropped.
    objects: Option<Objects>,
}

struct Objects {
    device: Retained<ProtocolObject<dyn MTLDevice>>,
    queue: Retained<ProtocolObject<dyn MTLCommandQueue>>,
}

impl Drop for Gpu {
    fn drop(&mut self) {
        autoreleasepool(|_| drop(self.objects.take()));
    }
}

impl std::fmt::Debug for MetalDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetalDevice").field("name", &self.gpu_name()).finish_non_exhaustive()
    }
}

impl MetalDevice {
    /// Opens the system's default GPU.
    ///
    /// # Errors
    /// Where there is none, as in some virtual machines.
    pub fn open() -> Result<Self, DeviceError> {
        let unavailable = |reason: &str| DeviceError::Unavailable { device: NAME, reason: reason.to_owned() };
        autoreleasepool(|_| {
            let device = MTLCreateSystemDefaultDevice().ok_or_else(|| unavailable("the system has no Metal device"))?;
            let queue = device.newCommandQueue().ok_or_else(|| unavailable("the device gives no command queue"))?;
            Ok(MetalDevice { gpu: Arc::new(Gpu { objects: Some(Objects { device, queue }) }) })
        })
    }

    fn objects(&self) -> &Objects {
        self.gpu.objects.as_ref().expect("present until drop")
    }

    pub(super) fn device(&self) -> &ProtocolObject<dyn MTLDevice> {
        &self.objects().device
    }

    pub(super) fn queue(&self) -> &ProtocolObject<dyn MTLCommandQueue> {
        &self.objects().queue
    }

    fn gpu_name(&self) -> String {
        autoreleasepool(|_| self.device().name().to_string())
    }
}

impl Device for MetalDevice {
    fn name(&self) -> &'static str {
        NAME
    }

    fn description(&self) -> String {
        format!("{} (buffers up to {} MiB)", self.gpu_name(), self.device().maxBufferLength() >> 20)
    }

    fn target(&self) -> Target {
        Target::Metal
    }

    fn load_from(
        &self,
        library: Arc<ModelLibrary>,
        files: &dyn WeightFiles,
        watch: &dyn Watch,
    ) -> Result<Box<dyn LoadedModel>, DeviceError> {
        // Weights are file pages, which do not count against the app's limit; the rest does.
        let bytes = library.memory.total().saturating_sub(library.memory.weights);
        if crate::app_memory_left().is_some_and(|available| bytes > available) {
            return Err(DeviceError::OutOfMemory { what: "KV cache and workspace", bytes });
        }
        let weights = Weights::open(&library, files, &Account::default(), watch)?;
        Ok(Box::new(GpuModel::load(MetalBackend::new(self.clone()), library, weights, watch)?))
    }
}
