//! What a file must be, and hashing it, both as sha256 and as Git names it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// Length and content that a file must have. At least one of the two digests is known, or any content will do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Expected {
    pub(crate) size: u64,
    /// Of the content.
    pub(crate) sha256: Option<String>,
    /// Of a Git blob with that content: what the hub knows of files that are not in LFS.
    pub(crate) git_oid: Option<String>,
}

/// What a file's content turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) size: u64,
    pub(crate) sha256: String,
    pub(crate) git_oid: Option<String>,
}

/// Hashes a stream whose length is known beforehand.
pub(crate) struct Hasher {
    sha256: Sha256,
    git: Option<Sha1>,
    size: u64,
}

impl Hasher {
    /// `git_size`: the length that the Git object id is computed for; `None` leaves that digest out.
    pub(crate) fn new(git_size: Option<u64>) -> Self {
        let git = git_size.map(|size| Sha1::new_with_prefix(format!("blob {size}\0")));
        Self { sha256: Sha256::new(), git, size: 0 }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.git.iter_mut().for_each(|git| git.update(bytes));
        self.size += bytes.len() as u64;
    }

    pub(crate) fn finish(self) -> Found {
        let git_oid = self.git.map(|git| hex::encode(git.finalize()));
        Found { size: self.size, sha256: hex::encode(self.sha256.finalize()), git_oid }
    }
}

impl Expected {
    /// Compares; `file` names it in the error.
    pub(crate) fn check(&self, file: &str, found: &Found) -> Result<()> {
        if found.size != self.size {
            return Err(Error::WrongSize { file: file.to_owned(), expected: self.size, found: found.size, hint: "" });
        }
        let pairs =
            [("sha256", &self.sha256, Some(&found.sha256)), ("git object id", &self.git_oid, found.git_oid.as_ref())];
        for (algorithm, expected, found) in pairs {
            if let (Some(expected), Some(found)) = (expected, found)
                && expected != found
            {
                let (file, expected, found) = (file.to_owned(), expected.clone(), found.clone());
                return Err(Error::WrongDigest { file, algorithm, expected, found });
            }
        }
        Ok(())
    }
}

/// Hashes the first `size` bytes of a file that has at least that many.
pub(crate) fn hash_prefix(file: &mut File, size: u64, hasher: &mut Hasher) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut file = file.take(size);
    loop {
        match file.read(&mut buffer) {
            Ok(0) if file.limit() == 0 => return Ok(()),
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Hashes a whole file; `git` asks for its Git object id too.
pub(crate) fn hash_file(path: &Path, git: bool) -> Result<Found> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    let mut hasher = Hasher::new(git.then_some(size));
    hash_prefix(&mut file, size, &mut hasher).map_err(Error::io("read", path))?;
    Ok(hasher.finish())
}

/// sha256 of a file, in lower-case hexadecimal digits.
pub fn sha256_file(path: &Path) -> Result<String> {
    hash_file(path, false).map(|found| found.sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_digests_are_the_known_ones() {
        let mut hasher = Hasher::new(Some(6));
        hasher.update(b"hel");
        hasher.update(b"lo\n");
        let found = hasher.finish();
        assert_eq!(found.sha256, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        // `echo hello | git hash-object --stdin`
        assert_eq!(found.git_oid.as_deref(), Some("ce013625030ba8dba906f756967f9e9ca394464a"));
        let expected = |sha256: &str, git_oid: &str, size| Expected {
            size,
            sha256: Some(sha256.to_owned()),
            git_oid: Some(git_oid.to_owned()),
        };
        let (sha256, git_oid) = (found.sha256.clone(), found.git_oid.clone().unwrap());
        assert!(expected(&sha256, &git_oid, 6).check("f", &found).is_ok());
        assert!(matches!(expected(&sha256, &git_oid, 7).check("f", &found), Err(Error::WrongSize { .. })));
        assert!(matches!(expected("00", &git_oid, 6).check("f", &found), Err(Error::WrongDigest { .. })));
        assert!(matches!(expected(&sha256, "00", 6).check("f", &found), Err(Error::WrongDigest { .. })));
    }
}
