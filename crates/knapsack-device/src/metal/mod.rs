//! `metal`: the plan executed by the Metal kernels in the library, on an Apple GPU. Only compiled for Apple's systems.
//!
//! Weights stay in the mapped shards wherever their alignment allows: the GPU reads the page cache, whose pages the system may
//! drop under memory pressure and read again, since nothing ever writes them. Each submission is a command buffer, whose status is
//! read when it has been waited for. Objects of Metal are made, used and dropped inside autorelease pools: an app may call from
//! threads that have none, where what is autoreleased would never be freed.

#[cfg(target_vendor = "apple")]
mod backend;
#[cfg(target_vendor = "apple")]
mod device;
mod status;

#[cfg(target_vendor = "apple")]
pub use device::MetalDevice;

const NAME: &str = "metal";
