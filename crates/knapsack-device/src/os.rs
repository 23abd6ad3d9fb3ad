//! What the operating system says about this process that only a call tells.

/// Bytes that the app may still use before the system ends it (`os_proc_available_memory`: the limit less the footprint). `None`
/// where there is no such limit: on other systems, in the simulator, and past the limit, where the call gives 0.
pub fn app_memory_left() -> Option<u64> {
    #[cfg(all(target_os = "ios", not(target_abi = "macabi")))]
    {
        unsafe extern "C" {
            safe fn os_proc_available_memory() -> usize;
        }
        match os_proc_available_memory() {
            0 => None,
            bytes => Some(bytes as u64),
        }
    }
    #[cfg(not(all(target_os = "ios", not(target_abi = "macabi"))))]
    None
}
