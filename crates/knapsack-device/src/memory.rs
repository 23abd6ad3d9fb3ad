//! Anonymous memory of a loaded model, and the count of all that is allocated for it.

use crate::DeviceError;
use knapsack_artifact::library::MemoryPlan;
use memmap2::{MmapMut, MmapRaw};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which part of the memory plan an allocation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Parameters.
    Weights,
    /// Parameters that stay in the mapped file: counted, but no memory.
    File,
    /// Keys and values.
    KvCache,
    /// What recurrent layers remember, and the copy that is set aside.
    State,
    /// Inputs, activations, logits.
    Workspace,
}

impl Part {
    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Part::Weights => "weights",
            Part::File => "file",
            Part::KvCache => "KV cache",
            Part::State => "state",
            Part::Workspace => "workspace",
        }
    }
}

/// Memory that the accounts of several models draw on.
pub(crate) trait Limit: std::fmt::Debug + Send + Sync {
    /// Takes bytes for an allocation.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] when they are not there.
    fn take(&self, part: Part, bytes: u64) -> Result<(), DeviceError>;

    /// Gives back what was taken.
    fn give_back(&self, bytes: u64);
}

/// Counts what is allocated at the moment. Every allocation holds a charge of it and gives its bytes back when it is dropped.
#[derive(Clone, Debug, Default)]
pub struct Account {
    bytes: Arc<[AtomicU64; 5]>,
    limit: Option<Arc<dyn Limit>>,
}

impl Account {
    /// An account whose every allocation is also taken from `limit`.
    pub(crate) fn limited(limit: Arc<dyn Limit>) -> Self {
        Account { limit: Some(limit), ..Account::default() }
    }

    /// Counts `bytes` until the charge is dropped.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] where the account is limited.
    pub(crate) fn charge(&self, part: Part, bytes: u64) -> Result<Charge, DeviceError> {
        if let Some(limit) = self.limit.as_ref().filter(|_| part != Part::File) {
            limit.take(part, bytes)?;
        }
        self.bytes[part as usize].fetch_add(bytes, Ordering::Relaxed);
        Ok(Charge { account: self.clone(), part, bytes })
    }

    /// What is allocated now.
    pub fn now(&self) -> MemoryPlan {
        let of = |part: Part| self.bytes[part as usize].load(Ordering::Relaxed);
        MemoryPlan {
            weights: of(Part::Weights),
            file: of(Part::File),
            kv_cache: of(Part::KvCache),
            state: of(Part::State),
            workspace: of(Part::Workspace),
        }
    }
}

/// Bytes that are counted in an [`Account`].
#[derive(Debug)]
pub(crate) struct Charge {
    account: Account,
    part: Part,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.bytes[self.part as usize].fetch_sub(self.bytes, Ordering::Relaxed);
        if let Some(limit) = self.account.limit.as_ref().filter(|_| self.part != Part::File) {
            limit.give_back(self.bytes);
        }
    }
}

/// Page-aligned zeros that become resident when they are touched, in huge pages where the system has them.
#[derive(Debug)]
pub struct Region {
    map: MmapRaw,
    len: usize,
    _charge: Charge,
}

impl Region {
    /// Reserves `bytes` for a part of the plan.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] when the system refuses.
    pub fn new(account: &Account, part: Part, bytes: u64) -> Result<Self, DeviceError> {
        let refused = || DeviceError::OutOfMemory { what: part.name(), bytes };
        let len = usize::try_from(bytes).map_err(|_| refused())?;
        let charge = account.charge(part, bytes)?;
        let map = MmapRaw::from(MmapMut::map_anon(len.max(1)).map_err(|_| refused())?);
        #[cfg(target_os = "linux")]
        if len >= 2 << 20 {
            // A hint: without huge pages everything works, with more TLB misses.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Region { map, len, _charge: charge })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of it, as it is now.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the map is at least this long, initialized by the system, and writing needs `&mut self`, or a promise of
        // whoever uses `as_mut_ptr`.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr(), self.len) }
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr(), self.len) }
    }

    /// The start, aligned to a page; valid for reads and writes of [`Region::len`] bytes while the region lives. Whoever writes
    /// through it sees to it that nobody else reads or writes there, and that no slice of it is alive.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_zero_counted_and_given_back() {
        let account = Account::default();
        let region = Region::new(&account, Part::KvCache, 3 << 20).unwrap();
        let empty = Region::new(&account, Part::Workspace, 0).unwrap();
        assert!(empty.is_empty() && empty.bytes().is_empty());
        assert!(region.bytes().iter().all(|&b| b == 0));
        assert_eq!(region.as_mut_ptr() as usize % 4096, 0);
        assert_eq!(account.now(), MemoryPlan { kv_cache: 3 << 20, ..MemoryPlan::default() });
        drop(region);
        assert_eq!(account.now(), MemoryPlan::default());
    }

    #[test]
    fn a_refusal_is_an_error() {
        let account = Account::default();
        for bytes in [1 << 60, u64::MAX] {
            let error = Region::new(&account, Part::Workspace, bytes).unwrap_err();
            assert!(matches!(error, DeviceError::OutOfMemory { what: "workspace", bytes: b } if b == bytes), "{error}");
        }
        assert_eq!(account.now(), MemoryPlan::default());
    }
}
