//! Metal under the GPU executor.

use super::{MetalDevice, NAME, status};
use crate::gpu::Backend;
use crate::memory::Part;
use crate::{DeviceError, Weights};
use dispatch2::DispatchData;
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{Kernel, KernelModule, Target, Tiles};
use knapsack_artifact::plan::{KernelCall, ParameterId};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{NSObject, ProtocolObject};
use objc2_foundation::{NSDictionary, NSError, NSNumber, NSString};
use objc2_metal::{
    MTLBuffer, MTLCommandBuffer, MTLCommandBufferError, MTLCommandBufferStatus, MTLCommandEncoder, MTLCommandQueue,
    MTLCompileOptions, MTLComputeCommandEncoder, MTLComputePipelineState, MTLDevice, MTLGPUFamily, MTLLibrary,
    MTLResourceOptions, MTLSize,
};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::Arc;

type Pipeline = Retained<ProtocolObject<dyn MTLComputePipelineState>>;

/// Offsets of buffers bound to kernels that load 16 bytes at once.
const LOAD_ALIGNMENT: usize = 16;
/// Parameters below this are copied: sharing a mapping is for what is worth a buffer of its own.
const SMALLEST_SHARED: usize = 64 << 10;

/// A place in device memory, which the CPU sees too.
pub(super) struct Buffer {
    buffer: Retained<ProtocolObject<dyn MTLBuffer>>,
    offset: usize,
    bytes: usize,
    /// The mapping under a buffer that was not copied; kept as long as the buffer.
    _mapped: Option<Arc<Weights>>,
}

// SAFETY: Metal buffers may be used from any thread; their contents are only touched through `&mut MetalBackend`.
unsafe impl Send for Buffer {}

/// A kernel with its buffers.
pub(super) struct Launch {
    pipeline: Pipeline,
    threads: MTLSize,
    buffers: Vec<(Retained<ProtocolObject<dyn MTLBuffer>>, usize)>,
}

// SAFETY: as for `Buffer`; pipelines are immutable.
unsafe impl Send for Launch {}

pub(super) struct MetalBackend {
    device: MetalDevice,
    kernels: Vec<(Pipeline, MTLSize)>,
}

// SAFETY: pipelines are immutable.
unsafe impl Send for MetalBackend {}

/// A command buffer that was committed.
pub(super) struct Ticket(Retained<ProtocolObject<dyn MTLCommandBuffer>>);

// SAFETY: command buffers may be waited for on any thread, one at a time.
unsafe impl Send for Ticket {}

const _: () = assert!(
    status::NOT_PERMITTED == MTLCommandBufferError::NotPermitted.0 as isize
        && status::OUT_OF_MEMORY == MTLCommandBufferError::OutOfMemory.0 as isize
);

fn refused(operation: &'static str, error: &NSError) -> DeviceError {
    DeviceError::Driver { device: NAME, operation, status: error.localizedDescription().to_string() }
}

fn size(of: [u32; 3]) -> MTLSize {
    let [width, height, depth] = of.map(|axis| axis as usize);
    MTLSize { width, height, depth }
}

/// The slice of an xcframework that this was compiled for, as [`knapsack_artifact::library::Metallib`] names it.
const fn platform() -> Option<&'static str> {
    if cfg!(target_abi = "sim") {
        Some("ios-simulator")
    } else if cfg!(target_abi = "macabi") {
        Some("macabi")
    } else if cfg!(target_os = "ios") {
        Some("ios")
    } else {
        None
    }
}

impl MetalBackend {
    pub(super) fn new(device: MetalDevice) -> Self {
        MetalBackend { device, kernels: Vec::new() }
    }

