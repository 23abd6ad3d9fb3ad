//! The instruction sets.

/// Methods of [`super::vector::Vector`]: each is what stands here, in the one `unsafe` block that there is for all of them.
macro_rules! methods {
    ($(
        fn $method:ident $(<const $number:ident: u32>)? ($($argument:tt: $kind:ty),*) $(-> $result:ty)? {
            $($body:tt)*
        }
    )+) => {$(
        #[inline(always)]
        unsafe fn $method $(<const $number: u32>)? ($($argument: $kind),*) $(-> $result)? {
            // SAFETY: by the contract of `Vector` the instruction set is available, and pointers are good for as many elements
            // as the method says; every access through them is unaligned.
            unsafe { $($body)* }
        }
    )+};
}

#[cfg(any(not(target_arch = "aarch64"), test))]
pub(crate) mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
