//! OpenCL under the GPU executor.

use super::api::{BuildError, Context, Event, Kernel, Memory, PIXEL_BYTES, Program};
use super::commands::Commands;
use super::status::Status;
use super::{NAME, OpenClDevice, OpenClInfo, bandwidth, cache, refused};
use crate::gpu::Backend;
use crate::memory::Part;
use crate::{DeviceError, Weights};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{KernelModule, Parameter, Target, Tiles};
use knapsack_artifact::plan::{KernelCall, ParameterId};
use knapsack_tensor::DType;
use std::collections::VecDeque;
use std::sync::Arc;

/// Local memory that two tiles of products of many tokens take at most, in half precision.
const TWO_TILES: u64 = 24 << 10;

/// Bytes that a kernel counts in where its part of a buffer begins.
const PIECE: u64 = 16;

/// Options of every build: nothing that changes results beyond the contraction of multiply and add.
const BUILD_OPTIONS: &str = "-cl-mad-enable";

/// Device memory, or a part of some; each has a share in the memory and releases it.
pub(super) struct Buffer {
    context: Arc<Context>,
    memory: Memory,
    /// Where it begins in the memory.
    start: usize,
    bytes: usize,
    /// Bytes that it gives back: all, or none for a region.
    allocated: usize,
}

// SAFETY: a handle of a thread-safe object.
unsafe impl Send for Buffer {}

impl Buffer {
    pub(super) const fn memory(&self) -> Memory {
        self.memory
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the handle is this buffer's own.
        unsafe { self.context.release_memory(self.memory, self.allocated) };
    }
}

/// A kernel object with its buffers set.
pub(super) struct Launch {
    context: Arc<Context>,
    kernel: Kernel,
    threads: [u32; 3],
    /// Views of its buffers.
    images: Vec<Buffer>,
}

impl Drop for Launch {
    fn drop(&mut self) {
        self.context.release_kernel(&self.kernel);
    }
}

/// Bytes of a write that is not waited for: inputs of a token, which go with the kernels that read them.
const SMALL_WRITE: usize = 64 << 10;

/// A write under way, with what it copies from.
struct Writing {
    context: Arc<Context>,
    event: Event,
    ended: bool,
    _bytes: Box<[u8]>,
}

impl Writing {
    fn wait(&mut self) -> Result<(), DeviceError> {
        self.ended = true;
        self.context.wait(&self.event).map_err(refused("write a buffer"))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // The copy must have ended before the bytes go.
        if !self.ended {
            let _ = self.wait();
        }
        self.context.release_event(&self.event);
    }
}

/// The event of a submission's last kernel, and the writes before it; the queue is in order.
pub(super) struct Ticket {
    context: Arc<Context>,
    event: Event,
    writes: Vec<Writing>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.context.release_event(&self.event);
    }
}

/// The program of one model.
struct Built {
    context: Arc<Context>,
    /// `Some` until it is dropped.
    program: Option<Program>,
    module: KernelModule,
    /// Whether its kernels take images where they can.
    images: bool,
}

impl Drop for Built {
    fn drop(&mut self) {
        if let Some(program) = self.program.take() {
            self.context.release_program(program);
        }
    }
}

pub(super) struct OpenClBackend {
    device: OpenClDevice,
    built: Option<Built>,
    /// Writes that the next submission takes with it.
    writes: Vec<Writing>,
}

impl OpenClBackend {
    pub(super) fn new(device: OpenClDevice) -> Self {
        OpenClBackend { device, built: None, writes: Vec::new() }
    }

    pub(super) const fn info(&self) -> &OpenClInfo {
        &self.device.info
    }

    pub(super) const fn context(&self) -> &Arc<Context> {
        &self.device.context
    }

    /// Whether products of many tokens of this library can read their packed codes through images.
    fn has_images(&mut self, library: &ModelLibrary, tiles: Tiles) -> bool {
        let (info, options) = (&self.device.info, &self.device.options);
        let codes = library.parameters.iter().filter(|parameter| parameter.dtype == DType::U32);
        let largest = codes.filter_map(Parameter::bytes).max().unwrap_or(0).div_ceil(PIXEL_BYTES as u64);
        if !options.images.unwrap_or(true) || tiles != Tiles::Local || largest > info.image_pixels {
            return false;
        }
        // What a driver says of images is one thing, what it makes another.
        let Ok(buffer) = self.allocate_uncleared(Part::Workspace, PIXEL_BYTES as u64) else { return false };
        self.image(&buffer).is_ok()
    }

