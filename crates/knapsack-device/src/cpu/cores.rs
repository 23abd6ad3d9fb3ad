//! On which cores the threads of a pool should run. Phones have cores of two or three kinds, and a task is as slow as its slowest
//! thread: the small ones, with a third of the speed, would hold up the others.

use std::path::Path;

/// Cores with less than this share of the fastest core's capacity are left to other work.
const SHARE_PERCENT: u64 = 50;
/// Most CPUs that are looked for.
const MAX_CPUS: usize = 1024;

/// Where threads belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// How many threads are worth having.
    pub(crate) threads: usize,
    /// The CPUs that they may run on; empty: the system's choice.
    pub(crate) cpus: Vec<usize>,
}

impl Placement {
    /// `threads` threads wherever the system puts them.
    pub(crate) const fn anywhere(threads: usize) -> Self {
        Placement { threads, cpus: Vec::new() }
    }

    /// One thread for each performance core that this process may use, or for each core where all are worth using.
    pub(crate) fn of_this_machine() -> Self {
        let allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
        let system = Path::new("/sys/devices/system/cpu");
        if let Some(placement) = performance_cores(system, &may_use) {
            return placement;
        }
        let threads = apple_performance_cores().unwrap_or_else(|| allowed.div_ceil(threads_per_core(system)));
        Self::anywhere(threads.clamp(1, allowed))
    }
}

/// The cores worth using where some are not, by the kernel's own measure: `cpu_capacity` (the fastest core has 1024), or
/// the highest frequency where that is not told.
fn performance_cores(system: &Path, may_use: &dyn Fn(usize) -> bool) -> Option<Placement> {
    let number = |path: String| std::fs::read_to_string(system.join(path)).ok()?.trim().parse::<u64>().ok();
    let capacities = |file: &str| -> Vec<(usize, u64)> {
        let cpus = (0..MAX_CPUS).take_while(|cpu| system.join(format!("cpu{cpu}")).is_dir());
        cpus.filter_map(|cpu| Some((cpu, number(format!("cpu{cpu}/{file}"))?))).collect()
    };
    let mut cores = capacities("cpu_capacity");
    if cores.is_empty() {
        cores = capacities("cpufreq/cpuinfo_max_freq");
    }
    cores.retain(|(cpu, _)| may_use(*cpu));
    let fastest = cores.iter().map(|(_, capacity)| *capacity).max()?;
    let fast = |capacity: u64| capacity.saturating_mul(100) >= fastest.saturating_mul(SHARE_PERCENT);
    let cpus: Vec<usize> = cores.iter().filter(|(_, capacity)| fast(*capacity)).map(|(cpu, _)| *cpu).collect();
    (cpus.len() < cores.len()).then_some(Placement { threads: cpus.len(), cpus })
}

/// Hardware threads of the first core; 1 where the system does not say.
fn threads_per_core(system: &Path) -> usize {
    let Ok(list) = std::fs::read_to_string(system.join("cpu0/topology/thread_siblings_list")) else { return 1 };
    let count = |range: &str| -> Option<usize> {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        (to.parse::<usize>().ok()?).checked_sub(from.parse().ok()?)?.checked_add(1)
    };
    list.trim().split(',').map(count).sum::<Option<usize>>().unwrap_or(1).clamp(1, 8)
}

/// Whether this process may run on a CPU.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn may_use(cpu: usize) -> bool {
    // SAFETY: the set is plain bits, zeroes among its values; the call writes at most its size.
    let (set, code) = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let code = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set);
        (set, code)
    };
    // SAFETY: the index is inside the set.
    code != 0 || (cpu < 8 * size_of::<libc::cpu_set_t>() && unsafe { libc::CPU_ISSET(cpu, &set) })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn may_use(_: usize) -> bool {
    true
}

/// Cores of the fastest kind, where Apple's system tells kinds apart.
#[cfg(target_vendor = "apple")]
fn apple_performance_cores() -> Option<usize> {
    let mut count = 0i32;
    let mut size = size_of::<i32>();
    // SAFETY: a C string, a variable and its size; nothing is set.
    let code = unsafe {
        let name = c"hw.perflevel0.physicalcpu".as_ptr();
        libc::sysctlbyname(name, (&raw mut count).cast(), &mut size, std::ptr::null_mut(), 0)
    };
    if code == 0 { usize::try_from(count).ok().filter(|&count| count > 0) } else { None }
}

