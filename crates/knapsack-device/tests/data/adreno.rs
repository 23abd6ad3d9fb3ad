//! The machine's own OpenCL with `cl_qcom_recordable_queues` before it, as `CL/cl_ext_qcom.h` declares it and drivers are known to behave:
//! a queue records that was made with that one property and no other, at most `LARGEST` launches at once, with no events; its
//! arguments are those of the time of recording, so setting one later is refused here. `behave` says what else a driver does.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::transmute_copy;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{LazyLock, Mutex};

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

const LARGEST: u32 = 7;
const RECORDABLE: u64 = 1 << 30;
const OUT_OF_RESOURCES: i32 = -5;
const INVALID_VALUE: i32 = -30;
const INVALID_QUEUE: i32 = -36;
const INVALID_OPERATION: i32 = -59;

/// The functions of the extension are exported, not asked for.
const EXPORTS: u64 = 1;
/// Recordable queues are only made from a list of properties.
const LISTS: u64 = 2;

static BEHAVIOUR: AtomicU64 = AtomicU64::new(0);
static FAILING: AtomicI64 = AtomicI64::new(0);
static STARTED: AtomicU64 = AtomicU64::new(0);
static DRIVER: LazyLock<usize> = LazyLock::new(|| {
    // SAFETY: a name that ends; the driver that is tested may be loaded.
    unsafe { dlopen(c"libOpenCL.so.1".as_ptr(), 2) as usize }
});

struct Launch {
    kernel: usize,
    sizes: [[usize; 3]; 2],
}

struct Recording {
    queue: usize,
    launches: Vec<Launch>,
    ended: bool,
}

#[derive(Default)]
struct State {
    last: usize,
    queues: HashSet<usize>,
    recordings: HashMap<usize, Recording>,
}

impl State {
    /// A handle that no driver gives: odd.
    fn handle(&mut self) -> usize {
        self.last += 2;
        self.last | 1
    }
}

static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);

/// Bits of what the driver does, and which launch from now on cannot be recorded (1: the next; 0: each can).
#[unsafe(no_mangle)]
pub extern "C" fn behave(bits: u64, failing: i64) {
    BEHAVIOUR.store(bits, SeqCst);
    FAILING.store(failing, SeqCst);
}

/// How many recordings were started so far.
#[unsafe(no_mangle)]
pub extern "C" fn started() -> u64 {
    STARTED.load(SeqCst)
}

/// How many queues and recordings were not released.
#[unsafe(no_mangle)]
pub extern "C" fn alive() -> u64 {
    let state = STATE.lock().unwrap();
    (state.queues.len() + state.recordings.len()) as u64
}

#[unsafe(no_mangle)]
pub extern "C" fn enableOpenCL() {}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn loadOpenCLPointer(name: *const c_char) -> *mut c_void {
    // SAFETY: the interface passes names that end.
    match unsafe { CStr::from_ptr(name) }.to_bytes() {
        b"clGetDeviceInfo" => device_info as *mut c_void,
        b"clCreateCommandQueue" => create_queue as *mut c_void,
        b"clCreateCommandQueueWithProperties" => create_queue_with as *mut c_void,
        b"clReleaseCommandQueue" => release_queue as *mut c_void,
        b"clEnqueueNDRangeKernel" => enqueue_kernel as *mut c_void,
        b"clSetKernelArg" => set_argument as *mut c_void,
        b"clGetExtensionFunctionAddressForPlatform" => extension as *mut c_void,
        _ => own(name),
    }
}

/// The machine's own function of a name that ends.
fn own(name: *const c_char) -> *mut c_void {
    // SAFETY: an open library, and a name that ends.
    unsafe { dlsym(*DRIVER as *mut c_void, name) }
}

/// The machine's own function of this name, which has this type.
fn own_as<F: Copy>(name: &CStr) -> F {
    // SAFETY: the OpenCL specification gives the function of this name this signature.
    unsafe { transmute_copy(&own(name.as_ptr())) }
}

type Set = unsafe extern "C" fn(*mut c_void, u32, usize, *const c_void) -> i32;
type Count = unsafe extern "C" fn(*mut c_void) -> i32;
type Info = unsafe extern "C" fn(*mut c_void, u32, usize, *mut c_void, *mut usize) -> i32;
type Create = unsafe extern "C" fn(*mut c_void, *mut c_void, u64, *mut i32) -> *mut c_void;
type Enqueue = unsafe extern "C" fn(
    *mut c_void,
    *mut c_void,
    u32,
    *const usize,
    *const usize,
    *const usize,
    u32,
    *const *mut c_void,
    *mut *mut c_void,
) -> i32;

