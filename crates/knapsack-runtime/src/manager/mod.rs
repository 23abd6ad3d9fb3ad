//! Loads models on request and evicts them under a memory budget.
//!
//! The rules: what is loaded, loading or still being freed never exceeds the budget together. A model with a live [`Handle`] is
//! never evicted; of the others the least recently used goes first, pinned ones only under critical pressure. Calls that wait for
//! room get it in the order in which they came; a model that is there is shared at once, whoever waits. Whatever fails
//! frees what it took and leaves the other models serving. Loading and freeing happen outside the lock, so nothing waits for
//! a model it does not want.

mod budget;
mod error;
mod event;
mod handle;
mod state;

pub use budget::{android_budget, system_budget};
pub use error::{Holder, ManagerError, Use};
pub use event::{Event, EvictionReason, Listener};
pub use handle::Handle;

use crate::cancel::CancelFlag;
use crate::sync::{Condvar, Mutex, MutexGuard};
use state::{Phase, Place, State};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting call looks at its cancel flag.
const POLL: Duration = Duration::from_millis(20);

/// Where models come from: a package and a device, or a fake.
pub trait Loader: Send + Sync + 'static {
    /// A loaded model.
    type Model: Send + 'static;

    /// Bytes that the model will occupy, exactly.
    ///
    /// # Errors
    /// A model that does not exist or cannot be used.
    fn bytes(&self, model_id: &str) -> Result<u64, BoxError>;

    /// Loads the model; `progress` takes the share that is done, 0 to 1.
    ///
    /// # Errors
    /// Anything; nothing may stay allocated then. When `cancel` is raised, [`Cancelled`] or success.
    fn load(&self, model_id: &str, progress: &dyn Fn(f32), cancel: &CancelFlag) -> Result<Self::Model, BoxError>;
}

/// Any error of a [`Loader`].
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a [`Loader`] returns when it stopped because it was told to.
#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// How a model is acquired.
#[derive(Clone, Debug, Default)]
pub struct Acquire {
    /// How long to wait for models in use to be finished with when there is no room; zero: not at all.
    pub wait: Duration,
    /// Ends the call from another thread.
    pub cancel: CancelFlag,
}

/// How badly the system needs memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Evict what is not in use, but the most recently used and pinned ones.
    Moderate,
    /// Evict everything that is not in use.
    Critical,
}

/// What the manager holds of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelStatus {
    /// `model_id` of the manifest.
    pub model_id: String,
    /// Bytes it occupies.
    pub bytes: u64,
    /// Whether, and how, it is held.
    pub used: Use,
}

/// Loads, shares and evicts models. Cheap to clone; every clone is the same manager.
pub struct Manager<L: Loader> {
    shared: Arc<Shared<L>>,
}

struct Shared<L: Loader> {
    loader: L,
    state: Mutex<State<L::Model>>,
    changed: Condvar,
    listener: Option<Listener>,
}

impl<L: Loader> Clone for Manager<L> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<L: Loader> Manager<L> {
    /// A manager that keeps the models of `loader` within `budget` bytes and tells `listener` what happens. The listener is
    /// called outside the lock, from the thread that caused the event; it may use the manager.
    pub fn new(loader: L, budget: u64, listener: Option<Listener>) -> Self {
        let state = Mutex::new(State::new(budget));
        Self { shared: Arc::new(Shared { loader, state, changed: Condvar::new(), listener }) }
    }

    /// Where the models come from.
    pub fn loader(&self) -> &L {
        &self.shared.loader
    }

    /// A handle to the model, which is loaded first if it is not there. Calls that want the same model at the same time load
    /// it once.
    ///
    /// # Errors
    /// No room (the error says what is needed, available, and held by whom), a failed load, or the cancel flag. The manager is
    /// as before then, but for models that were evicted to make room.
    pub fn acquire(&self, model_id: &str, how: &Acquire) -> Result<Handle<L>, ManagerError> {
        let mut place = None;
        let outcome = self.acquire_in_line(model_id, how, &mut place);
        if let Some(place) = place {
            self.lock().leave_line(place);
            self.shared.changed.notify_all();
        }
        outcome
    }

