//! Several files at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::error::{Error, FetchError, Result};

/// Calls `work` for every item, on up to `workers` threads. The results keep the order of the items. After a failure `stop` is
/// set, what is under way ends early, and the failure that caused it is returned with the number of its item.
pub(crate) fn parallel<T: Sync, R: Send>(
    items: &[T],
    workers: usize,
    stop: &AtomicBool,
    work: impl Fn(usize, &T) -> Result<R> + Sync,
) -> Result<Vec<R>, FetchError> {
    let next = AtomicUsize::new(0);
    let results: Vec<_> = items.iter().map(|_| Mutex::new(None)).collect();
    let failure = Mutex::new(None);
    let run = || {
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { break };
            match work(index, item) {
                Ok(result) => *lock(&results[index]) = Some(result),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    let mut failure = lock(&failure);
                    if failure.as_ref().is_none_or(|(_, known)| matches!(known, Error::Stopped)) {
                        *failure = Some((index, error));
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        (1..workers.clamp(1, items.len().max(1))).for_each(|_| {
            scope.spawn(run);
        });
        run();
    });
    if let Some((item, source)) = failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        return Err(FetchError { of: Some(item), source });
    }
    let results =
        results.into_iter().map(|result| result.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()));
    results.collect::<Option<Vec<R>>>().ok_or(Error::Stopped.into())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order() {
        let items: Vec<u32> = (0..100).collect();
        let doubled = parallel(&items, 4, &AtomicBool::new(false), |_, item| Ok(item * 2)).unwrap();
        assert_eq!(doubled, (0..100).map(|item| item * 2).collect::<Vec<_>>());
        assert!(parallel(&[] as &[u32], 4, &AtomicBool::new(false), |_, item| Ok(*item)).unwrap().is_empty());
    }

    #[test]
    fn the_first_failure_stops_the_rest_and_is_the_one_returned() {
        let stop = AtomicBool::new(false);
        let items: Vec<u64> = (0..1000).collect();
        let done = AtomicUsize::new(0);
        let error = parallel(&items, 3, &stop, |_, item| {
            if *item == 5 {
                return Err(Error::WrongSize { file: "f".into(), expected: 0, found: *item, hint: "" });
            }
            while *item > 5 && !stop.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            done.fetch_add(1, Ordering::Relaxed);
            if *item > 5 { Err(Error::Stopped) } else { Ok(()) }
        });
        assert!(matches!(error, Err(FetchError { of: Some(5), source: Error::WrongSize { found: 5, .. } })));
        assert!(done.into_inner() < 10);
    }
}