#[cfg(not(target_vendor = "apple"))]
const fn apple_performance_cores() -> Option<usize> {
    None
}

/// Moves the calling thread to where it belongs. Systems that refuse leave it where it is, which only costs time.
pub(crate) fn place_thread(cpus: &[usize]) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if !cpus.is_empty() {
        // SAFETY: the set is plain bits, zeroes among its values; indices beyond it are left out.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            cpus.iter()
                .filter(|&&cpu| cpu < 8 * size_of::<libc::cpu_set_t>())
                .for_each(|&cpu| libc::CPU_SET(cpu, &mut set));
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
        }
    }
    #[cfg(target_vendor = "apple")]
    // SAFETY: changes the class of the calling thread only. Work that a person waits for goes to the performance cores.
    unsafe {
        libc::pthread_set_qos_class_self_np(libc::qos_class_t::QOS_CLASS_USER_INITIATED, 0);
    }
    let _ = cpus;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree like the kernel's, with a number in a file of each CPU.
    fn system(file: &str, values: &[u64]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (cpu, value) in values.iter().enumerate() {
            let path = root.path().join(format!("cpu{cpu}/{file}"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{value}\n")).unwrap();
        }
        std::fs::create_dir_all(root.path().join("cpufreq")).unwrap();
        root
    }

    fn cpus(file: &str, values: &[u64]) -> Option<Vec<usize>> {
        performance_cores(system(file, values).path(), &|_| true).map(|placement| {
            assert_eq!(placement.threads, placement.cpus.len());
            placement.cpus
        })
    }

    #[test]
    fn small_cores_are_left_alone() {
        // Capacities as kernels report them: 4 + 3 + 1, 2 + 6, 1 + 5 + 2 cores.
        assert_eq!(cpus("cpu_capacity", &[250, 250, 250, 250, 768, 768, 768, 1024]), Some(vec![4, 5, 6, 7]));
        assert_eq!(cpus("cpu_capacity", &[340, 340, 340, 340, 340, 340, 1024, 1024]), Some(vec![6, 7]));
        assert_eq!(cpus("cpu_capacity", &[1024, 860, 860, 860, 860, 860, 320, 320]), Some(vec![0, 1, 2, 3, 4, 5]));
        assert_eq!(cpus("cpufreq/cpuinfo_max_freq", &[1_500_000, 1_500_000, 3_300_000]), Some(vec![2]));
    }

    #[test]
    fn where_all_are_fast_enough_or_nothing_is_said_the_system_chooses() {
        assert_eq!(cpus("cpu_capacity", &[700, 1024]), None);
        assert_eq!(cpus("cpu_capacity", &[1024; 8]), None);
        assert_eq!(cpus("cpufreq/cpuinfo_max_freq", &[5_000_000, 4_900_000]), None);
        assert_eq!(cpus("something", &[1, 2]), None);
        assert_eq!(performance_cores(Path::new("/nonexistent"), &|_| true), None);
    }

    #[test]
    fn only_what_the_process_may_use_counts() {
        let root = system("cpu_capacity", &[250, 250, 1024, 1024]);
        let placement = |may: fn(usize) -> bool| performance_cores(root.path(), &may);
        assert_eq!(placement(|cpu| cpu != 3), Some(Placement { threads: 1, cpus: vec![2] }));
        assert_eq!(placement(|cpu| cpu < 2), None, "small ones alone are all alike");
        assert_eq!(placement(|_| false), None);
        let own = Placement::of_this_machine();
        assert!(own.threads >= 1 && own.threads <= std::thread::available_parallelism().unwrap().get());
    }

    #[test]
    fn siblings_count_once() {
        for (list, threads) in [("0", 1), ("0-1", 2), ("0,4", 2), ("0,2-3", 3), ("", 1), ("x", 1), ("0-99", 8)] {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(root.path().join("cpu0/topology")).unwrap();
            std::fs::write(root.path().join("cpu0/topology/thread_siblings_list"), list).unwrap();
            assert_eq!(threads_per_core(root.path()), threads, "{list:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_goes_where_it_is_put() {
        let first = (0..MAX_CPUS).find(|&cpu| may_use(cpu)).unwrap();
        std::thread::spawn(move || {
            place_thread(&[first]);
            assert!((0..MAX_CPUS).all(|cpu| may_use(cpu) == (cpu == first)));
            place_thread(&[MAX_CPUS * 64]);
        })
        .join()
        .unwrap();
    }
}
