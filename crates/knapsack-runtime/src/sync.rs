//! What the model manager synchronizes with. `fuzz/schedules` compiles the manager's sources with the same names out of `shuttle`, which
//! runs them under schedules of its own.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use std::thread::sleep;