    /// Build options, the ones that use most of the device first, and whether they make kernels take images. A driver that fails with
    /// subgroups, which OpenCL C 1.2 only knows as an extension, or with images still works without them.
    fn variants(&mut self, library: &ModelLibrary) -> Vec<(String, bool)> {
        let (info, options) = (&self.device.info, &self.device.options);
        let tiles = if info.local_apart { Tiles::Local } else { Tiles::Registers };
        let tiles = options.tiles.unwrap_or(tiles);
        let fp16 = options.fp16.unwrap_or(info.fp16);
        let buffers = if fp16 && info.local_memory >= TWO_TILES { 2 } else { 1 };
        let (fp16, number) = (u8::from(fp16), tiles.switch());
        let common = format!(
            "-DKNAPSACK_OFFSETS=1 -DKNAPSACK_FP16={fp16} -DKNAPSACK_TILES={number} -DKNAPSACK_BUFFERS={buffers}"
        );
        let plain = format!("{BUILD_OPTIONS} {common} -DKNAPSACK_SUBGROUPS=0");
        let mut forms = vec![plain];
        if options.subgroups.unwrap_or(info.subgroups) {
            let language = if info.language.starts_with("OpenCL C 3") {
                " -cl-std=CL3.0"
            } else if info.language.starts_with("OpenCL C 2") {
                " -cl-std=CL2.0"
            } else {
                ""
            };
            let with = format!("{BUILD_OPTIONS}{language} {common} -DKNAPSACK_SUBGROUPS=1");
            if info.pins_subgroups {
                forms.insert(0, format!("{with} -DKNAPSACK_QCOM=1"));
            }
            forms.insert(forms.len() - 1, with);
        }
        let images = self.has_images(library, tiles);
        let with = forms.iter().filter(|_| images).map(|form| (format!("{form} -DKNAPSACK_IMAGES=1"), true));
        let without = forms.iter().map(|form| (form.clone(), false));
        with.chain(without).collect()
    }

    fn build(&self, source: &str, options: &str) -> Result<Program, BuildError> {
        let info = &self.device.info;
        let parts: [&str; 6] = [&info.platform, &info.name, &info.version, &info.driver, options, source];
        let file = self.device.options.cache.as_ref().map(|folder| cache::file(folder, &parts));
        if let Some(program) = file.as_deref().and_then(cache::read).and_then(|binary| {
            // A binary that the driver refuses is built again from source.
            self.context().build_binary(&binary, options).ok()
        }) {
            return Ok(program);
        }
        let program = self.context().build_source(source, options)?;
        if let (Some(file), Ok(binary)) = (&file, self.context().binary(&program)) {
            cache::write(file, &binary);
        }
        Ok(program)
    }

    /// A view of a buffer as an image.
    fn image(&self, buffer: &Buffer) -> Result<Buffer, DeviceError> {
        // SAFETY: the buffer is alive, with this many bytes.
        let memory = unsafe { self.context().image(buffer.memory, buffer.bytes) };
        let memory = memory.map_err(refused("view a buffer as an image"))?;
        Ok(Buffer { context: self.context().clone(), memory, start: 0, bytes: buffer.bytes, allocated: 0 })
    }

    /// The arguments of a kernel that are images.
    fn images(&self, index: u32) -> &[u32] {
        let built = self.built.as_ref().filter(|built| built.images);
        built.and_then(|built| built.module.kernels.get(index as usize)).map_or(&[], |kernel| &kernel.images)
    }

    fn kernel(&self, index: u32) -> Result<(Kernel, [u32; 3]), DeviceError> {
        let built = self.built.as_ref().and_then(|built| Some((built.program.as_ref()?, &built.module)));
        let entry = built.and_then(|(program, module)| Some((program, module.kernels.get(index as usize)?)));
        let Some((program, entry)) = entry else {
            return Err(DeviceError::InvalidCall(format!("kernel {index} is not in the library")));
        };
        let kernel = self.context().kernel(program, &entry.name).map_err(refused("find a kernel in its program"))?;
        Ok((kernel, entry.threads))
    }

    /// Every kernel must fit the device with its work group.
    fn check_needs(&self, module: &KernelModule) -> Result<(), DeviceError> {
        let info = &self.device.info;
        for (index, entry) in module.kernels.iter().enumerate() {
            let (kernel, threads) = self.kernel(index as u32)?;
            let needs = self.context().kernel_needs(&kernel);
            self.context().release_kernel(&kernel);
            let (most, local) = needs.map_err(refused("inspect a kernel"))?;
            let (most, wanted) =
                (info.threads.min(most as u64), threads.iter().map(|&t| u64::from(t)).product::<u64>());
            if wanted > most {
                let reason = format!("kernel {} needs work groups of {wanted} threads, at most {most} fit", entry.name);
                return Err(super::unavailable(reason));
            }
            if local > info.local_memory {
                let (name, most) = (&entry.name, info.local_memory);
                let reason = format!("kernel {name} needs {local} bytes of local memory, there are {most}");
                return Err(super::unavailable(reason));
            }
        }
        Ok(())
    }
}