unsafe extern "C" fn extension(_: *mut c_void, name: *const c_char) -> *mut c_void {
    // SAFETY: the interface passes names that end.
    match unsafe { CStr::from_ptr(name) }.to_bytes() {
        _ if BEHAVIOUR.load(SeqCst) & EXPORTS != 0 => null_mut(),
        b"clNewRecordingQCOM" => clNewRecordingQCOM as *mut c_void,
        b"clEndRecordingQCOM" => clEndRecordingQCOM as *mut c_void,
        b"clEnqueueRecordingQCOM" => clEnqueueRecordingQCOM as *mut c_void,
        b"clReleaseRecordingQCOM" => clReleaseRecordingQCOM as *mut c_void,
        _ => null_mut(),
    }
}

unsafe extern "C" fn device_info(
    device: *mut c_void,
    name: u32,
    size: usize,
    value: *mut c_void,
    needed: *mut usize,
) -> i32 {
    let largest = LARGEST.to_le_bytes();
    let answer: &[u8] = match name {
        0x1030 => b"cl_khr_global_int32_base_atomics cl_qcom_recordable_queues\0",
        0x41DE => &largest,
        // SAFETY: the caller's promises are those of the function.
        _ => return unsafe { own_as::<Info>(c"clGetDeviceInfo")(device, name, size, value, needed) },
    };
    // SAFETY: the caller gives `size` bytes, or none, and a place for their number, or none.
    unsafe {
        if !value.is_null() {
            if size < answer.len() {
                return INVALID_VALUE;
            }
            value.cast::<u8>().copy_from_nonoverlapping(answer.as_ptr(), answer.len());
        }
        if !needed.is_null() {
            *needed = answer.len();
        }
    }
    0
}

/// A queue that records, or a refusal of its properties.
fn recordable(properties: u64, code: *mut i32) -> *mut c_void {
    let mut state = STATE.lock().unwrap();
    let taken = properties == RECORDABLE;
    // SAFETY: a place for a code.
    unsafe { *code = if taken { 0 } else { INVALID_VALUE } };
    if !taken {
        return null_mut();
    }
    let queue = state.handle();
    state.queues.insert(queue);
    queue as *mut c_void
}

unsafe extern "C" fn create_queue(
    context: *mut c_void,
    device: *mut c_void,
    properties: u64,
    code: *mut i32,
) -> *mut c_void {
    if properties & RECORDABLE == 0 {
        // SAFETY: the caller's promises are those of the function.
        return unsafe { own_as::<Create>(c"clCreateCommandQueue")(context, device, properties, code) };
    }
    let refused = BEHAVIOUR.load(SeqCst) & LISTS != 0;
    recordable(if refused { 0 } else { properties }, code)
}

unsafe extern "C" fn create_queue_with(
    _: *mut c_void,
    _: *mut c_void,
    list: *const u64,
    code: *mut i32,
) -> *mut c_void {
    // SAFETY: a list of names and values, which ends with 0.
    let list = unsafe { [*list, *list.add(1), *list.add(2)] };
    recordable(if (list[0], list[2]) == (0x1093, 0) { list[1] } else { 0 }, code)
}

unsafe extern "C" fn release_queue(queue: *mut c_void) -> i32 {
    let mut state = STATE.lock().unwrap();
    if !state.queues.contains(&(queue as usize)) {
        // SAFETY: the caller's promises are those of the function.
        return unsafe { own_as::<Count>(c"clReleaseCommandQueue")(queue) };
    }
    if state.recordings.values().any(|recording| recording.queue == queue as usize) {
        return INVALID_OPERATION;
    }
    state.queues.remove(&(queue as usize));
    0
}