    /// `place` is the call's place in the line, once it waits for room.
    fn acquire_in_line(
        &self,
        model_id: &str,
        how: &Acquire,
        place: &mut Option<Place>,
    ) -> Result<Handle<L>, ManagerError> {
        let deadline = Instant::now().checked_add(how.wait);
        let mut bytes = None;
        let mut state = self.lock();
        loop {
            if how.cancel.is_cancelled() {
                return Err(ManagerError::Cancelled { model_id: model_id.to_owned() });
            }
            match state.phase(model_id) {
                Some(Phase::Loaded(_)) => {
                    let model = state.enter(model_id);
                    return Ok(Handle::new(self.clone(), model_id.to_owned(), model));
                }
                Some(Phase::Loading { ticket, .. }) => {
                    let ticket = ticket.clone();
                    state = self.wait(state);
                    if let Some(failure) = ticket.failure() {
                        return Err(ManagerError::Load { model_id: model_id.to_owned(), source: failure });
                    }
                    continue;
                }
                None => {}
            }
            // Asking the loader may read files: not under the lock.
            let Some(bytes) = bytes else {
                drop(state);
                bytes =
                    Some(self.shared.loader.bytes(model_id).map_err(|source| ManagerError::Load {
                        model_id: model_id.to_owned(),
                        source: source.into(),
                    })?);
                state = self.lock();
                continue;
            };
            // Who does not wait takes what is there; who does, does not overtake.
            let room = if how.wait.is_zero() || state.is_first(*place) { state.make_room(bytes) } else { None };
            match room {
                Some(victims) => {
                    place.take().into_iter().for_each(|place| state.leave_line(place));
                    return self.load(state, model_id, bytes, victims, &how.cancel);
                }
                None if state.could_ever_fit(bytes) && deadline.is_none_or(|deadline| Instant::now() < deadline) => {
                    place.get_or_insert_with(|| state.join_line());
                    state = self.wait(state);
                }
                None => return Err(state.no_room(model_id, bytes)),
            }
        }
    }

    /// Whether the model could be acquired if nothing else were in use: to be asked before its weights are downloaded.
    ///
    /// # Errors
    /// As [`Manager::acquire`]: no room, or a model that does not exist.
    pub fn check_fits(&self, model_id: &str) -> Result<(), ManagerError> {
        let bytes = self
            .shared
            .loader
            .bytes(model_id)
            .map_err(|source| ManagerError::Load { model_id: model_id.to_owned(), source: source.into() })?;
        let state = self.lock();
        if state.phase(model_id).is_some() || state.could_ever_fit(bytes) {
            Ok(())
        } else {
            Err(state.no_room(model_id, bytes))
        }
    }

    /// Loads with the room reserved: first frees the victims, then calls the loader.
    fn load(
        &self,
        mut state: MutexGuard<'_, State<L::Model>>,
        model_id: &str,
        bytes: u64,
        victims: Vec<state::Victim<L::Model>>,
        cancel: &CancelFlag,
    ) -> Result<Handle<L>, ManagerError> {
        let ticket = state.begin(model_id, bytes, &victims);
        drop(state);
        let surplus = victims.iter().map(|victim| victim.bytes).sum::<u64>().saturating_sub(bytes);
        self.free(victims, surplus, EvictionReason::Room);
        self.tell(&Event::Loading { model_id, fraction: 0.0 });
        let progress = |fraction: f32| self.tell(&Event::Loading { model_id, fraction });
        let started = Instant::now();
        let loaded = catch_unwind(AssertUnwindSafe(|| self.shared.loader.load(model_id, &progress, cancel)))
            .unwrap_or_else(|_| {
                log::error!("the loader of {model_id} panicked");
                Err("the loader panicked".into())
            });
        let mut state = self.lock();
        let result = match loaded {
            Ok(model) => {
                let model = state.finish(model_id, model);
                Ok(Handle::new(self.clone(), model_id.to_owned(), model))
            }
            Err(error) if error.is::<Cancelled>() => {
                // Others that wait for this model load it themselves.
                state.abandon(model_id);
                Err(ManagerError::Cancelled { model_id: model_id.to_owned() })
            }
            Err(error) => {
                let source: Arc<dyn std::error::Error + Send + Sync> = error.into();
                state.abandon(model_id);
                ticket.fail(source.clone());
                Err(ManagerError::Load { model_id: model_id.to_owned(), source })
            }
        };
        drop(state);
        self.shared.changed.notify_all();
        match &result {
            Ok(_) => self.tell(&Event::Loaded { model_id, bytes, time: started.elapsed() }),
            Err(error) => self.tell(&Event::Failed { model_id, error }),
        }
        result
    }

