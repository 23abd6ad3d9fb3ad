//! The part of the OpenCL 1.2 C interface that is used, loaded at run time: phones have no library to link against, and many
//! machines none at all.

use super::commands::Recorder;
use super::status::{Status, check};
use crate::DeviceError;
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::PathBuf;
use std::ptr::{NonNull, null, null_mut};
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) type RawPlatform = *mut c_void;
pub(super) type RawDevice = *mut c_void;
type RawContext = *mut c_void;
pub(super) type RawQueue = *mut c_void;
type RawProgram = *mut c_void;
type RawKernel = *mut c_void;
type RawMemory = *mut c_void;
pub(super) type RawEvent = *mut c_void;
/// `cl_uint` and friends.
pub(super) type Name = u32;

/// `cl_context_properties`, `CL_CONTEXT_PLATFORM`.
const CONTEXT_PLATFORM: isize = 0x1084;
pub(super) const DEVICE_TYPE_ALL: u64 = 0xFFFF_FFFF;
const QUEUE_PROPERTIES: u64 = 0x1093;
const MEM_READ_WRITE: u64 = 1;
const MEM_READ_ONLY: u64 = 4;
const MEM_OBJECT_IMAGE1D_BUFFER: Name = 0x10F6;
const PROGRAM_BINARY_SIZES: Name = 0x1165;
const PROGRAM_BINARIES: Name = 0x1166;
const PROGRAM_BUILD_LOG: Name = 0x1183;
const KERNEL_WORK_GROUP_SIZE: Name = 0x11B0;
const KERNEL_LOCAL_MEM_SIZE: Name = 0x11B2;
const EVENT_COMMAND_EXECUTION_STATUS: Name = 0x11D3;
const TRUE: u32 = 1;
const FALSE: u32 = 0;

/// `cl_image_format`: `CL_RGBA` of `CL_UNSIGNED_INT32`, 16 bytes a pixel.
static PIXEL: [Name; 2] = [0x10B5, 0x10DC];
/// Bytes of a [`PIXEL`].
pub(super) const PIXEL_BYTES: usize = 16;

/// `cl_image_desc`.
#[repr(C)]
struct ImageDescription {
    kind: Name,
    /// Width, height, depth, array size, row pitch, slice pitch.
    sizes: [usize; 6],
    mip_levels: u32,
    samples: u32,
    memory: RawMemory,
}

type Info<T> = unsafe extern "C" fn(T, Name, usize, *mut c_void, *mut usize) -> i32;
type Release = unsafe extern "C" fn(*mut c_void) -> i32;
type Notify = *const c_void;
/// Of OpenCL 2.0: a list of names and values, which ends with 0.
type CreateQueueWith = unsafe extern "C" fn(RawContext, RawDevice, *const u64, *mut i32) -> RawQueue;
type GetExtension = unsafe extern "C" fn(RawPlatform, *const c_char) -> *mut c_void;

macro_rules! functions {
    ($($field:ident: $symbol:literal = $type:ty;)*) => {
        /// The loaded functions.
        struct Functions {
            $($field: $type,)*
            get_extension: Option<GetExtension>,
            create_queue_with: Option<CreateQueueWith>,
        }

        impl Functions {
            /// The name of the first function that the library lacks is the error.
            fn load(library: &Library) -> Result<Self, &'static CStr> {
                let way = Way::of(library);
                let get_extension = way.find(c"clGetExtensionFunctionAddressForPlatform");
                let create_queue_with = way.find(c"clCreateCommandQueueWithProperties");
                Ok(Functions {
                    // SAFETY: as below.
                    get_extension: get_extension.map(|address| unsafe {
                        std::mem::transmute::<NonNull<c_void>, GetExtension>(address)
                    }),
                    // SAFETY: as below.
                    create_queue_with: create_queue_with.map(|address| unsafe {
                        std::mem::transmute::<NonNull<c_void>, CreateQueueWith>(address)
                    }),
                    $($field: {
                        let address = way.find($symbol).ok_or($symbol)?;
                        // SAFETY: the OpenCL specification gives the function of this name this C signature.
                        unsafe { std::mem::transmute::<NonNull<c_void>, $type>(address) }
                    },)*
                })
            }
        }
    };
}