unsafe extern "C" fn enqueue_kernel(
    queue: *mut c_void,
    kernel: *mut c_void,
    dimensions: u32,
    offsets: *const usize,
    global: *const usize,
    local: *const usize,
    waits: u32,
    before: *const *mut c_void,
    event: *mut *mut c_void,
) -> i32 {
    let mut state = STATE.lock().unwrap();
    if !state.queues.contains(&(queue as usize)) {
        drop(state);
        let enqueue = own_as::<Enqueue>(c"clEnqueueNDRangeKernel");
        // SAFETY: the caller's promises are those of the function.
        return unsafe { enqueue(queue, kernel, dimensions, offsets, global, local, waits, before, event) };
    }
    let open = |recording: &&mut Recording| recording.queue == queue as usize && !recording.ended;
    let Some(recording) = state.recordings.values_mut().find(open) else { return INVALID_OPERATION };
    if (dimensions, waits) != (3, 0) || !offsets.is_null() || !event.is_null() {
        return INVALID_OPERATION;
    }
    if recording.launches.len() == LARGEST as usize || FAILING.fetch_sub(1, SeqCst) == 1 {
        return OUT_OF_RESOURCES;
    }
    // SAFETY: three sizes each; a live kernel.
    unsafe {
        let sizes = [*global.cast::<[usize; 3]>(), *local.cast::<[usize; 3]>()];
        own_as::<Count>(c"clRetainKernel")(kernel);
        recording.launches.push(Launch { kernel: kernel as usize, sizes });
    }
    0
}

unsafe extern "C" fn set_argument(kernel: *mut c_void, index: u32, size: usize, value: *const c_void) -> i32 {
    let state = STATE.lock().unwrap();
    let mut launches = state.recordings.values().flat_map(|recording| &recording.launches);
    if launches.any(|launch| launch.kernel == kernel as usize) {
        return INVALID_OPERATION;
    }
    // SAFETY: the caller's promises are those of the function.
    unsafe { own_as::<Set>(c"clSetKernelArg")(kernel, index, size, value) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn clNewRecordingQCOM(queue: *mut c_void, code: *mut i32) -> *mut c_void {
    let mut state = STATE.lock().unwrap();
    let open = |recording: &Recording| recording.queue == queue as usize && !recording.ended;
    if !state.queues.contains(&(queue as usize)) || state.recordings.values().any(open) {
        // SAFETY: a place for a code.
        unsafe { *code = INVALID_QUEUE };
        return null_mut();
    }
    // SAFETY: a place for a code.
    unsafe { *code = 0 };
    let recording = state.handle();
    state.recordings.insert(recording, Recording { queue: queue as usize, launches: Vec::new(), ended: false });
    recording as *mut c_void
}

#[unsafe(no_mangle)]
pub extern "C" fn clEndRecordingQCOM(recording: *mut c_void) -> i32 {
    match STATE.lock().unwrap().recordings.get_mut(&(recording as usize)) {
        Some(recording) if !recording.ended && !recording.launches.is_empty() => {
            recording.ended = true;
            0
        }
        _ => INVALID_OPERATION,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn clEnqueueRecordingQCOM(
    queue: *mut c_void,
    recording: *mut c_void,
    arguments: usize,
    _: *const c_void,
    offsets: usize,
    _: *const c_void,
    globals: usize,
    _: *const c_void,
    locals: usize,
    _: *const c_void,
    waits: u32,
    _: *const *mut c_void,
    event: *mut *mut c_void,
) -> i32 {
    let state = STATE.lock().unwrap();
    let Some(recording) = state.recordings.get(&(recording as usize)).filter(|recording| recording.ended) else {
        return INVALID_VALUE;
    };
    if arguments + offsets + globals + locals > 0 || waits > 0 || state.queues.contains(&(queue as usize)) {
        return INVALID_OPERATION;
    }
    STARTED.fetch_add(1, SeqCst);
    let enqueue = own_as::<Enqueue>(c"clEnqueueNDRangeKernel");
    for (index, launch) in recording.launches.iter().enumerate() {
        let [global, local] = &launch.sizes;
        let place = if index + 1 == recording.launches.len() { event } else { null_mut() };
        // SAFETY: a retained kernel with its arguments, three sizes each, a place for an event or none.
        let code = unsafe {
            let kernel = launch.kernel as *mut c_void;
            enqueue(queue, kernel, 3, null(), global.as_ptr(), local.as_ptr(), 0, null(), place)
        };
        if code != 0 {
            return code;
        }
    }
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn clReleaseRecordingQCOM(recording: *mut c_void) -> i32 {
    let Some(recording) = STATE.lock().unwrap().recordings.remove(&(recording as usize)) else { return INVALID_VALUE };
    for launch in recording.launches {
        // SAFETY: it was retained when it was recorded.
        unsafe { own_as::<Count>(c"clReleaseKernel")(launch.kernel as *mut c_void) };
    }
    0
}
