//! Where the OpenCL library is.

use std::ffi::OsStr;
use std::path::PathBuf;

/// Environment variable with paths that are tried first, separated like `PATH`.
pub const PATH_VARIABLE: &str = "OPENCL_DYLIB_PATH";

/// Names for the dynamic linker, then vendors' places on phones whose linker namespace hides them.
#[cfg(any(target_os = "android", target_os = "linux"))]
const CANDIDATES: &[&str] = &[
    "libOpenCL.so",
    "libOpenCL.so.1",
    "libOpenCL-pixel.so",
    "libOpenCL-car.so",
    "/vendor/lib64/libOpenCL.so",
    "/system/vendor/lib64/libOpenCL.so",
    "/system/lib64/libOpenCL.so",
    "/vendor/lib64/egl/libGLES_mali.so",
    "/system/vendor/lib64/egl/libGLES_mali.so",
    "/vendor/lib64/libPVROCL.so",
    "/system/vendor/lib64/libPVROCL.so",
];
#[cfg(target_vendor = "apple")]
const CANDIDATES: &[&str] = &["/System/Library/Frameworks/OpenCL.framework/OpenCL"];
#[cfg(windows)]
const CANDIDATES: &[&str] = &["OpenCL.dll"];
#[cfg(not(any(target_os = "android", target_os = "linux", target_vendor = "apple", windows)))]
const CANDIDATES: &[&str] = &["libOpenCL.so", "libOpenCL.so.1"];

/// What to try, in order; `variable` is the value of [`PATH_VARIABLE`].
pub(super) fn candidates(variable: Option<&OsStr>) -> Vec<PathBuf> {
    let named = variable.map(std::env::split_paths).into_iter().flatten().filter(|path| !path.as_os_str().is_empty());
    named.chain(CANDIDATES.iter().map(PathBuf::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_variable_comes_first_and_vendors_paths_last() {
        let all = candidates(Some(OsStr::new("/opt/a.so:/opt/b.so:")));
        assert_eq!(all[..3], ["/opt/a.so", "/opt/b.so", "libOpenCL.so"].map(PathBuf::from));
        assert!(all.contains(&PathBuf::from("/vendor/lib64/egl/libGLES_mali.so")));
        assert_eq!(candidates(None).len(), all.len() - 2);
    }
}