/// How a library gives its functions.
enum Way<'a> {
    /// By exporting them.
    Exported(&'a Library),
    /// Through a function: `libOpenCL-pixel.so`, the library of Google's phones, exports only `enableOpenCL`, which loads the
    /// driver, and `loadOpenCLPointer`, which finds a function by its name.
    Asked(unsafe extern "C" fn(*const c_char) -> *mut c_void),
}

impl<'a> Way<'a> {
    fn of(library: &'a Library) -> Self {
        // SAFETY: a library that has both names is Google's, whose functions have these signatures.
        unsafe {
            let enable = library.get::<unsafe extern "C" fn()>(b"enableOpenCL\0");
            let find = library.get::<unsafe extern "C" fn(*const c_char) -> *mut c_void>(b"loadOpenCLPointer\0");
            match (enable, find) {
                (Ok(enable), Ok(find)) => {
                    enable();
                    Way::Asked(*find)
                }
                _ => Way::Exported(library),
            }
        }
    }

    /// The function of that name.
    fn find(&self, name: &CStr) -> Option<NonNull<c_void>> {
        match self {
            // SAFETY: only the address is looked at here.
            Way::Exported(library) => NonNull::new(*unsafe { library.get::<*mut c_void>(name.to_bytes()) }.ok()?),
            // SAFETY: a C string, which the function only reads.
            Way::Asked(find) => NonNull::new(unsafe { find(name.as_ptr()) }),
        }
    }
}

functions! {
    get_platform_ids: c"clGetPlatformIDs" = unsafe extern "C" fn(u32, *mut RawPlatform, *mut u32) -> i32;
    get_platform_info: c"clGetPlatformInfo" = Info<RawPlatform>;
    get_device_ids: c"clGetDeviceIDs" =
        unsafe extern "C" fn(RawPlatform, u64, u32, *mut RawDevice, *mut u32) -> i32;
    get_device_info: c"clGetDeviceInfo" = Info<RawDevice>;
    create_context: c"clCreateContext" =
        unsafe extern "C" fn(*const isize, u32, *const RawDevice, Notify, *mut c_void, *mut i32) -> RawContext;
    release_context: c"clReleaseContext" = Release;
    create_queue: c"clCreateCommandQueue" =
        unsafe extern "C" fn(RawContext, RawDevice, u64, *mut i32) -> RawQueue;
    release_queue: c"clReleaseCommandQueue" = Release;
    create_buffer: c"clCreateBuffer" =
        unsafe extern "C" fn(RawContext, u64, usize, *mut c_void, *mut i32) -> RawMemory;
    retain_memory: c"clRetainMemObject" = Release;
    create_image: c"clCreateImage" = unsafe extern "C" fn(
        RawContext, u64, *const [Name; 2], *const ImageDescription, *mut c_void, *mut i32,
    ) -> RawMemory;
    release_memory: c"clReleaseMemObject" = Release;
    program_from_source: c"clCreateProgramWithSource" =
        unsafe extern "C" fn(RawContext, u32, *const *const c_char, *const usize, *mut i32) -> RawProgram;
    program_from_binary: c"clCreateProgramWithBinary" = unsafe extern "C" fn(
        RawContext, u32, *const RawDevice, *const usize, *const *const u8, *mut i32, *mut i32,
    ) -> RawProgram;
    build_program: c"clBuildProgram" =
        unsafe extern "C" fn(RawProgram, u32, *const RawDevice, *const c_char, Notify, *mut c_void) -> i32;
    get_program_info: c"clGetProgramInfo" = Info<RawProgram>;
    get_build_info: c"clGetProgramBuildInfo" =
        unsafe extern "C" fn(RawProgram, RawDevice, Name, usize, *mut c_void, *mut usize) -> i32;
    release_program: c"clReleaseProgram" = Release;
    create_kernel: c"clCreateKernel" = unsafe extern "C" fn(RawProgram, *const c_char, *mut i32) -> RawKernel;
    release_kernel: c"clReleaseKernel" = Release;
    set_kernel_arg: c"clSetKernelArg" = unsafe extern "C" fn(RawKernel, u32, usize, *const c_void) -> i32;
    get_work_group_info: c"clGetKernelWorkGroupInfo" =
        unsafe extern "C" fn(RawKernel, RawDevice, Name, usize, *mut c_void, *mut usize) -> i32;
    enqueue_kernel: c"clEnqueueNDRangeKernel" = unsafe extern "C" fn(
        RawQueue, RawKernel, u32, *const usize, *const usize, *const usize, u32, *const RawEvent, *mut RawEvent,
    ) -> i32;
    enqueue_read: c"clEnqueueReadBuffer" = unsafe extern "C" fn(
        RawQueue, RawMemory, u32, usize, usize, *mut c_void, u32, *const RawEvent, *mut RawEvent,
    ) -> i32;
    enqueue_write: c"clEnqueueWriteBuffer" = unsafe extern "C" fn(
        RawQueue, RawMemory, u32, usize, usize, *const c_void, u32, *const RawEvent, *mut RawEvent,
    ) -> i32;
    enqueue_fill: c"clEnqueueFillBuffer" = unsafe extern "C" fn(
        RawQueue, RawMemory, *const c_void, usize, usize, usize, u32, *const RawEvent, *mut RawEvent,
    ) -> i32;
    finish: c"clFinish" = unsafe extern "C" fn(RawQueue) -> i32;
    flush: c"clFlush" = unsafe extern "C" fn(RawQueue) -> i32;
    wait_for_events: c"clWaitForEvents" = unsafe extern "C" fn(u32, *const RawEvent) -> i32;
    get_event_info: c"clGetEventInfo" = Info<RawEvent>;
    release_event: c"clReleaseEvent" = Release;
}