    /// The library that was compiled ahead for this platform with these tiles, where there is one that loads.
    fn precompiled(&self, module: &KernelModule, tiles: Tiles) -> Option<Retained<ProtocolObject<dyn MTLLibrary>>> {
        let mut all = module.metallibs.iter().filter(|compiled| compiled.tiles == tiles);
        let compiled = all.find(|compiled| Some(compiled.platform.as_str()) == platform())?;
        let data = DispatchData::from_bytes(&compiled.data);
        self.device.device().newLibraryWithData_error(&data).ok()
    }

    fn compile(
        &self,
        source: &str,
        subgroups: bool,
        tiles: Tiles,
    ) -> Result<Retained<ProtocolObject<dyn MTLLibrary>>, DeviceError> {
        let options = MTLCompileOptions::new();
        let names = ["KNAPSACK_FP16", "KNAPSACK_SUBGROUPS", "KNAPSACK_TILES"].map(NSString::from_str);
        let values = [1, u32::from(subgroups), tiles.switch()].map(NSNumber::new_u32);
        let names: Vec<&NSString> = names.iter().map(|name| &**name).collect();
        let values: Vec<&NSObject> = values.iter().map(|value| -> &NSObject { value }).collect();
        let macros = NSDictionary::from_slices(&names, &values);
        // SAFETY: keys are strings and values numbers, as the property wants them.
        unsafe { options.setPreprocessorMacros(Some(&macros)) };
        self.device
            .device()
            .newLibraryWithSource_options_error(&NSString::from_str(source), Some(&options))
            .map_err(|error| DeviceError::KernelBuild { device: NAME, log: error.localizedDescription().to_string() })
    }

    /// The pipelines of a module, and whether all of them run in simdgroups of 32 threads.
    fn pipelines(
        &self,
        library: &ProtocolObject<dyn MTLLibrary>,
        kernels: &[Kernel],
    ) -> Result<(Vec<(Pipeline, MTLSize)>, bool), DeviceError> {
        let mut pipelines = Vec::with_capacity(kernels.len());
        let mut as_expected = true;
        for kernel in kernels {
            let missing =
                || DeviceError::KernelBuild { device: NAME, log: format!("there is no kernel {}", kernel.name) };
            let function = library.newFunctionWithName(&NSString::from_str(&kernel.name)).ok_or_else(missing)?;
            let pipeline = self
                .device
                .device()
                .newComputePipelineStateWithFunction_error(&function)
                .map_err(|error| refused("prepare a kernel", &error))?;
            let threads: usize = kernel.threads.iter().map(|&t| t as usize).product();
            let most = pipeline.maxTotalThreadsPerThreadgroup();
            if threads > most {
                let reason = format!("kernel {} needs {threads} threads, at most {most} fit", kernel.name);
                return Err(DeviceError::Unavailable { device: NAME, reason });
            }
            as_expected &= pipeline.threadExecutionWidth() == 32;
            pipelines.push((pipeline, size(kernel.threads)));
        }
        Ok((pipelines, as_expected))
    }

    /// The pipelines as [`Self::pipelines`] gives them, compiled ahead where they are.
    fn built(&self, module: &KernelModule, tiles: Tiles) -> Result<(Vec<(Pipeline, MTLSize)>, bool), DeviceError> {
        if let Some(library) = self.precompiled(module, tiles)
            && let Ok((pipelines, true)) = self.pipelines(&library, &module.kernels)
        {
            return Ok((pipelines, true));
        }
        self.pipelines(&*self.compile(&module.source, true, tiles)?, &module.kernels)
    }

    fn make(&self, part: Part, bytes: usize) -> Result<Buffer, DeviceError> {
        let what = part.name();
        let out_of_memory = || DeviceError::OutOfMemory { what, bytes: bytes as u64 };
        let length = bytes.max(1);
        let options = MTLResourceOptions::StorageModeShared;
        let buffer = self.device.device().newBufferWithLength_options(length, options).ok_or_else(out_of_memory)?;
        Ok(Buffer { buffer, offset: 0, bytes, _mapped: None })
    }

