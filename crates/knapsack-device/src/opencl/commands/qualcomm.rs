//! `cl_qcom_recordable_queues`, as the header `CL/cl_ext_qcom.h` of Qualcomm's OpenCL SDK declares it: what is enqueued on a queue of a
//! kind of its own is not run but recorded, and a recording runs on any other queue. A recording has a largest size, so there may be
//! several.

use super::Command;
use crate::opencl::api::{Api, Context, Event, RawDevice, RawEvent, RawPlatform, RawQueue};
use crate::opencl::status::{Status, check};
use std::ffi::c_void;
use std::ptr::{NonNull, null, null_mut};
use std::sync::Arc;

type RawRecording = *mut c_void;

pub(super) const EXTENSION: &str = "cl_qcom_recordable_queues";
/// `CL_DEVICE_RECORDABLE_QUEUE_MAX_SIZE`: launches of a recording.
const LARGEST: u32 = 0x41DE;
/// `CL_QUEUE_RECORDABLE_QCOM`. Drivers refuse it beside other properties.
const RECORDABLE: u64 = 1 << 30;

type New = unsafe extern "C" fn(RawQueue, *mut i32) -> RawRecording;
type End = unsafe extern "C" fn(RawRecording) -> i32;
/// Four lists of what differs from what was recorded (arguments, offsets, global and local sizes) come between a recording and the
/// events to wait for.
type Start = unsafe extern "C" fn(
    RawQueue,
    RawRecording,
    usize,
    *const c_void,
    usize,
    *const c_void,
    usize,
    *const c_void,
    usize,
    *const c_void,
    u32,
    *const RawEvent,
    *mut RawEvent,
) -> i32;

/// The functions of the extension.
#[derive(Clone, Copy)]
pub(in crate::opencl) struct Functions {
    new: New,
    end: End,
    start: Start,
    release: End,
    /// Launches of a recording, at most.
    largest: usize,
}

impl Functions {
    /// `None` where the driver of the device, which has the extension, lacks a part of it.
    pub(super) fn load(api: &Api, platform: RawPlatform, device: RawDevice) -> Option<Self> {
        let largest = api.device_number(device, LARGEST).ok().filter(|&launches| launches > 0)?;
        let find = |name: &std::ffi::CStr| api.extension(platform, name);
        // SAFETY: the extension's header gives the functions of these names these C signatures.
        unsafe {
            Some(Functions {
                new: std::mem::transmute::<NonNull<c_void>, New>(find(c"clNewRecordingQCOM")?),
                end: std::mem::transmute::<NonNull<c_void>, End>(find(c"clEndRecordingQCOM")?),
                start: std::mem::transmute::<NonNull<c_void>, Start>(find(c"clEnqueueRecordingQCOM")?),
                release: std::mem::transmute::<NonNull<c_void>, End>(find(c"clReleaseRecordingQCOM")?),
                largest: usize::try_from(largest).ok()?,
            })
        }
    }
}

/// Recordings, each started after the one before it.
pub(in crate::opencl) struct Commands {
    context: Arc<Context>,
    functions: Functions,
    /// What they were recorded on.
    queue: RawQueue,
    recordings: Vec<RawRecording>,
}

// SAFETY: handles of thread-safe objects.
unsafe impl Send for Commands {}

impl Commands {
    /// # Safety
    /// As [`Context::launch`] for each, whenever these commands run.
    pub(super) unsafe fn record(
        context: &Arc<Context>,
        functions: Functions,
        launches: &[Command<'_>],
    ) -> Result<Self, Status> {
        let queue = context.make_queue(RECORDABLE)?;
        let mut commands = Commands { context: context.clone(), functions, queue, recordings: Vec::new() };
        for launches in launches.chunks(functions.largest) {
            let mut code = 0;
            // SAFETY: a recordable queue, on which nothing is being recorded.
            let recording = unsafe { (functions.new)(queue, &mut code) };
            check(code)?;
            commands.recordings.push(recording);
            for (kernel, groups, threads) in launches {
                // SAFETY: by the contract.
                unsafe { context.enqueue(queue, kernel, *groups, *threads, false) }?;
            }
            // SAFETY: a recording that was begun, and not ended.
            check(unsafe { (functions.end)(recording) })?;
        }
        Ok(commands)
    }

    pub(super) fn start(&self) -> Result<Event, Status> {
        let mut event: RawEvent = null_mut();
        for (index, &recording) in self.recordings.iter().enumerate() {
            let last = index + 1 == self.recordings.len();
            let place = if last { &raw mut event } else { null_mut() };
            let queue = self.context.queue();
            // SAFETY: an ended recording, on the queue in order; empty lists, no events to wait for, a place for one or none.
            check(unsafe {
                let start = self.functions.start;
                start(queue, recording, 0, null(), 0, null(), 0, null(), 0, null(), 0, null(), place)
            })?;
        }
        Ok(Event::of(event))
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        for &recording in &self.recordings {
            // SAFETY: releases the only reference.
            unsafe { (self.functions.release)(recording) };
        }
        // SAFETY: the queue is these commands' own, and their recordings are gone.
        unsafe { self.context.release_queue(self.queue) };
    }
}
