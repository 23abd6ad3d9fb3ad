//! A device that executes a library's GPU kernels on the CPU, compiled by clang from the very source that a phone would get.
//!
//! * Metal: the source is C++ to clang; `include/metal_stdlib` stands for Metal's library. It is first parsed with real address
//!   spaces, then compiled to run.
//! * OpenCL: the source is OpenCL C to clang, where address spaces are always real; `include/opencl_builtins.h` stands for the
//!   built-in functions.
//!
//! `runtime.cpp` runs the threads of a work group as fibers, in a chosen order. Memory is strict: every buffer of a launch lies
//! between guards that must not change, and reads beyond it (and in Metal of local memory never
//! written) give NaN.
#![allow(dead_code, reason = "each test binary uses a part")]

mod compile;

pub(crate) use compile::Compiler;

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{KernelModule, Target, Tiles};
use knapsack_artifact::plan::{KernelCall, ParameterId};
use knapsack_device::gpu::{Backend, GpuModel};
use knapsack_device::{Account, Device, DeviceError, LoadedModel, Part, Watch, WeightFiles, Weights};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

/// In which order the threads of a work group run between two barriers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Forward,
    Reverse,
    Shuffled,
}

/// One way of building and running kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variant {
    pub(crate) target: Target,
    pub(crate) fp16: bool,
    pub(crate) subgroups: bool,
    /// Threads of a subgroup; 32 on Metal.
    pub(crate) subgroup_size: u32,
    /// How products of many tokens are tiled, and whether they read packed codes through images.
    pub(crate) tiles: Tiles,
    pub(crate) images: bool,
    pub(crate) order: Order,
}

/// The stand-in device.
#[derive(Clone)]
pub(crate) struct Standin {
    pub(crate) variant: Variant,
    pub(crate) compiler: Arc<Compiler>,
}

impl Standin {
    /// `None`, said aloud, where there is no clang.
    pub(crate) fn new(variant: Variant) -> Option<Self> {
        Compiler::find().map(|compiler| Standin { variant, compiler: Arc::new(compiler) })
    }
}

impl Device for Standin {
    fn name(&self) -> &'static str {
        "standin"
    }

    fn description(&self) -> String {
        format!("{:?} by {}", self.variant, self.compiler.name())
    }

    fn target(&self) -> Target {
        self.variant.target
    }

    fn load_from(
        &self,
        library: Arc<ModelLibrary>,
        files: &dyn WeightFiles,
        watch: &dyn Watch,
    ) -> Result<Box<dyn LoadedModel>, DeviceError> {
        let weights = Weights::open(&library, files, &Account::default(), watch)?;
        let backend = StandinBackend { standin: self.clone(), program: None };
        Ok(Box::new(GpuModel::load(backend, library, weights, watch)?))
    }
}

/// Bytes before and after every buffer.
const GUARD: usize = 256;
/// As float, half and bfloat16: not a number.
const POISON: u8 = 0xff;

/// Memory in 64-bit words, so that it is aligned; shared by the regions of a buffer.
type Shared = Arc<Mutex<Vec<u8>>>;

pub(crate) struct Buffer {
    memory: Shared,
    offset: usize,
    bytes: usize,
}

pub(crate) struct Launch {
    kernel: u32,
    buffers: Vec<(Shared, usize, usize)>,
}

struct StandinBackend {
    standin: Standin,
    program: Option<(compile::Program, KernelModule)>,
}

fn fault(status: String) -> DeviceError {
    DeviceError::Driver { device: "standin", operation: "run a kernel", status }
}

impl Backend for StandinBackend {
    type Buffer = Buffer;
    type Launch = Launch;
    type Ticket = ();
    type Recorded = std::convert::Infallible;

