//! How much memory models may take: what the system says, less a share for the process itself and for what others allocate meanwhile.
//!
//! iOS and Linux are asked here. Android answers only through Java: the app passes the figures of `ActivityManager.MemoryInfo` in
//! ([`android_budget`]).

use std::fs::read_to_string;
use std::path::Path;

/// The share of the available memory that models get when nobody says otherwise.
const SHARE_PERCENT: u64 = 80;

/// The budget for models in this process: four fifths of what is available. `None` where the system does not say.
pub fn system_budget() -> Option<u64> {
    available_memory().map(share)
}

/// The budget on Android, from `availMem` and `threshold` of `ActivityManager.MemoryInfo`, in bytes: below the threshold the
/// system ends apps, so four fifths of what is above it.
pub fn android_budget(avail_mem: u64, threshold: u64) -> u64 {
    share(avail_mem.saturating_sub(threshold))
}

const fn share(bytes: u64) -> u64 {
    bytes / 100 * SHARE_PERCENT
}

/// Bytes that this process can still use. On iOS what its limit leaves; on Linux the system's estimate without swapping, or what
/// the control group leaves if that is less. `None` where the system does not say.
pub(crate) fn available_memory() -> Option<u64> {
    knapsack_device::app_memory_left().or_else(linux_memory)
}

/// `None` where there is no `/proc`.
fn linux_memory() -> Option<u64> {
    let meminfo = read_to_string("/proc/meminfo").ok()?;
    let system = meminfo_available(&meminfo)?;
    let group = read_to_string("/proc/self/cgroup").ok().and_then(|groups| {
        let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?.to_owned();
        unified_group_left(Path::new("/sys/fs/cgroup"), &path)
    });
    let legacy = legacy_group_left(Path::new("/sys/fs/cgroup/memory"));
    Some([group, legacy].into_iter().flatten().fold(system, u64::min))
}

fn meminfo_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least that any level of the hierarchy leaves (cgroup v2). Page cache counts as used there but can be reclaimed.
fn unified_group_left(root: &Path, group: &str) -> Option<u64> {
    let mut folder = root.join(group.trim_start_matches('/'));
    let mut least = None;
    while folder.starts_with(root) {
        let limit = number(&folder.join("memory.max"));
        let used = number(&folder.join("memory.current"));
        if let (Some(limit), Some(used)) = (limit, used) {
            let cache = statistic(&folder.join("memory.stat"), "inactive_file").unwrap_or(0);
            let left = limit.saturating_sub(used.saturating_sub(cache));
            least = Some(least.map_or(left, |least: u64| least.min(left)));
        }
        if !folder.pop() {
            break;
        }
    }
    least
}

/// The same for cgroup v1, where an absent limit is a huge number.
fn legacy_group_left(folder: &Path) -> Option<u64> {
    let limit = number(&folder.join("memory.limit_in_bytes"))?;
    let used = number(&folder.join("memory.usage_in_bytes"))?;
    let cache = statistic(&folder.join("memory.stat"), "total_inactive_file").unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

/// `None` for `max`.
fn number(path: &Path) -> Option<u64> {
    read_to_string(path).ok()?.trim().parse().ok()
}

fn statistic(path: &Path, name: &str) -> Option<u64> {
    let text = read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};

    #[test]
    fn meminfo() {
        assert_eq!(meminfo_available("MemTotal: 8 kB\nMemAvailable:    2048 kB\n"), Some(2048 * 1024));
        assert_eq!(meminfo_available("MemTotal: 8 kB\n"), None);
        assert_eq!(meminfo_available("MemAvailable: 99999999999999999999 kB\n"), None);
    }

    #[test]
    fn the_tightest_control_group_decides() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("app/inner");
        create_dir_all(&group).unwrap();
        write(group.join("memory.max"), "max\n").unwrap();
        write(group.join("memory.current"), "100\n").unwrap();
        assert_eq!(unified_group_left(root.path(), "/app/inner"), None);
        write(root.path().join("app/memory.max"), "1000\n").unwrap();
        write(root.path().join("app/memory.current"), "400\n").unwrap();
        assert_eq!(unified_group_left(root.path(), "/app/inner"), Some(600));
        write(root.path().join("app/memory.stat"), "anon 300\ninactive_file 150\n").unwrap();
        assert_eq!(unified_group_left(root.path(), "/app/inner"), Some(750));
        write(group.join("memory.max"), "200").unwrap();
        assert_eq!(unified_group_left(root.path(), "/app/inner"), Some(100));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_some() {
        let available = available_memory().unwrap();
        assert!(available > 1 << 20);
        assert!(system_budget().unwrap() < available);
    }

    #[test]
    fn android_keeps_its_threshold() {
        assert_eq!(android_budget(1_200, 200), 800);
        assert_eq!(android_budget(200, 1_200), 0);
    }
}