impl OpenClBackend {
    /// Has the device begin with what was enqueued, of which this is the last event.
    fn begin(&mut self, event: Event) -> Result<Ticket, DeviceError> {
        let ticket = Ticket { context: self.context().clone(), event, writes: std::mem::take(&mut self.writes) };
        self.context().flush().map_err(refused("start the kernels"))?;
        Ok(ticket)
    }

    fn allocate_uncleared(&self, part: Part, bytes: u64) -> Result<Buffer, DeviceError> {
        let out_of_memory = || DeviceError::OutOfMemory { what: part.name(), bytes };
        if self.context().allocated().saturating_add(bytes) > self.device.info.memory {
            return Err(out_of_memory());
        }
        let bytes = usize::try_from(bytes).map_err(|_| out_of_memory())?;
        let memory = self.context().buffer(bytes).map_err(memory_error(part, bytes))?;
        Ok(Buffer { context: self.context().clone(), memory, start: 0, bytes, allocated: bytes })
    }
}

/// Refusals while memory is allocated or first touched.
fn memory_error(part: Part, bytes: usize) -> impl Fn(Status) -> DeviceError {
    move |status| match status.is_out_of_memory() {
        true => DeviceError::OutOfMemory { what: part.name(), bytes: bytes as u64 },
        false => refused("allocate memory")(status),
    }
}

impl Backend for OpenClBackend {
    type Buffer = Buffer;
    type Launch = Launch;
    type Ticket = Ticket;
    type Recorded = Commands;

