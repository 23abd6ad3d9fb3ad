//! A library like `libOpenCL-pixel.so`: it exports none of OpenCL's functions, only `enableOpenCL` and `loadOpenCLPointer`. What it
//! finds is the machine's own OpenCL, or one without any platform. `failEvent` has a submission fail after it was accepted.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::transmute;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, Ordering::SeqCst};

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

static ENABLED: AtomicBool = AtomicBool::new(false);
static DRIVER: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static FAILING: AtomicI64 = AtomicI64::new(0);

#[unsafe(no_mangle)]
pub extern "C" fn enableOpenCL() {
    ENABLED.store(true, SeqCst);
    // SAFETY: a name that ends; the driver that is tested may be loaded.
    DRIVER.store(unsafe { dlopen(c"libOpenCL.so.1".as_ptr(), 2) }, SeqCst);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn loadOpenCLPointer(name: *const c_char) -> *mut c_void {
    if !ENABLED.load(SeqCst) {
        return null_mut();
    }
    let driver = DRIVER.load(SeqCst);
    // SAFETY: the interface passes names that end.
    match (unsafe { CStr::from_ptr(name) }.to_bytes(), driver.is_null()) {
        (b"clGetPlatformIDs", true) => no_platforms as *mut c_void,
        (_, true) => unsupported as *mut c_void,
        (b"clGetEventInfo", false) => event_info as *mut c_void,
        // SAFETY: an open library, and a name that ends.
        (_, false) => unsafe { dlsym(driver, name) },
    }
}

/// The `n`-th event from now on (1: the next) is one of a command that failed.
#[unsafe(no_mangle)]
pub extern "C" fn failEvent(n: i64) {
    FAILING.store(n, SeqCst);
}

extern "C" fn no_platforms(_: u32, _: *mut *mut c_void, _: *mut u32) -> i32 {
    -1001
}

extern "C" fn unsupported() -> i32 {
    -59
}

type Info = unsafe extern "C" fn(*mut c_void, u32, usize, *mut c_void, *mut usize) -> i32;

unsafe extern "C" fn event_info(event: *mut c_void, name: u32, size: usize, value: *mut c_void, needed: *mut usize) -> i32 {
    // SAFETY: the OpenCL specification gives the function of this name this signature.
    let own = unsafe { transmute::<*mut c_void, Info>(dlsym(DRIVER.load(SeqCst), c"clGetEventInfo".as_ptr())) };
    // SAFETY: the caller's promises are those of the function.
    let code = unsafe { own(event, name, size, value, needed) };
    if name == 0x11D3 && FAILING.fetch_sub(1, SeqCst) == 1 {
        // SAFETY: the function has just written there.
        unsafe { *value.cast::<i32>() = -5 };
    }
    code
}
