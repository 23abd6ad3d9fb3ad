//! What a failed command buffer says. Without Metal's types, so that it is tested everywhere.

use super::NAME;
use crate::DeviceError;

/// `MTLCommandBufferErrorNotPermitted`.
pub(super) const NOT_PERMITTED: isize = 7;
/// `MTLCommandBufferErrorOutOfMemory`.
pub(super) const OUT_OF_MEMORY: isize = 8;

/// The error of a command buffer, by its code in `MTLCommandBufferErrorDomain` and its text.
pub(super) fn failure(code: isize, text: String) -> DeviceError {
    // Work that was running when the app went into the background ends with the name of the kernel driver's code in its text.
    if code == NOT_PERMITTED || text.contains("BackgroundExecutionNotPermitted") {
        return DeviceError::NotPermitted { device: NAME };
    }
    match code {
        OUT_OF_MEMORY => DeviceError::OutOfMemory { what: "work on the GPU", bytes: 0 },
        code => {
            DeviceError::Driver { device: NAME, operation: "run the kernels", status: format!("{text} (code {code})") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_background_is_told_from_failures() {
        let text = "Insufficient Permission (to submit GPU work from background) \
                    (00000006:kIOGPUCommandBufferCallbackErrorBackgroundExecutionNotPermitted)";
        for (code, text) in [(7, ""), (7, text), (1, text)] {
            let error = failure(code, text.to_owned());
            assert!(matches!(error, DeviceError::NotPermitted { device: "metal" }), "{error}");
        }
        assert!(matches!(failure(8, "memory".to_owned()), DeviceError::OutOfMemory { .. }));
        let error = failure(2, "Caused GPU Timeout Error".to_owned());
        assert_eq!(error.to_string(), "device metal cannot run the kernels: Caused GPU Timeout Error (code 2)");
    }
}