    fn device(&self) -> &'static str {
        NAME
    }

    fn target(&self) -> Target {
        Target::OpenCl
    }

    fn largest_buffer(&self) -> u64 {
        self.device.info.largest_buffer
    }

    fn prepare(&mut self, library: &ModelLibrary, module: &KernelModule) -> Result<(), DeviceError> {
        let mut failure = None;
        for (options, images) in self.variants(library) {
            match self.build(&module.source, &options) {
                Ok(program) => {
                    let context = self.context().clone();
                    self.built = Some(Built { context, program: Some(program), module: module.clone(), images });
                    return self.check_needs(module);
                }
                Err(error) => {
                    log::warn!("the kernels do not build with {options}: {}", error.status);
                    failure = Some((options, error));
                }
            }
        }
        let (options, error) = failure.expect("there is at least one variant");
        let log = format!("{} with {options}\n{}", error.status, error.log);
        Err(DeviceError::KernelBuild { device: NAME, log })
    }

    fn allocate(&mut self, part: Part, bytes: u64) -> Result<Buffer, DeviceError> {
        let buffer = self.allocate_uncleared(part, bytes)?;
        // SAFETY: the buffer was just made with this many bytes.
        unsafe { self.context().clear(buffer.memory, buffer.bytes) }.map_err(memory_error(part, buffer.bytes))?;
        Ok(buffer)
    }

    fn parameter(&mut self, weights: &Arc<Weights>, id: ParameterId) -> Result<Buffer, DeviceError> {
        let bytes = weights.get(id);
        let buffer = self.allocate_uncleared(Part::Weights, bytes.len() as u64)?;
        // SAFETY: the buffer was just made with this many bytes.
        unsafe { self.context().write(buffer.memory, 0, bytes) }.map_err(memory_error(Part::Weights, bytes.len()))?;
        Ok(buffer)
    }

    fn region(&mut self, buffer: &Buffer, offset: u64, bytes: u64) -> Result<Buffer, DeviceError> {
        let (start, bytes) = (offset as usize, bytes as usize);
        if !offset.is_multiple_of(PIECE) || start.checked_add(bytes).is_none_or(|end| end > buffer.bytes) {
            return Err(DeviceError::InvalidCall(format!("{bytes} bytes at {offset} of a buffer of {}", buffer.bytes)));
        }
        // SAFETY: the buffer is alive.
        unsafe { self.context().retain_memory(buffer.memory) }.map_err(refused("share a buffer"))?;
        Ok(Buffer {
            context: self.context().clone(),
            memory: buffer.memory,
            start: buffer.start + start,
            bytes,
            allocated: 0,
        })
    }

    fn bind(&mut self, kernel: u32, buffers: &[&Buffer]) -> Result<Launch, DeviceError> {
        let images = self.images(kernel).to_vec();
        let (kernel, threads) = self.kernel(kernel)?;
        let mut launch = Launch { context: self.context().clone(), kernel, threads, images: Vec::new() };
        let mut argument = 0;
        for (index, buffer) in (0..).zip(buffers) {
            let is_image = images.contains(&index);
            let memory = if is_image {
                launch.images.push(self.image(buffer)?);
                launch.images.last().expect("it was just pushed").memory
            } else {
                buffer.memory
            };
            // SAFETY: a model's buffers outlive its launches, which keep their images.
            unsafe { self.device.context.set_memory(&mut launch.kernel, argument, memory) }
                .map_err(refused("set a kernel's buffer"))?;
            argument += 1;
            if !is_image {
                let start = u32::try_from(buffer.start as u64 / PIECE)
                    .map_err(|_| DeviceError::InvalidCall(format!("a region at {}, too far", buffer.start)))?;
                self.device
                    .context
                    .set_number(&mut launch.kernel, argument, start)
                    .map_err(refused("set where a kernel's buffer begins"))?;
                argument += 1;
            }
        }
        Ok(launch)
    }

    fn write(&mut self, buffer: &Buffer, bytes: &[u8]) -> Result<(), DeviceError> {
        if bytes.len() > buffer.bytes {
            return Err(DeviceError::InvalidCall(format!("{} bytes into a buffer of {}", bytes.len(), buffer.bytes)));
        }
        if bytes.is_empty() || bytes.len() > SMALL_WRITE {
            // SAFETY: the buffer is alive and large enough.
            return unsafe { self.context().write(buffer.memory, buffer.start, bytes) }
                .map_err(refused("write a buffer"));
        }
        let context = self.context().clone();
        let kept: Box<[u8]> = bytes.into();
        // SAFETY: the buffer is alive and large enough; the bytes are kept until the write has ended.
        let event =
            unsafe { context.start_write(buffer.memory, buffer.start, &kept) }.map_err(refused("write a buffer"))?;
        self.writes.push(Writing { context, event, ended: false, _bytes: kept });
        Ok(())
    }

    fn read(&mut self, running: &mut VecDeque<Ticket>, buffer: &Buffer, bytes: &mut [u8]) -> Result<(), DeviceError> {
        if bytes.len() > buffer.bytes {
            return Err(DeviceError::InvalidCall(format!("{} bytes from a buffer of {}", bytes.len(), buffer.bytes)));
        }
        // The queue is in order: reading waits for what was submitted, whose tickets then only have to be looked at.
        // SAFETY: the buffer is alive and large enough.
        let read = unsafe { self.context().read(buffer.memory, buffer.start, bytes) };
        self.wait_all(running)?;
        read.map_err(refused("read a buffer"))
    }

    fn submit(&mut self, launches: &[(Launch, KernelCall)], n: u32) -> Result<Ticket, DeviceError> {
        let mut last = None;
        let count = launches.len();
        for (index, (launch, grid)) in launches.iter().enumerate() {
            let groups = grid.groups.map(|axis| axis.at(n));
            // SAFETY: every argument is set, to buffers that the validated plan made large enough for its operation.
            last = unsafe { self.device.context.launch(&launch.kernel, groups, launch.threads, index + 1 == count) }
                .map_err(refused("launch a kernel"))?;
        }
        let Some(event) = last else { return Err(DeviceError::InvalidCall("nothing to submit".to_owned())) };
        self.begin(event)
    }

    fn record(&mut self, launches: &[(Launch, KernelCall)]) -> Option<Commands> {
        if !self.device.options.recorded.unwrap_or(true) {
            return None;
        }
        let commands = launches.iter().map(|(launch, grid)| {
            let groups = grid.groups.map(|axis| axis.at(1));
            (&launch.kernel, groups, launch.threads)
        });
        // SAFETY: as in `submit`; a model's launches outlive what is recorded of them.
        let recorded = unsafe { Commands::record(self.context(), &commands.collect::<Vec<_>>()) }?;
        recorded.map_err(|status| log::warn!("launches are not recorded: {status}")).ok()
    }

    fn replay(&mut self, recorded: &Commands) -> Result<Ticket, DeviceError> {
        let event = recorded.start().map_err(refused("start recorded kernels"))?;
        self.begin(event)
    }

    fn wait(&mut self, mut ticket: Ticket) -> Result<(), DeviceError> {
        self.context().wait(&ticket.event).map_err(refused("run the kernels"))?;
        ticket.writes.iter_mut().try_for_each(Writing::wait)
    }

    fn read_bandwidth(&mut self) -> Result<Option<f64>, DeviceError> {
        bandwidth::read(self).map(Some)
    }
}
