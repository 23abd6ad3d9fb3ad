//! What a file looks like from outside, by which a hash of it is believed or not.

use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a file looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(super) size: u64,
    pub(super) modified: u64,
    pub(super) changed: u64,
    pub(super) inode: u64,
}

impl Stamp {
    pub(crate) fn of(metadata: &std::fs::Metadata) -> Self {
        let modified = metadata.modified().ok().map_or(0, nanoseconds);
        #[cfg(unix)]
        let (changed, inode) = {
            use std::os::unix::fs::MetadataExt;
            let changed = metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec());
            (changed.max(0) as u64, metadata.ino() ^ metadata.dev().rotate_left(32))
        };
        #[cfg(not(unix))]
        let (changed, inode) = (modified, 0);
        Self { size: metadata.len(), modified, changed, inode }
    }

    /// Whether a file of this metadata was not written to since.
    pub(crate) fn has_content_of(&self, metadata: &std::fs::Metadata) -> bool {
        let now = Self::of(metadata);
        (self.size, self.modified, self.inode) == (now.size, now.modified, now.inode)
    }

    /// Whether a write after `hashed` must have left another time. File systems with whole seconds get two of them.
    pub(super) fn is_settled(&self, hashed: u64) -> bool {
        let margin = if self.modified.is_multiple_of(1_000_000_000) { 2_100_000_000 } else { 100_000_000 };
        self.modified.max(self.changed).saturating_add(margin) <= hashed
    }
}

/// Since 1970; fits until 2554.
pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |duration| duration.as_nanos() as u64)
}