/// The loaded OpenCL library.
pub(super) struct Api {
    functions: Functions,
    /// Where it was found.
    pub(super) path: PathBuf,
    /// Keeps the functions loaded.
    library: Library,
}

impl Api {
    /// Loads the first of `candidates` that is an OpenCL library.
    pub(super) fn load(candidates: &[PathBuf]) -> Result<Self, DeviceError> {
        let mut tried = Vec::new();
        for path in candidates {
            // SAFETY: runs the initializers of a library that the system or the caller's environment names as its OpenCL.
            match unsafe { Library::new(path) } {
                Err(error) => tried.push(format!("{}: {}", path.display(), error_text(&error))),
                Ok(library) => match Functions::load(&library) {
                    Ok(functions) => return Ok(Api { functions, path: path.clone(), library }),
                    Err(symbol) => tried.push(format!("{}: has no {}", path.display(), symbol.to_string_lossy())),
                },
            }
        }
        let reason = format!("no OpenCL library could be loaded; tried {}", tried.join("; "));
        Err(DeviceError::Unavailable { device: "opencl", reason })
    }

    /// Platforms of the machine; none is an empty list.
    pub(super) fn platforms(&self) -> Result<Vec<RawPlatform>, Status> {
        let mut count = 0;
        // SAFETY: asks for the count only; it is written to a live variable.
        let code = unsafe { (self.functions.get_platform_ids)(0, null_mut(), &mut count) };
        // The loader's own code for "no platforms", CL_PLATFORM_NOT_FOUND_KHR.
        if code == -1001 || (code == 0 && count == 0) {
            return Ok(Vec::new());
        }
        check(code)?;
        let mut platforms = vec![null_mut(); count as usize];
        // SAFETY: `platforms` has room for `count` handles.
        check(unsafe { (self.functions.get_platform_ids)(count, platforms.as_mut_ptr(), null_mut()) })?;
        Ok(platforms)
    }

