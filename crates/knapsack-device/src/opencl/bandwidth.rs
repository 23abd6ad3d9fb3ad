//! How fast the device reads its memory: what the speed of decoding is held against.

use super::backend::OpenClBackend;
use super::refused;
use crate::DeviceError;
use crate::gpu::Backend as _;
use crate::memory::Part;
use std::time::Instant;

/// Each thread reads 16 bytes next to its neighbours', eight times on its way, and leaves what keeps the reads from being left out.
const SOURCE: &str = "
__kernel void read_all(__global const uint4* from, __global uint* to) {
    uint4 sum = (uint4)(0);
    for (uint at = get_global_id(0); at < COUNT; at += 8 * get_global_size(0)) {
        for (uint i = 0; i < 8; i++) sum ^= from[at + i * get_global_size(0)];
    }
    to[get_global_id(0)] = sum.x ^ sum.y ^ sum.z ^ sum.w;
}
";
/// Bytes that are read, where the device has as many to spare: beyond its caches.
const BYTES: u64 = 512 << 20;
/// Threads of a work group, and bytes that all groups read in one turn of the loop.
const THREADS: u32 = 128;
const TURN: u64 = 64 << 20;
/// Times that all is read in one measurement, and measurements, of which the best counts.
const ROUNDS: usize = 4;
const PASSES: usize = 3;

/// Bytes per second.
pub(super) fn read(backend: &mut OpenClBackend) -> Result<f64, DeviceError> {
    let context = backend.context().clone();
    let info = backend.info();
    let (largest, free) = (info.largest_buffer, info.memory.saturating_sub(context.allocated()) / 2);
    let turn = TURN.min((largest.min(free) / 2).next_power_of_two() / 2).max(1 << 20);
    let mut bytes = BYTES.min(largest.min(free)).max(turn) / turn * turn;
    // Eight reads of 16 bytes a thread.
    let groups = (turn / 128 / u64::from(THREADS)) as u32;
    let to = backend.allocate(Part::Workspace, 4 * u64::from(groups * THREADS))?;
    // What a device says of its memory is more than a busy one gives.
    let from = loop {
        match backend.allocate(Part::Workspace, bytes) {
            Err(DeviceError::OutOfMemory { .. }) if bytes > turn => bytes = (bytes / 2).max(turn) / turn * turn,
            outcome => break outcome?,
        }
    };
    let program = context.build_source(SOURCE, &format!("-DCOUNT={}u", bytes / 16));
    let program = program.map_err(|error| refused("build the kernel that reads")(error.status))?;
    let kernel = context.kernel(&program, "read_all");
    context.release_program(program);
    let mut kernel = kernel.map_err(refused("find a kernel in its program"))?;
    let outcome = (|| {
        // SAFETY: the buffers outlive the launches, which are waited for below.
        unsafe {
            context.set_memory(&mut kernel, 0, from.memory())?;
            context.set_memory(&mut kernel, 1, to.memory())?;
        }
        let mut best = f64::INFINITY;
        for _ in 0..=PASSES {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                // SAFETY: both arguments are set; `COUNT` is what the first holds, and the second has a word for each thread.
                unsafe { context.launch(&kernel, [groups, 1, 1], [THREADS, 1, 1], false) }?;
            }
            context.finish()?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok((bytes * ROUNDS as u64) as f64 / best)
    })();
    context.release_kernel(&kernel);
    outcome.map_err(refused("measure how fast memory is read"))
}
