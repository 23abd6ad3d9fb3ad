use super::{Loader, Manager};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
}

impl<L: Loader> Drop for Handle<L> {
    fn drop(&mut self) {
        if let Some(model) = self.model.take() {
            self.manager.release(&self.model_id, model);
        }
    }
}