    /// Devices of a platform; none is an empty list.
    pub(super) fn devices(&self, platform: RawPlatform) -> Result<Vec<RawDevice>, Status> {
        let mut count = 0;
        let get = self.functions.get_device_ids;
        // SAFETY: `platform` came from `platforms`; asks for the count only.
        let code = unsafe { get(platform, DEVICE_TYPE_ALL, 0, null_mut(), &mut count) };
        if code == -1 || (code == 0 && count == 0) {
            return Ok(Vec::new());
        }
        check(code)?;
        let mut devices = vec![null_mut(); count as usize];
        // SAFETY: `devices` has room for `count` handles.
        check(unsafe { get(platform, DEVICE_TYPE_ALL, count, devices.as_mut_ptr(), null_mut()) })?;
        Ok(devices)
    }

    /// A string of a platform.
    pub(super) fn platform_text(&self, platform: RawPlatform, name: Name) -> Result<String, Status> {
        // SAFETY: `platform` came from `platforms`; the closure passes a size and a buffer of that size.
        text(|size, value, needed| unsafe { (self.functions.get_platform_info)(platform, name, size, value, needed) })
    }

    /// A string of a device.
    pub(super) fn device_text(&self, device: RawDevice, name: Name) -> Result<String, Status> {
        // SAFETY: `device` came from `devices`; the closure passes a size and a buffer of that size.
        text(|size, value, needed| unsafe { (self.functions.get_device_info)(device, name, size, value, needed) })
    }

    /// The function of an extension by its name. Some drivers only export theirs.
    pub(super) fn extension(&self, platform: RawPlatform, name: &CStr) -> Option<NonNull<c_void>> {
        // SAFETY: `platform` came from `platforms`; a C string, which the function only reads.
        let asked = self.functions.get_extension.map(|get| unsafe { get(platform, name.as_ptr()) });
        asked.and_then(NonNull::new).or_else(|| Way::Exported(&self.library).find(name))
    }

    /// A number of a device; narrower ones are widened.
    pub(super) fn device_number(&self, device: RawDevice, name: Name) -> Result<u64, Status> {
        let mut value = 0u64;
        // SAFETY: `device` came from `devices`; eight bytes hold any scalar (little endian on every supported machine).
        check(unsafe { (self.functions.get_device_info)(device, name, 8, (&raw mut value).cast(), null_mut()) })?;
        Ok(value)
    }
}

