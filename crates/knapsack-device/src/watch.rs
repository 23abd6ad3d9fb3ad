/// What a long call asks and tells on its way. `()` always goes on and tells nobody.
pub trait Watch {
    /// Whether to go on. Asked before each piece of work: a submission to a GPU, a launch on the CPU, a file, an upload.
    fn proceed(&self) -> bool {
        true
    }

    /// How many of the bytes of a model's weights are there.
    fn progress(&self, done: u64, total: u64) {
        let _ = (done, total);
    }
}

impl Watch for () {}

impl<F: Fn() -> bool> Watch for F {
    fn proceed(&self) -> bool {
        self()
    }
}

/// The answer of a watch as an error.
pub(crate) fn proceed(watch: &dyn Watch) -> Result<(), crate::DeviceError> {
    if watch.proceed() { Ok(()) } else { Err(crate::DeviceError::Interrupted) }
}