    /// A buffer over the mapped pages around `bytes`, when they begin where kernels can load them.
    fn share(&self, weights: &Arc<Weights>, bytes: &[u8]) -> Option<Buffer> {
        let start = bytes.as_ptr() as usize;
        if bytes.len() < SMALLEST_SHARED || !start.is_multiple_of(LOAD_ALIGNMENT) {
            return None;
        }
        // SAFETY: no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
        let offset = start % page;
        let length = (offset + bytes.len()).next_multiple_of(page);
        if length > self.device.device().maxBufferLength() {
            return None;
        }
        let first = NonNull::new((start - offset) as *mut std::ffi::c_void)?;
        // SAFETY: whole pages of a file mapping, which starts at a page and whose last page is mapped to its end. The mapping
        // lives as long as the `Arc` beside the buffer, and kernels only read it.
        let buffer = unsafe {
            self.device.device().newBufferWithBytesNoCopy_length_options_deallocator(
                first,
                length,
                MTLResourceOptions::StorageModeShared,
                None,
            )
        }?;
        Some(Buffer { buffer, offset, bytes: bytes.len(), _mapped: Some(weights.clone()) })
    }

    /// The buffer's bytes, as the CPU sees them.
    fn start_of(buffer: &Buffer) -> *mut u8 {
        // SAFETY: a buffer's offset is inside it.
        unsafe { buffer.buffer.contents().cast::<u8>().as_ptr().add(buffer.offset) }
    }
}

impl Backend for MetalBackend {
    type Buffer = Buffer;
    type Launch = Launch;
    type Ticket = Ticket;
    /// Commands of an encoder cannot be kept.
    type Recorded = std::convert::Infallible;

    const FOREGROUND_ONLY: bool = cfg!(all(target_os = "ios", not(target_abi = "macabi")));

    fn scope<R>(work: impl FnOnce() -> R) -> R {
        autoreleasepool(|_| work())
    }