    /// Frees a model that is not in use, pinned or not; false when it is not loaded.
    ///
    /// # Errors
    /// A model that is in use or loading.
    pub fn unload(&self, model_id: &str) -> Result<bool, ManagerError> {
        let mut state = self.lock();
        let victim = match state.held(model_id) {
            None => return Ok(false),
            Some(Use::Idle | Use::Pinned) => state.take(model_id),
            Some(used) => return Err(ManagerError::InUse { model_id: model_id.to_owned(), used }),
        };
        let bytes = state.drain(victim.as_slice());
        drop(state);
        self.free(victim, bytes, EvictionReason::Unloaded);
        Ok(true)
    }

    /// Keeps a model from being evicted for another's sake, now and when it is loaded next, or lets it go again.
    pub fn pin(&self, model_id: &str, pinned: bool) {
        self.lock().pin(model_id, pinned);
    }

    /// Evicts what is not in use; returns the bytes that were freed.
    pub fn memory_pressure(&self, level: Pressure) -> u64 {
        let mut state = self.lock();
        let victims = state.under_pressure(level);
        let bytes = state.drain(&victims);
        drop(state);
        self.free(victims, bytes, EvictionReason::Pressure);
        bytes
    }

    /// Changes the budget. Models that are not in use are evicted until the rest fits; what is in use stays, and keeps new
    /// models out until it is finished with.
    pub fn set_budget(&self, budget: u64) {
        let mut state = self.lock();
        let victims = state.set_budget(budget);
        let bytes = state.drain(&victims);
        drop(state);
        self.free(victims, bytes, EvictionReason::Room);
    }

    /// The budget, in bytes.
    pub fn budget(&self) -> u64 {
        self.lock().budget()
    }

    /// Bytes that models occupy or have reserved.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// Every model that is there or coming, by name.
    pub fn models(&self) -> Vec<ModelStatus> {
        self.lock().statuses()
    }

    fn lock(&self) -> MutexGuard<'_, State<L::Model>> {
        // Nothing panics under the lock but by a bug here; the state is consistent after every call.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State<L::Model>>) -> MutexGuard<'a, State<L::Model>> {
        self.shared.changed.wait_timeout(state, POLL).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Gives back a handle; a budget that was lowered meanwhile takes effect now.
    fn release(&self, model_id: &str, model: Arc<Mutex<L::Model>>) {
        let mut state = self.lock();
        // Under the lock, so that the last reference is always the manager's own.
        drop(model);
        state.leave(model_id);
        let budget = state.budget();
        let victims = state.set_budget(budget);
        let bytes = state.drain(&victims);
        drop(state);
        self.shared.changed.notify_all();
        self.free(victims, bytes, EvictionReason::Room);
    }

    /// Drops models outside the lock and then gives back the bytes that were still counted for them.
    fn free(&self, victims: Vec<state::Victim<L::Model>>, counted: u64, reason: EvictionReason) {
        if victims.is_empty() {
            return;
        }
        for victim in victims {
            let state::Victim { model_id, bytes, model } = victim;
            // A panic in a model's destructor must not leave its bytes counted for ever.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(model)));
            self.tell(&Event::Evicted { model_id: &model_id, bytes, reason });
        }
        self.lock().drained(counted);
        self.shared.changed.notify_all();
    }

    fn tell(&self, event: &Event<'_>) {
        if let Some(listener) = &self.shared.listener {
            // The app's mistake must not leave a load half recorded.
            let _ = catch_unwind(AssertUnwindSafe(|| listener(event)));
        }
    }
}

#[cfg(test)]
mod tests;