    fn device(&self) -> &'static str {
        "standin"
    }

    fn target(&self) -> Target {
        self.standin.variant.target
    }

    fn largest_buffer(&self) -> u64 {
        u64::MAX
    }

    fn prepare(&mut self, _: &ModelLibrary, module: &KernelModule) -> Result<(), DeviceError> {
        let program = self
            .standin
            .compiler
            .compile(module, &self.standin.variant)
            .map_err(|log| DeviceError::KernelBuild { device: "standin", log })?;
        self.program = Some((program, module.clone()));
        Ok(())
    }

    fn allocate(&mut self, _: Part, bytes: u64) -> Result<Buffer, DeviceError> {
        // Not zeros: nothing may depend on what memory held.
        Ok(Buffer { memory: Arc::new(Mutex::new(vec![POISON; bytes as usize])), offset: 0, bytes: bytes as usize })
    }

    fn parameter(&mut self, weights: &Arc<Weights>, id: ParameterId) -> Result<Buffer, DeviceError> {
        let bytes = weights.get(id).to_vec();
        Ok(Buffer { offset: 0, bytes: bytes.len(), memory: Arc::new(Mutex::new(bytes)) })
    }

    fn region(&mut self, buffer: &Buffer, offset: u64, bytes: u64) -> Result<Buffer, DeviceError> {
        assert!(offset + bytes <= buffer.bytes as u64 && offset.is_multiple_of(256), "{bytes} at {offset}");
        Ok(Buffer { memory: buffer.memory.clone(), offset: offset as usize, bytes: bytes as usize })
    }

    fn bind(&mut self, kernel: u32, buffers: &[&Buffer]) -> Result<Launch, DeviceError> {
        let buffers = buffers.iter().map(|buffer| (buffer.memory.clone(), buffer.offset, buffer.bytes));
        Ok(Launch { kernel, buffers: buffers.collect() })
    }

    fn write(&mut self, buffer: &Buffer, bytes: &[u8]) -> Result<(), DeviceError> {
        buffer.memory.lock().unwrap()[buffer.offset..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, running: &mut VecDeque<()>, buffer: &Buffer, bytes: &mut [u8]) -> Result<(), DeviceError> {
        running.clear();
        bytes.copy_from_slice(&buffer.memory.lock().unwrap()[buffer.offset..][..bytes.len()]);
        Ok(())
    }

    fn submit(&mut self, launches: &[(Launch, KernelCall)], n: u32) -> Result<(), DeviceError> {
        let (program, module) = self.program.as_ref().expect("prepared");
        for (launch, grid) in launches {
            let kernel = &module.kernels[launch.kernel as usize];
            let groups = grid.groups.map(|axis| axis.at(n));
            let images = if self.standin.variant.images { &kernel.images[..] } else { &[] };
            let mut guarded = Guarded::copy_in(&launch.buffers);
            let threads = kernel.threads.iter().product();
            program
                .run(launch.kernel, &mut guarded.pointers(images), threads, groups, &self.standin.variant)
                .map_err(|problem| fault(format!("{}: {problem}", kernel.name)))?;
            guarded
                .copy_out(&launch.buffers)
                .map_err(|index| fault(format!("{} wrote beyond argument {index}", kernel.name)))?;
        }
        Ok(())
    }

    fn record(&mut self, _: &[(Launch, KernelCall)]) -> Option<Self::Recorded> {
        None
    }

    fn replay(&mut self, never: &Self::Recorded) -> Result<(), DeviceError> {
        match *never {}
    }

    fn wait(&mut self, (): ()) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// Copies of a launch's buffers, each between guards. Arguments that are the same buffer share a copy.
struct Guarded {
    copies: Vec<Vec<u64>>,
    /// For each argument its copy.
    of: Vec<usize>,
    /// Bytes of each argument.
    sizes: Vec<usize>,
    /// Where copies that are images begin, and their bytes.
    images: Vec<[u64; 2]>,
}

impl Guarded {
    fn copy_in(buffers: &[(Shared, usize, usize)]) -> Self {
        let mut known = HashMap::new();
        let mut new = Guarded { copies: Vec::new(), of: Vec::new(), sizes: Vec::new(), images: Vec::new() };
        for (memory, offset, bytes) in buffers {
            let key = (Arc::as_ptr(memory), *offset, *bytes);
            let index = *known.entry(key).or_insert_with(|| {
                let mut copy = vec![u64::MAX; (bytes.next_multiple_of(8) + 2 * GUARD) / 8];
                let source = &memory.lock().unwrap()[*offset..][..*bytes];
                as_bytes(&mut copy)[GUARD..][..*bytes].copy_from_slice(source);
                new.copies.push(copy);
                new.copies.len() - 1
            });
            new.of.push(index);
            new.sizes.push(*bytes);
        }
        new
    }

    fn pointers(&mut self, images: &[u32]) -> Vec<*mut u8> {
        let starts: Vec<_> = self.copies.iter_mut().map(|copy| as_bytes(copy)[GUARD..].as_mut_ptr()).collect();
        let mut pointers: Vec<_> = self.of.iter().map(|&index| starts[index]).collect();
        let of = |&argument: &u32| [pointers[argument as usize] as u64, self.sizes[argument as usize] as u64];
        self.images = images.iter().map(of).collect();
        for (&argument, image) in images.iter().zip(&mut self.images) {
            pointers[argument as usize] = image.as_mut_ptr().cast();
        }
        pointers
    }

    /// The index of the argument whose guards changed is the error.
    fn copy_out(&mut self, buffers: &[(Shared, usize, usize)]) -> Result<(), usize> {
        for (argument, ((memory, offset, bytes), &index)) in buffers.iter().zip(&self.of).enumerate() {
            let copy = as_bytes(&mut self.copies[index]);
            let (before, rest) = copy.split_at(GUARD);
            let (content, after) = rest.split_at(*bytes);
            if before.iter().chain(after).any(|&byte| byte != POISON) {
                return Err(argument);
            }
            memory.lock().unwrap()[*offset..][..*bytes].copy_from_slice(content);
        }
        Ok(())
    }
}

fn as_bytes(words: &mut [u64]) -> &mut [u8] {
    bytemuck::cast_slice_mut(words)
}
