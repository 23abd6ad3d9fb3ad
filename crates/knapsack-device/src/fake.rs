//! `fake`: a device for tests of what surrounds devices. It executes as the reference device does, with memory of a given
//! size, counts what is allocated and launched, and refuses an allocation or a launch when it is told to.

use crate::call::Call;
use crate::host::{Executor, HostMemory, HostModel};
use crate::memory::{Account, Limit, Part};
use crate::reference::ReferenceExecutor;
use crate::{Device, DeviceError, LoadedModel};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::plan::Op;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

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
        let memory = AtomicU64::new(memory);
        let counters = Counters { memory, allocated, peak, allocations, launches, refused_allocation, refused_launch };
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

    fn load(&self, library: Arc<ModelLibrary>, folder: &Path) -> Result<Box<dyn LoadedModel>, DeviceError> {
        let memory = HostMemory::load(library, folder, Account::limited(self.counters.clone()), None)?;
        Ok(Box::new(HostModel::new(memory, FakeExecutor { counters: self.counters.clone() })))
    }
}

struct FakeExecutor {
    counters: Arc<Counters>,
}

impl Executor for FakeExecutor {
    fn launch(&self, memory: &mut HostMemory, op: &Op, call: Call) -> Result<(), DeviceError> {
        self.counters.launches.fetch_add(1, SeqCst);
        if is_refused(&self.counters.refused_launch) {
            let status = "it was told to refuse it".to_owned();
            return Err(DeviceError::Driver { device: "fake", operation: "run a launch", status });
        }
        ReferenceExecutor.launch(memory, op, call)
    }
}