fn error_text(error: &libloading::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// Asks for a size, then for that many bytes.
fn bytes(query: impl Fn(usize, *mut c_void, *mut usize) -> i32) -> Result<Vec<u8>, Status> {
    let mut size = 0;
    check(query(0, null_mut(), &mut size))?;
    let mut value = vec![0u8; size.min(64 << 20)];
    check(query(value.len(), value.as_mut_ptr().cast(), null_mut()))?;
    Ok(value)
}

fn text(query: impl Fn(usize, *mut c_void, *mut usize) -> i32) -> Result<String, Status> {
    let bytes = bytes(query)?;
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    Ok(String::from_utf8_lossy(&bytes[..end]).trim().to_owned())
}

/// A context on one device with its in-order queue. All objects below belong to one.
pub(super) struct Context {
    api: Api,
    device: RawDevice,
    context: RawContext,
    queue: RawQueue,
    /// How launches are recorded, where they can be.
    pub(super) recorder: Option<Recorder>,
    /// Bytes of the buffers that are alive.
    allocated: AtomicU64,
}

// SAFETY: the OpenCL specification makes every function used here safe to call from any thread, except clSetKernelArg on one
// kernel object, which takes `&mut Kernel`.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn new(api: Api, platform: RawPlatform, device: RawDevice) -> Result<Self, Status> {
        let properties = [CONTEXT_PLATFORM, platform as isize, 0];
        let mut code = 0;
        // SAFETY: the property list ends with 0, `device` is one handle, no callback is given.
        let context =
            unsafe { (api.functions.create_context)(properties.as_ptr(), 1, &device, null(), null_mut(), &mut code) };
        check(code)?;
        // SAFETY: `context` was just made for `device`.
        let queue = unsafe { (api.functions.create_queue)(context, device, 0, &mut code) };
        if let Err(status) = check(code) {
            // SAFETY: releases the only reference.
            unsafe { (api.functions.release_context)(context) };
            return Err(status);
        }
        let extensions = api.device_text(device, super::DEVICE_EXTENSIONS).unwrap_or_default();
        let recorder = Recorder::of(&api, platform, device, &extensions);
        Ok(Context { api, device, context, queue, recorder, allocated: AtomicU64::new(0) })
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.api.path
    }

    pub(super) const fn queue(&self) -> RawQueue {
        self.queue
    }

    /// Bytes of the buffers that are alive.
    pub(super) fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }

    /// Allocates device memory of `bytes`, at least one.
    pub(super) fn buffer(&self, bytes: usize) -> Result<RawMemory, Status> {
        let mut code = 0;
        // SAFETY: without host pointer flags the host pointer must be null, and is.
        let memory = unsafe {
            (self.api.functions.create_buffer)(self.context, MEM_READ_WRITE, bytes.max(1), null_mut(), &mut code)
        };
        check(code)?;
        self.allocated.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(memory)
    }

    /// Another share in a buffer, to be released as the buffer is.
    ///
    /// # Safety
    /// `memory` is a live buffer of this context.
    pub(super) unsafe fn retain_memory(&self, memory: RawMemory) -> Result<(), Status> {
        // SAFETY: by the contract.
        check(unsafe { (self.api.functions.retain_memory)(memory) })
    }

    /// An image over the first `bytes` of a buffer, 16 of them a pixel.
    ///
    /// # Safety
    /// `memory` is a live buffer of this context with at least `bytes` bytes.
    pub(super) unsafe fn image(&self, memory: RawMemory, bytes: usize) -> Result<RawMemory, Status> {
        let sizes = [bytes / PIXEL_BYTES, 0, 0, 0, 0, 0];
        let of = ImageDescription { kind: MEM_OBJECT_IMAGE1D_BUFFER, sizes, mip_levels: 0, samples: 0, memory };
        let mut code = 0;
        // SAFETY: a format and a description that outlive the call; images of buffers take no host pointer.
        let image = unsafe {
            let create = self.api.functions.create_image;
            create(self.context, MEM_READ_ONLY, &raw const PIXEL, &raw const of, null_mut(), &mut code)
        };
        check(code).map(|()| image)
    }

    /// Releases a buffer of `allocated` bytes, or a share in one or an image, which have none of their own.
    ///
    /// # Safety
    /// `memory` is a live memory object of this context and not used after this.
    pub(super) unsafe fn release_memory(&self, memory: RawMemory, allocated: usize) {
        // SAFETY: by the contract. A failure leaves nothing to do.
        unsafe { (self.api.functions.release_memory)(memory) };
        self.allocated.fetch_sub(allocated as u64, Ordering::Relaxed);
    }

    /// Copies bytes into a buffer and waits.
    ///
    /// # Safety
    /// `memory` is a live buffer of this context with at least `offset + bytes.len()` bytes.
    pub(super) unsafe fn write(&self, memory: RawMemory, offset: usize, bytes: &[u8]) -> Result<(), Status> {
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: blocking, so `bytes` outlives the copy; the range is inside by the contract.
        check(unsafe {
            let write = self.api.functions.enqueue_write;
            write(self.queue, memory, TRUE, offset, bytes.len(), bytes.as_ptr().cast(), 0, null(), null_mut())
        })
    }

    /// Starts to copy bytes into a buffer, after what was enqueued; gives the event of its end.
    ///
    /// # Safety
    /// As [`Context::write`], and `bytes` stays where it is, unchanged, until the event has been waited for.
    pub(super) unsafe fn start_write(&self, memory: RawMemory, offset: usize, bytes: &[u8]) -> Result<Event, Status> {
        let mut made: RawEvent = null_mut();
        // SAFETY: not blocking: by the contract `bytes` outlives the copy; the range is inside by the contract.
        check(unsafe {
            let write = self.api.functions.enqueue_write;
            write(self.queue, memory, FALSE, offset, bytes.len(), bytes.as_ptr().cast(), 0, null(), &raw mut made)
        })?;
        Ok(Event(made))
    }

    /// Waits for what was enqueued and copies bytes out of a buffer.
    ///
    /// # Safety
    /// As [`Context::write`].
    pub(super) unsafe fn read(&self, memory: RawMemory, offset: usize, bytes: &mut [u8]) -> Result<(), Status> {
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: blocking, so `bytes` outlives the copy; the range is inside by the contract.
        check(unsafe {
            let read = self.api.functions.enqueue_read;
            read(self.queue, memory, TRUE, offset, bytes.len(), bytes.as_mut_ptr().cast(), 0, null(), null_mut())
        })
    }

    /// Writes zeros over a buffer's first `bytes`, and waits: drivers that allocate late do it here.
    ///
    /// # Safety
    /// `memory` is a live buffer of this context with at least `bytes` bytes.
    pub(super) unsafe fn clear(&self, memory: RawMemory, bytes: usize) -> Result<(), Status> {
        let zero = 0u8;
        // SAFETY: the pattern is one byte, copied by the call; the range is inside by the contract.
        check(unsafe {
            let fill = self.api.functions.enqueue_fill;
            fill(self.queue, memory, (&raw const zero).cast(), 1, 0, bytes.max(1), 0, null(), null_mut())
        })?;
        self.finish()
    }

    /// Waits for everything that was enqueued.
    pub(super) fn finish(&self) -> Result<(), Status> {
        // SAFETY: the queue lives as long as the context.
        check(unsafe { (self.api.functions.finish)(self.queue) })
    }

    /// Makes another queue, of other properties. Drivers may take those that OpenCL 1.2 does not have only in a list.
    pub(super) fn make_queue(&self, properties: u64) -> Result<RawQueue, Status> {
        let mut code = 0;
        // SAFETY: the device is the context's.
        let queue = unsafe { (self.api.functions.create_queue)(self.context, self.device, properties, &mut code) };
        let (Err(refused), Some(create)) = (check(code), self.api.functions.create_queue_with) else {
            return check(code).map(|()| queue);
        };
        let list = [QUEUE_PROPERTIES, properties, 0];
        // SAFETY: as above; the list ends with 0.
        let queue = unsafe { create(self.context, self.device, list.as_ptr(), &mut code) };
        check(code).map(|()| queue).map_err(|_| refused)
    }

    /// # Safety
    /// Once for each that [`Context::make_queue`] gave, which is not used after this.
    pub(super) unsafe fn release_queue(&self, queue: RawQueue) {
        // SAFETY: by the contract.
        unsafe { (self.api.functions.release_queue)(queue) };
    }

    /// Enqueues a kernel, with an event for it when one is asked for.
    ///
    /// # Safety
    /// Every argument of `kernel` is set to a live object that is large enough for what the kernel does on this grid.
    pub(super) unsafe fn launch(
        &self,
        kernel: &Kernel,
        groups: [u32; 3],
        threads: [u32; 3],
        event: bool,
    ) -> Result<Option<Event>, Status> {
        // SAFETY: by the contract.
        unsafe { self.enqueue(self.queue, kernel, groups, threads, event) }
    }

    /// As [`Context::launch`], on another queue of this context.
    ///
    /// # Safety
    /// As [`Context::launch`].
    pub(super) unsafe fn enqueue(
        &self,
        queue: RawQueue,
        kernel: &Kernel,
        groups: [u32; 3],
        threads: [u32; 3],
        event: bool,
    ) -> Result<Option<Event>, Status> {
        let local = threads.map(|t| t as usize);
        let global = [0, 1, 2].map(|axis| groups[axis] as usize * local[axis]);
        let mut made: RawEvent = null_mut();
        let place = if event { &raw mut made } else { null_mut() };
        // SAFETY: three dimensions, arrays of three; no events to wait for; a place for one event, or none.
        check(unsafe {
            let launch = self.api.functions.enqueue_kernel;
            launch(queue, kernel.0, 3, null(), global.as_ptr(), local.as_ptr(), 0, null(), place)
        })?;
        Ok(event.then_some(Event(made)))
    }

    /// Has the device begin with what was enqueued.
    pub(super) fn flush(&self) -> Result<(), Status> {
        // SAFETY: the queue lives as long as the context.
        check(unsafe { (self.api.functions.flush)(self.queue) })
    }

    /// Waits for an event; the status of its command, where that ended badly, is the error.
    pub(super) fn wait(&self, event: &Event) -> Result<(), Status> {
        let mut status = 0i32;
        // SAFETY: one live event; its status is a `cl_int`.
        let (waited, asked) = unsafe {
            let waited = check((self.api.functions.wait_for_events)(1, &event.0));
            let value = (&raw mut status).cast();
            let info = self.api.functions.get_event_info;
            (waited, check(info(event.0, EVENT_COMMAND_EXECUTION_STATUS, 4, value, null_mut())))
        };
        asked?;
        // Zero is complete; what is not negative says nothing about a failure.
        if status < 0 { Err(Status(status)) } else { waited }
    }

    pub(super) fn release_event(&self, event: &Event) {
        // SAFETY: called once, when the owner of the event is dropped.
        unsafe { (self.api.functions.release_event)(event.0) };
    }

    /// # Safety
    /// `memory` is a live memory object of this context that outlives the kernel's launches.
    pub(super) unsafe fn set_memory(&self, kernel: &mut Kernel, index: u32, memory: RawMemory) -> Result<(), Status> {
        // SAFETY: the argument is a `cl_mem`, copied by the call.
        check(unsafe {
            (self.api.functions.set_kernel_arg)(kernel.0, index, size_of::<RawMemory>(), (&raw const memory).cast())
        })
    }

    /// Sets an argument that is a `uint`.
    pub(super) fn set_number(&self, kernel: &mut Kernel, index: u32, number: u32) -> Result<(), Status> {
        // SAFETY: the number is copied by the call, which refuses a size that is not the argument's.
        check(unsafe { (self.api.functions.set_kernel_arg)(kernel.0, index, 4, (&raw const number).cast()) })
    }

    /// Builds a program from source; the log comes with the error.
    pub(super) fn build_source(&self, source: &str, options: &str) -> Result<Program, BuildError> {
        let (start, length) = (source.as_ptr().cast::<c_char>(), source.len());
        let mut code = 0;
        // SAFETY: one string with its length, copied by the call.
        let program = unsafe { (self.api.functions.program_from_source)(self.context, 1, &start, &length, &mut code) };
        check(code)?;
        self.build(Program(program), options)
    }

    /// Builds a program from what [`Context::binary`] returned for this device and driver.
    pub(super) fn build_binary(&self, binary: &[u8], options: &str) -> Result<Program, BuildError> {
        let (start, length) = (binary.as_ptr(), binary.len());
        let (mut status, mut code) = (0, 0);
        // SAFETY: one binary with its length for one device, copied by the call.
        let program = unsafe {
            let create = self.api.functions.program_from_binary;
            create(self.context, 1, &self.device, &length, &start, &mut status, &mut code)
        };
        check(code)?;
        let program = Program(program);
        match check(status) {
            Ok(()) => self.build(program, options),
            Err(status) => {
                self.release_program(program);
                Err(status.into())
            }
        }
    }

    fn build(&self, program: Program, options: &str) -> Result<Program, BuildError> {
        let options = CString::new(options).expect("options are written here, without NUL");
        // SAFETY: the program and the device are this context's; no callback, so the call returns when it is built.
        let code = unsafe {
            let build = self.api.functions.build_program;
            build(program.0, 1, &self.device, options.as_ptr(), null(), null_mut())
        };
        let Err(status) = check(code) else { return Ok(program) };
        // SAFETY: as above; the closure passes a size and a buffer of that size.
        let log = text(|size, value, needed| unsafe {
            (self.api.functions.get_build_info)(program.0, self.device, PROGRAM_BUILD_LOG, size, value, needed)
        });
        self.release_program(program);
        Err(BuildError { status, log: log.unwrap_or_default() })
    }

    /// The program as the device's binary.
    pub(super) fn binary(&self, program: &Program) -> Result<Vec<u8>, Status> {
        let mut size = 0usize;
        let info = self.api.functions.get_program_info;
        // SAFETY: the program was built for one device: one size.
        check(unsafe {
            info(program.0, PROGRAM_BINARY_SIZES, size_of::<usize>(), (&raw mut size).cast(), null_mut())
        })?;
        let mut binary = vec![0u8; size];
        let start = binary.as_mut_ptr();
        // SAFETY: one pointer, to `size` bytes.
        check(unsafe {
            info(program.0, PROGRAM_BINARIES, size_of::<usize>(), (&raw const start).cast_mut().cast(), null_mut())
        })?;
        Ok(binary)
    }

    pub(super) fn release_program(&self, program: Program) {
        // SAFETY: releases the only reference; kernels keep their own.
        unsafe { (self.api.functions.release_program)(program.0) };
    }

    pub(super) fn kernel(&self, program: &Program, name: &str) -> Result<Kernel, Status> {
        let name = CString::new(name).map_err(|_| Status(-46))?;
        let mut code = 0;
        // SAFETY: the program is built; the name is a C string.
        let kernel = unsafe { (self.api.functions.create_kernel)(program.0, name.as_ptr(), &mut code) };
        check(code).map(|()| Kernel(kernel))
    }

    /// Most threads of a work group of this kernel on this device, and the bytes of local memory that a work group takes.
    pub(super) fn kernel_needs(&self, kernel: &Kernel) -> Result<(usize, u64), Status> {
        let info = self.api.functions.get_work_group_info;
        let (mut threads, mut local) = (0usize, 0u64);
        // SAFETY: a `size_t` for KERNEL_WORK_GROUP_SIZE.
        check(unsafe {
            let value = (&raw mut threads).cast();
            info(kernel.0, self.device, KERNEL_WORK_GROUP_SIZE, size_of::<usize>(), value, null_mut())
        })?;
        // SAFETY: a `cl_ulong` for KERNEL_LOCAL_MEM_SIZE.
        check(unsafe {
            let value = (&raw mut local).cast();
            info(kernel.0, self.device, KERNEL_LOCAL_MEM_SIZE, size_of::<u64>(), value, null_mut())
        })?;
        Ok((threads, local))
    }

    pub(super) fn release_kernel(&self, kernel: &Kernel) {
        // SAFETY: called once, when the owner of the kernel is dropped.
        unsafe { (self.api.functions.release_kernel)(kernel.0) };
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: releases the only references of the host; the queue goes first.
        unsafe {
            (self.api.functions.release_queue)(self.queue);
            (self.api.functions.release_context)(self.context);
        }
    }
}

/// A built program; released by its owner.
pub(super) struct Program(RawProgram);
/// A kernel object with its arguments; released by its owner.
pub(super) struct Kernel(RawKernel);
/// An event; released by its owner.
pub(super) struct Event(RawEvent);
impl Kernel {
    pub(super) const fn raw(&self) -> *mut c_void {
        self.0
    }
}

impl Event {
    pub(super) const fn of(raw: RawEvent) -> Self {
        Event(raw)
    }
}

/// A memory object; released by its owner.
pub(super) type Memory = RawMemory;

// SAFETY: as for `Kernel`; a program is only read once it is built.
unsafe impl Send for Program {}
// SAFETY: a handle of a thread-safe object.
unsafe impl Send for Event {}
// SAFETY: handles of thread-safe objects; arguments are set through `&mut`.
unsafe impl Send for Kernel {}

/// Why a program was not built.
pub(super) struct BuildError {
    pub(super) status: Status,
    pub(super) log: String,
}

impl From<Status> for BuildError {
    fn from(status: Status) -> Self {
        BuildError { status, log: String::new() }
    }
}
