use super::{Loader, Manager, POLL};
use crate::cancel::CancelFlag;
use crate::sync::{Mutex, MutexGuard, sleep};
use std::sync::{Arc, PoisonError, TryLockError};

/// A model in use. As long as a handle lives, its model is not evicted.
pub struct Handle<L: Loader> {
    manager: Manager<L>,
    model_id: String,
    /// Taken in `drop`.
    model: Option<Arc<Mutex<L::Model>>>,
}

impl<L: Loader> Handle<L> {
    pub(super) fn new(manager: Manager<L>, model_id: String, model: Arc<Mutex<L::Model>>) -> Self {
        Self { manager, model_id, model: Some(model) }
    }

    /// The model's name.
    pub fn model_id(&self) -> &str {
        &self.model_id
    }

    /// The model itself; waits while another handle works with it.
    pub fn lock(&self) -> MutexGuard<'_, L::Model> {
        let model = self.model.as_ref().expect("present until drop");
        model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same; `None` when the flag is raised before the other handle has finished.
    pub fn lock_unless(&self, cancel: &CancelFlag) -> Option<MutexGuard<'_, L::Model>> {
        let model = self.model.as_ref().expect("present until drop");
        loop {
            match model.try_lock() {
                Ok(guard) => return Some(guard),
                Err(TryLockError::Poisoned(error)) => return Some(error.into_inner()),
                Err(TryLockError::WouldBlock) if cancel.is_cancelled() => return None,
                Err(TryLockError::WouldBlock) => sleep(POLL),
            }
        }
    }
}

impl<L: Loader> Drop for Handle<L> {
    fn drop(&mut self) {
        if let Some(model) = self.model.take() {
            self.manager.release(&self.model_id, model);
        }
    }
}
