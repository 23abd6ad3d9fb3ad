//! Type-checks the crates that an iPhone app links, for Apple's targets, on any machine: no Xcode, no SDK, no Mac. It shows that
//! the Metal device and everything around it compiles against objc2's bindings of Metal; not that it links or runs.

use crate::toolchain::{Toolchain, run};
use anyhow::Result;
use std::path::Path;

/// Device, simulator, Catalyst.
const TARGETS: [&str; 3] = ["aarch64-apple-ios", "aarch64-apple-ios-sim", "aarch64-apple-ios-macabi"];

/// Checks every target.
pub(crate) fn check(root: &Path) -> Result<()> {
    for target in TARGETS {
        let mut cargo = Toolchain::of(root, target)?.cargo(root, "check", "");
        run(cargo.args(["--package", "knapsack-device", "--package", "knapsack-runtime"]))?;
    }
    Ok(())
}
