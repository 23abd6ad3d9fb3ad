//! The model manager's own sources with locks whose schedule `shuttle` decides. What waits there is woken by a notification alone, never
//! by the time that passes, so a notification that is missing is a deadlock, which `shuttle` tells.

#![allow(dead_code, reason = "only the manager is driven")]

#[path = "../../../crates/knapsack-runtime/src/cancel.rs"]
pub mod cancel;
#[path = "../../../crates/knapsack-runtime/src/manager/mod.rs"]
pub mod manager;

mod sync {
    pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use shuttle::thread::sleep;
}
