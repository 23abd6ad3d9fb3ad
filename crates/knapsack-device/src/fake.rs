//! `fake`: a device for tests of what surrounds devices. It executes as the reference device does, with memory of a given
//! size, counts what is allocated and launched, and refuses an allocation or a launch when it is told to: at once, or as a GPU
//! does, which accepts the work and tells later.

use crate::call::Call;
use crate::host::{Executor, HostMemory, HostModel};
use crate::memory::{Account, Limit, Part};
use crate::reference::ReferenceExecutor;
use crate::{Device, DeviceError, LoadedModel, Watch, WeightFiles};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_artifact::plan::Launch;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The fake device. Clones share everything.
#[derive(Clone, Debug)]
pub struct FakeDevice {
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct Counters {
    /// Bytes of the device's memory.
    memory: AtomicU64,
    /// Bytes that are allocated, the most there ever were, and how many allocations were asked for.
    allocated: AtomicU64,
    peak: AtomicU64,
    allocations: AtomicU64,
    launches: AtomicU64,
    /// How many allocations and launches from now on it is that are refused; 0: none.
    refused_allocation: AtomicU64,
    refused_launch: AtomicU64,
    /// Whether a launch that fails is accepted first.
    late: AtomicBool,
    /// Whether the system lets the app compute.
    background: AtomicBool,
    hook: Mutex<Option<Hook>>,
}

/// What happens before the launch of a number.
struct Hook {
    launch: u64,
    call: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hook").field("launch", &self.launch).finish_non_exhaustive()
    }
}

/// Counts down to the one that is refused.
fn is_refused(countdown: &AtomicU64) -> bool {
    countdown.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) == Ok(1)
}

impl Limit for Counters {
    fn take(&self, part: Part, bytes: u64) -> Result<(), DeviceError> {
        self.allocations.fetch_add(1, SeqCst);
        let memory = self.memory.load(SeqCst);
        let grown = |now: u64| now.checked_add(bytes).filter(|&all| all <= memory);
        if !is_refused(&self.refused_allocation)
            && let Ok(before) = self.allocated.fetch_update(SeqCst, SeqCst, grown)
        {
            self.peak.fetch_max(before + bytes, SeqCst);
            return Ok(());
        }
        Err(DeviceError::OutOfMemory { what: part.name(), bytes })
    }

    fn give_back(&self, bytes: u64) {
        self.allocated.fetch_sub(bytes, SeqCst);
    }
}

impl FakeDevice {
    /// A device with this many bytes of memory.
    pub fn new(memory: u64) -> Self {
        let [allocated, peak, allocations, launches, refused_allocation, refused_launch] = Default::default();
        let (memory, late, background) = (AtomicU64::new(memory), AtomicBool::new(false), AtomicBool::new(false));
        let counters = Counters {
            memory,
            allocated,
            peak,
            allocations,
            launches,
            refused_allocation,
            refused_launch,
            late,
            background,
            hook: Mutex::default(),
        };
        FakeDevice { counters: Arc::new(counters) }
    }

    /// Changes the size of the memory; what is allocated stays.
    pub fn set_memory(&self, bytes: u64) {
        self.counters.memory.store(bytes, SeqCst);
    }

    /// Refuses the `n`-th allocation from now on (1: the next); 0 refuses none.
    pub fn refuse_allocation(&self, n: u64) {
        self.counters.refused_allocation.store(n, SeqCst);
    }

    /// Refuses the `n`-th launch from now on (1: the next); 0 refuses none.
    pub fn refuse_launch(&self, n: u64) {
        self.counters.refused_launch.store(n, SeqCst);
    }

    /// Whether launches that fail are accepted, and the failure is told by the next call that waits. What such a launch, and every
    /// one after it until then, was to write is not written.
    pub fn fail_late(&self, late: bool) {
        self.counters.late.store(late, SeqCst);
    }

    /// Calls `call` before the `n`-th launch from now on (1: the next).
    pub fn before_launch(&self, n: u64, call: impl FnOnce() + Send + 'static) {
        let hook = Hook { launch: self.launches() + n, call: Box::new(call) };
        *locked(&self.counters.hook) = Some(hook);
    }

    /// Whether the app is in the background: every launch then fails as one that is not permitted.
    pub fn set_background(&self, background: bool) {
        self.counters.background.store(background, SeqCst);
    }

    /// Bytes of all models that are loaded or being loaded now.
    pub fn allocated(&self) -> u64 {
        self.counters.allocated.load(SeqCst)
    }

    /// The most bytes that ever were allocated at once.
    pub fn peak(&self) -> u64 {
        self.counters.peak.load(SeqCst)
    }

    /// Allocations so far, refused ones too.
    pub fn allocations(&self) -> u64 {
        self.counters.allocations.load(SeqCst)
    }

    /// Launches so far, refused ones too.
    pub fn launches(&self) -> u64 {
        self.counters.launches.load(SeqCst)
    }
}

impl Device for FakeDevice {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn description(&self) -> String {
        format!("the reference's routines in {} bytes", self.counters.memory.load(SeqCst))
    }

    fn target(&self) -> Target {
        Target::Host
    }

    fn load_from(
        &self,
        library: Arc<ModelLibrary>,
        files: &dyn WeightFiles,
        watch: &dyn Watch,
    ) -> Result<Box<dyn LoadedModel>, DeviceError> {
        let memory = HostMemory::load(library, files, Account::limited(self.counters.clone()), None, watch)?;
        let executor = FakeExecutor { counters: self.counters.clone(), failed: Mutex::default() };
        Ok(Box::new(HostModel::new(memory, executor)))
    }
}

struct FakeExecutor {
    counters: Arc<Counters>,
    /// What went wrong and was not told yet.
    failed: Mutex<Option<DeviceError>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Executor for FakeExecutor {
    fn launch(&self, memory: &mut HostMemory, launch: &Launch, call: Call) -> Result<(), DeviceError> {
        let number = self.counters.launches.fetch_add(1, SeqCst) + 1;
        let hook = locked(&self.counters.hook).take_if(|hook| hook.launch == number);
        if let Some(hook) = hook {
            (hook.call)();
        }
        let failure = if is_refused(&self.counters.refused_launch) {
            let status = "it was told to refuse it".to_owned();
            Some(DeviceError::Driver { device: "fake", operation: "run a launch", status })
        } else {
            let background = self.counters.background.load(SeqCst);
            background.then_some(DeviceError::NotPermitted { device: "fake" })
        };
        match failure {
            Some(error) if self.counters.late.load(SeqCst) => {
                locked(&self.failed).get_or_insert(error);
                Ok(())
            }
            Some(error) => Err(error),
            // A queue that failed executes nothing more.
            None if locked(&self.failed).is_some() => Ok(()),
            None => ReferenceExecutor.launch(memory, launch, call),
        }
    }

    fn wait(&self) -> Result<(), DeviceError> {
        locked(&self.failed).take().map_or(Ok(()), Err)
    }
}
