//! `metal`: the plan executed by the Metal kernels in the library, on an Apple GPU. Only compiled for Apple's systems.
//!
//! Weights stay in the mapped shards wherever their alignment allows: the GPU reads the page cache, whose pages the system may
//! drop under memory pressure and read again, since nothing ever writes them. The launches of a call go into one command buffer;
//! the host waits for it only when it reads or writes memory that the GPU uses.

mod backend;

use crate::gpu::GpuModel;
use crate::{Account, Device, DeviceError, LoadedModel, Weights};
use knapsack_artifact::ModelLibrary;
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLCommandQueue, MTLCreateSystemDefaultDevice, MTLDevice};
use std::path::Path;
use std::sync::Arc;

const NAME: &str = "metal";

/// The system's GPU.
#[derive(Clone)]
pub struct MetalDevice {
    device: Retained<ProtocolObject<dyn MTLDevice>>,
    queue: Retained<ProtocolObject<dyn MTLCommandQueue>>,
}

impl std::fmt::Debug for MetalDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetalDevice").field("name", &self.device.name().to_string()).finish_non_exhaustive()
    }
}

impl MetalDevice {
    /// Opens the system's default GPU.
    ///
    /// # Errors
    /// Where there is none, as in some virtual machines.
    pub fn open() -> Result<Self, DeviceError> {
        let unavailable = |reason: &str| DeviceError::Unavailable { device: NAME, reason: reason.to_owned() };
        let device = MTLCreateSystemDefaultDevice().ok_or_else(|| unavailable("the system has no Metal device"))?;
        let queue = device.newCommandQueue().ok_or_else(|| unavailable("the device gives no command queue"))?;
        Ok(MetalDevice { device, queue })
    }
}

impl Device for MetalDevice {
    fn name(&self) -> &'static str {
        NAME
    }

    fn description(&self) -> String {
        format!("{} (buffers up to {} MiB)", self.device.name(), self.device.maxBufferLength() >> 20)
    }

    fn load(&self, library: Arc<ModelLibrary>, folder: &Path) -> Result<Box<dyn LoadedModel>, DeviceError> {
        // Weights are file pages, which do not count against the app's limit; the rest does.
        let bytes = library.memory.kv_cache.saturating_add(library.memory.workspace);
        if crate::app_memory_left().is_some_and(|available| bytes > available) {
            return Err(DeviceError::OutOfMemory { what: "KV cache and workspace", bytes });
        }
        let weights = Weights::open(&library, folder, &Account::default())?;
        let backend = backend::MetalBackend::new(self.clone());
        Ok(Box::new(GpuModel::load(backend, library, weights)?))
    }
}
