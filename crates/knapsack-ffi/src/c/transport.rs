use super::KnapsackStr;
use super::models::Context;
use knapsack_runtime::download::{Body, Transport, TransportError};
use std::ffi::c_void;
use std::io::{Error, Read};
use std::sync::Arc;
use std::time::Duration;

/// GETs a URL; see the header.
pub type KnapsackGet = unsafe extern "C" fn(
    context: *mut c_void,
    url: KnapsackStr,
    from: u64,
    body: *mut *mut c_void,
    wait: *mut u64,
) -> i32;
/// Fills a buffer.
pub type KnapsackRead =
    unsafe extern "C" fn(context: *mut c_void, body: *mut c_void, buffer: *mut u8, length: usize) -> i64;
/// Ends a body.
pub type KnapsackEnd = unsafe extern "C" fn(context: *mut c_void, body: *mut c_void);

/// How the bytes of downloads are moved.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KnapsackTransport {
    /// For its functions.
    pub context: *mut c_void,
    /// Null: nothing is downloaded.
    pub get: Option<KnapsackGet>,
    /// Not null then.
    pub read: Option<KnapsackRead>,
    /// Not null then.
    pub end: Option<KnapsackEnd>,
}

impl KnapsackTransport {
    pub(super) const NONE: Self = Self { context: std::ptr::null_mut(), get: None, read: None, end: None };

    pub(super) fn transport(self) -> Option<Arc<dyn Transport>> {
        let (get, read, end) = (self.get?, self.read?, self.end?);
        Some(Arc::new(Functions { context: Context(self.context), get, read, end }))
    }
}

#[derive(Clone, Copy)]
struct Functions {
    context: Context,
    get: KnapsackGet,
    read: KnapsackRead,
    end: KnapsackEnd,
}

impl Transport for Functions {
    fn get(&self, url: &str, from: u64) -> Result<Body, TransportError> {
        let (mut body, mut wait) = (std::ptr::null_mut(), 0);
        // SAFETY: the app's function, its context, and places on this stack.
        let status = unsafe { (self.get)(self.context.0, KnapsackStr::new(url), from, &raw mut body, &raw mut wait) };
        let start = match status {
            200 => 0,
            206 => from,
            429 | 503 if wait > 0 => return Err(TransportError::Limited(Duration::from_secs(wait))),
            0 => return Err(TransportError::Connection("no answer".into())),
            other => return Err(TransportError::Status(u16::try_from(other).unwrap_or(0))),
        };
        Ok(Body { start, reader: Box::new(Reader { functions: *self, body: Context(body) }) })
    }
}

struct Reader {
    functions: Functions,
    body: Context,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Functions { context, read, .. } = self.functions;
        // SAFETY: the app's function, its context, a body that it gave and that was not ended, a buffer of that length.
        let filled = unsafe { read(context.0, self.body.0, buffer.as_mut_ptr(), buffer.len()) };
        match usize::try_from(filled) {
            Ok(filled) if filled <= buffer.len() => Ok(filled),
            _ => Err(Error::other("the connection broke")),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // SAFETY: a body is ended once, here.
        unsafe { (self.functions.end)(self.functions.context.0, self.body.0) };
    }
}
