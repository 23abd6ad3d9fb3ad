//! A device that only counts: for tests of scheduling and memory without weights, arithmetic or a GPU. Its logits are a
//! deterministic function of the tokens so far, and its loads and calls succeed, wait or fail as they are told.

use crate::call::{check_forward, check_logits};
use crate::memory::{Account, Charge, Part};
use crate::{Device, DeviceError, LoadedModel};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::MemoryPlan;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a load or a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FakeOutcome {
    /// Succeeds.
    Succeed,
    /// Succeeds after a while.
    SucceedAfter(Duration),
    /// Fails.
    Fail,
    /// Fails after a while.
    FailAfter(Duration),
}

#[derive(Debug, Default)]
struct State {
    loads: Mutex<VecDeque<FakeOutcome>>,
    calls: Mutex<VecDeque<FakeOutcome>>,
    /// Bytes of all models, and the most there ever were.
    allocated: AtomicU64,
    peak: AtomicU64,
    models: AtomicU64,
}

/// The fake device. Clones share everything.
#[derive(Clone, Debug, Default)]
pub struct FakeDevice {
    state: Arc<State>,
}

fn lock(queue: &Mutex<VecDeque<FakeOutcome>>) -> MutexGuard<'_, VecDeque<FakeOutcome>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the next outcome, waits as it says, and says whether to fail; without one, success.
fn next(queue: &Mutex<VecDeque<FakeOutcome>>) -> bool {
    // The lock is not held while waiting.
    let outcome = lock(queue).pop_front().unwrap_or(FakeOutcome::Succeed);
    if let FakeOutcome::SucceedAfter(wait) | FakeOutcome::FailAfter(wait) = outcome {
        std::thread::sleep(wait);
    }
    matches!(outcome, FakeOutcome::Fail | FakeOutcome::FailAfter(_))
}

impl FakeDevice {
    /// A device that succeeds at everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends outcomes of the loads to come, in the order in which they begin.
    pub fn script_loads(&self, outcomes: impl IntoIterator<Item = FakeOutcome>) {
        lock(&self.state.loads).extend(outcomes);
    }

    /// Appends outcomes of the forward calls to come, of all models, in the order in which they begin.
    pub fn script_calls(&self, outcomes: impl IntoIterator<Item = FakeOutcome>) {
        lock(&self.state.calls).extend(outcomes);
    }

    /// Bytes of all models that are loaded (or being loaded) now.
    pub fn allocated(&self) -> u64 {
        self.state.allocated.load(Ordering::SeqCst)
    }

    /// The most bytes that ever were allocated at once.
    pub fn peak(&self) -> u64 {
        self.state.peak.load(Ordering::SeqCst)
    }

    /// Models that are loaded now.
    pub fn models(&self) -> u64 {
        self.state.models.load(Ordering::SeqCst)
    }
}

/// Bytes of one model in the device's totals.
struct Hold {
    state: Arc<State>,
    bytes: u64,
}

impl Hold {
    fn new(state: &Arc<State>, bytes: u64) -> Self {
        let now = state.allocated.fetch_add(bytes, Ordering::SeqCst) + bytes;
        state.peak.fetch_max(now, Ordering::SeqCst);
        Hold { state: state.clone(), bytes }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.state.allocated.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

impl Device for FakeDevice {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn description(&self) -> String {
        "counts memory, computes nothing".to_owned()
    }

    fn load(&self, library: Arc<ModelLibrary>, _folder: &Path) -> Result<Box<dyn LoadedModel>, DeviceError> {
        let plan = library.memory;
        // Memory is held while loading, as on a real device, and given back on failure.
        let hold = Hold::new(&self.state, plan.total());
        if next(&self.state.loads) {
            return Err(DeviceError::OutOfMemory { what: "weights", bytes: plan.weights });
        }
        let account = Account::default();
        let charges = [
            account.charge(Part::Weights, plan.weights),
            account.charge(Part::KvCache, plan.kv_cache),
            account.charge(Part::Workspace, plan.workspace),
        ];
        self.state.models.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(FakeModel { library, account, tokens: Vec::new(), rows: 0, _charges: charges, hold }))
    }
}

struct FakeModel {
    library: Arc<ModelLibrary>,
    account: Account,
    /// The conversation: what a real device has in its cache.
    tokens: Vec<u32>,
    /// Rows of the last call.
    rows: u32,
    _charges: [Charge; 3],
    hold: Hold,
}

impl Drop for FakeModel {
    fn drop(&mut self) {
        self.hold.state.models.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One step of FNV-1a over a word.
fn mix(hash: u64, word: u32) -> u64 {
    word.to_le_bytes().iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl LoadedModel for FakeModel {
    fn library(&self) -> &Arc<ModelLibrary> {
        &self.library
    }

    fn memory(&self) -> MemoryPlan {
        self.account.now()
    }

    /// Fails, beyond what every device refuses, when positions before `position` were never given.
    fn forward(&mut self, tokens: &[u32], position: u32) -> Result<(), DeviceError> {
        let call = check_forward(&self.library, tokens, position)?;
        if position as usize > self.tokens.len() {
            let known = self.tokens.len();
            return Err(DeviceError::InvalidCall(format!("position {position} after only {known} tokens")));
        }
        if next(&self.hold.state.calls) {
            return Err(DeviceError::Unavailable { device: "fake", reason: "the call was told to fail".to_owned() });
        }
        self.tokens.truncate(position as usize);
        self.tokens.extend_from_slice(tokens);
        self.rows = call.n;
        Ok(())
    }

    /// Logits between -4 and 4: a hash of all tokens up to the row, and of the logit's index.
    fn logits(&mut self, row: u32, output: &mut [f32]) -> Result<(), DeviceError> {
        let call = check_logits(&self.library, self.rows, row, output)?;
        let end = self.tokens.len() - (self.rows - call.row - 1) as usize;
        let prefix = self.tokens[..end].iter().fold(0xcbf2_9ce4_8422_2325, |hash, &token| mix(hash, token));
        for (index, logit) in output.iter_mut().enumerate() {
            let hash = mix(prefix, index as u32);
            *logit = ((hash >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 8.0;
        }
        Ok(())
    }
}
