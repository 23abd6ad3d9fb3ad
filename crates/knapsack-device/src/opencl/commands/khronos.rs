//! `cl_khr_command_buffer`: one buffer of launches, each of which waits for the one before it.

use super::Command;
use crate::opencl::api::{Api, Context, Event, RawDevice, RawEvent, RawPlatform, RawQueue};
use crate::opencl::status::{Status, check};
use std::ffi::c_void;
use std::ptr::{NonNull, null, null_mut};
use std::sync::Arc;

type RawCommands = *mut c_void;
type SyncPoint = u32;

pub(super) const EXTENSION: &str = "cl_khr_command_buffer";
/// `CL_DEVICE_COMMAND_BUFFER_REQUIRED_QUEUE_PROPERTIES_KHR`.
const REQUIRED_QUEUE_PROPERTIES: u32 = 0x12AA;

type Create = unsafe extern "C" fn(u32, *const RawQueue, *const u64, *mut i32) -> RawCommands;
type End = unsafe extern "C" fn(RawCommands) -> i32;
type Record = unsafe extern "C" fn(
    RawCommands,
    RawQueue,
    *const u64,
    *mut c_void,
    u32,
    *const usize,
    *const usize,
    *const usize,
    u32,
    *const SyncPoint,
    *mut SyncPoint,
    *mut c_void,
) -> i32;
type Start = unsafe extern "C" fn(u32, *mut RawQueue, RawCommands, u32, *const RawEvent, *mut RawEvent) -> i32;

/// The functions of the extension.
#[derive(Clone, Copy)]
pub(in crate::opencl) struct Functions {
    create: Create,
    record: Record,
    finalize: End,
    start: Start,
    release: End,
}

impl Functions {
    /// `None` where the device, which has the extension, does not record for a queue like ours.
    pub(super) fn load(api: &Api, platform: RawPlatform, device: RawDevice) -> Option<Self> {
        if api.device_number(device, REQUIRED_QUEUE_PROPERTIES) != Ok(0) {
            return None;
        }
        let find = |name: &std::ffi::CStr| api.extension(platform, name);
        // SAFETY: the extension's specification gives the functions of these names these C signatures.
        unsafe {
            Some(Functions {
                create: std::mem::transmute::<NonNull<c_void>, Create>(find(c"clCreateCommandBufferKHR")?),
                record: std::mem::transmute::<NonNull<c_void>, Record>(find(c"clCommandNDRangeKernelKHR")?),
                finalize: std::mem::transmute::<NonNull<c_void>, End>(find(c"clFinalizeCommandBufferKHR")?),
                start: std::mem::transmute::<NonNull<c_void>, Start>(find(c"clEnqueueCommandBufferKHR")?),
                release: std::mem::transmute::<NonNull<c_void>, End>(find(c"clReleaseCommandBufferKHR")?),
            })
        }
    }
}

/// A command buffer.
pub(in crate::opencl) struct Commands {
    context: Arc<Context>,
    functions: Functions,
    raw: RawCommands,
}

// SAFETY: a handle of a thread-safe object.
unsafe impl Send for Commands {}

impl Commands {
    /// # Safety
    /// As [`Context::launch`] for each, whenever these commands run.
    pub(super) unsafe fn record(
        context: &Arc<Context>,
        functions: Functions,
        launches: &[Command<'_>],
    ) -> Result<Self, Status> {
        let mut code = 0;
        let queue = context.queue();
        // SAFETY: one queue, no properties.
        let raw = unsafe { (functions.create)(1, &raw const queue, null(), &mut code) };
        check(code)?;
        let commands = Commands { context: context.clone(), functions, raw };
        let mut last: Option<SyncPoint> = None;
        for (kernel, groups, threads) in launches {
            let local = threads.map(|t| t as usize);
            let global = [0, 1, 2].map(|axis| groups[axis] as usize * local[axis]);
            let (waits, before) = last.as_ref().map_or((0, null()), |point| (1, std::ptr::from_ref(point)));
            let mut point = 0;
            // SAFETY: three dimensions, arrays of three; the one sync point to wait for, or none; the rest by the contract.
            check(unsafe {
                let (sizes, threads) = (global.as_ptr(), local.as_ptr());
                let record = functions.record;
                record(
                    raw,
                    null_mut(),
                    null(),
                    kernel.raw(),
                    3,
                    null(),
                    sizes,
                    threads,
                    waits,
                    before,
                    &mut point,
                    null_mut(),
                )
            })?;
            last = Some(point);
        }
        // SAFETY: the commands were just recorded.
        check(unsafe { (functions.finalize)(raw) }).map(|()| commands)
    }

    pub(super) fn start(&self) -> Result<Event, Status> {
        let mut event: RawEvent = null_mut();
        // SAFETY: the commands are final; on the queue that they were recorded for; no events to wait for, a place for one.
        check(unsafe { (self.functions.start)(0, null_mut(), self.raw, 0, null(), &raw mut event) })?;
        Ok(Event::of(event))
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        // SAFETY: releases the only reference, before the context goes.
        unsafe { (self.functions.release)(self.raw) };
        let _ = &self.context;
    }
}
