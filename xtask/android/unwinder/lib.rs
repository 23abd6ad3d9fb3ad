//! `_Unwind_*` for a link without the NDK.
#![no_std]

use unwinding as _;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