    fn device(&self) -> &'static str {
        NAME
    }

    fn target(&self) -> Target {
        Target::Metal
    }

    fn largest_buffer(&self) -> u64 {
        self.device.device().maxBufferLength() as u64
    }

    fn prepare(&mut self, _: &ModelLibrary, module: &KernelModule) -> Result<(), DeviceError> {
        if self.device.device().supportsFamily(MTLGPUFamily::Apple7)
            && let Ok((pipelines, true)) = self.built(module, Tiles::Matrices)
        {
            self.kernels = pipelines;
            return Ok(());
        }
        let (mut pipelines, as_expected) = self.built(module, Tiles::Local)?;
        if !as_expected {
            // GPUs that are not Apple's, in older Macs: no assumption on simdgroups.
            let library = self.compile(&module.source, false, Tiles::Local)?;
            pipelines = self.pipelines(&*library, &module.kernels)?.0;
        }
        self.kernels = pipelines;
        Ok(())
    }

    fn allocate(&mut self, part: Part, bytes: u64) -> Result<Buffer, DeviceError> {
        let what = part.name();
        let bytes = usize::try_from(bytes).map_err(|_| DeviceError::OutOfMemory { what, bytes })?;
        let buffer = self.make(part, bytes)?;
        // SAFETY: the buffer was just made with this many bytes, and nothing uses it yet.
        unsafe { Self::start_of(&buffer).write_bytes(0, bytes) };
        Ok(buffer)
    }

    fn parameter(&mut self, weights: &Arc<Weights>, id: ParameterId) -> Result<Buffer, DeviceError> {
        let bytes = weights.get(id);
        if let Some(buffer) = self.share(weights, bytes) {
            return Ok(buffer);
        }
        let buffer = self.make(Part::Weights, bytes.len())?;
        // SAFETY: the buffer was just made with this many bytes, and nothing uses it yet.
        unsafe { Self::start_of(&buffer).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(buffer)
    }

    fn region(&mut self, buffer: &Buffer, offset: u64, bytes: u64) -> Result<Buffer, DeviceError> {
        let (offset, bytes) = (offset as usize, bytes as usize);
        if offset.checked_add(bytes).is_none_or(|end| end > buffer.bytes) {
            return Err(DeviceError::InvalidCall(format!("{bytes} bytes at {offset} of a buffer of {}", buffer.bytes)));
        }
        let offset = buffer.offset + offset;
        Ok(Buffer { buffer: buffer.buffer.clone(), offset, bytes, _mapped: buffer._mapped.clone() })
    }

    fn bind(&mut self, kernel: u32, buffers: &[&Buffer]) -> Result<Launch, DeviceError> {
        let Some((pipeline, threads)) = self.kernels.get(kernel as usize) else {
            return Err(DeviceError::InvalidCall(format!("kernel {kernel} is not in the library")));
        };
        let buffers = buffers.iter().map(|buffer| (buffer.buffer.clone(), buffer.offset)).collect();
        Ok(Launch { pipeline: pipeline.clone(), threads: *threads, buffers })
    }

    fn write(&mut self, buffer: &Buffer, bytes: &[u8]) -> Result<(), DeviceError> {
        if bytes.len() > buffer.bytes {
            return Err(DeviceError::InvalidCall(format!("{} bytes into a buffer of {}", bytes.len(), buffer.bytes)));
        }
        // SAFETY: inside the buffer, and the caller saw to it that nothing that runs reads it.
        unsafe { Self::start_of(buffer).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn read(&mut self, running: &mut VecDeque<Ticket>, buffer: &Buffer, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.wait_all(running)?;
        if bytes.len() > buffer.bytes {
            return Err(DeviceError::InvalidCall(format!("{} bytes from a buffer of {}", bytes.len(), buffer.bytes)));
        }
        // SAFETY: inside the buffer, and the GPU is done with it.
        unsafe { Self::start_of(buffer).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn submit(&mut self, launches: &[(Launch, KernelCall)], n: u32) -> Result<Ticket, DeviceError> {
        let failed = |status: &str| DeviceError::Driver {
            device: NAME,
            operation: "record the kernels",
            status: status.to_owned(),
        };
        let commands = self.device.queue().commandBuffer().ok_or_else(|| failed("no command buffer"))?;
        let encoder = commands.computeCommandEncoder().ok_or_else(|| failed("no encoder"))?;
        for (launch, grid) in launches.iter() {
            encode(&encoder, launch, grid, n);
        }
        encoder.endEncoding();
        commands.commit();
        Ok(Ticket(commands))
    }

    fn record(&mut self, _: &[(Launch, KernelCall)]) -> Option<Self::Recorded> {
        None
    }

    fn replay(&mut self, never: &Self::Recorded) -> Result<Ticket, DeviceError> {
        match *never {}
    }

    fn wait(&mut self, Ticket(commands): Ticket) -> Result<(), DeviceError> {
        commands.waitUntilCompleted();
        if commands.status() != MTLCommandBufferStatus::Error {
            return Ok(());
        }
        Err(match commands.error() {
            Some(error) => status::failure(error.code(), error.localizedDescription().to_string()),
            None => status::failure(0, "failed".to_owned()),
        })
    }
}

/// Records one launch. A compute encoder runs its launches one after the other.
fn encode(encoder: &ProtocolObject<dyn MTLComputeCommandEncoder>, launch: &Launch, grid: &KernelCall, n: u32) {
    encoder.setComputePipelineState(&launch.pipeline);
    for (index, (buffer, offset)) in launch.buffers.iter().enumerate() {
        // SAFETY: the offset is inside the buffer, which the validated plan made large enough for its operation.
        unsafe { encoder.setBuffer_offset_atIndex(Some(buffer), *offset, index) };
    }
    encoder.dispatchThreadgroups_threadsPerThreadgroup(size(grid.groups.map(|axis| axis.at(n))), launch.threads);
}
