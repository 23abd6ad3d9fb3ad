//! The phone's instruction set, emulated: the CPU device's tests as 64-bit Arm Linux programs under qemu.

use crate::toolchain::{STD, Toolchain, run, tool};
use anyhow::Result;
use std::path::Path;

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Models that are enough here, where only the routines are in doubt and an emulator takes its time: full attention, sliding
/// windows, recurrent layers. `KNAPSACK_MODELS` names others.
const MODELS: &str = "gemma2,qwen3_5,lfm2";
/// Tests of `knapsack-device`, and the processor that each runs on. `cortex-a53` has no dot product; `max` has everything that
/// qemu emulates, and runs the routines with it and without it. The slow devices of the conformance suite are left out: they are
/// the same code on every processor.
const TESTS: [(&[&str], &str); 3] = [
    (&["--lib", "--test", "memory"], "cortex-a53"),
    (&["--test", "cpu"], "max"),
    (&["--test", "conformance", "cpu_neon"], "max"),
];

/// Runs programs for 64-bit Arm.
pub(crate) fn qemu() -> Result<String> {
    tool(&["qemu-aarch64-static", "qemu-aarch64"], "qemu-user-static")
}

/// Compiles and links them for Linux.
pub(crate) fn gcc() -> Result<String> {
    tool(&["aarch64-linux-gnu-gcc"], "gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
}

/// Builds and runs them.
pub(crate) fn check(root: &Path) -> Result<()> {
    let (qemu, linker) = (qemu()?, gcc()?);
    let toolchain = Toolchain::of(root, TARGET)?;
    for (tests, processor) in TESTS {
        let mut cargo = toolchain.cargo(root, "test", &format!("{STD},test"))?;
        cargo.args(["--package", "knapsack-device"]).args(tests);
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", &linker);
        let runner = format!("{qemu} -cpu {processor} -L /usr/aarch64-linux-gnu");
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner);
        // The routines are optimised in every profile; the rest takes longer to optimise than to run. What checks would cost there is
        // paid by the other tests.
        for setting in ["DEBUG", "INCREMENTAL", "DEBUG_ASSERTIONS", "OVERFLOW_CHECKS"] {
            cargo.env(format!("CARGO_PROFILE_DEV_{setting}"), "false");
        }
        if std::env::var_os("KNAPSACK_MODELS").is_none() {
            cargo.env("KNAPSACK_MODELS", MODELS);
        }
        run(&mut cargo)?;
    }
    Ok(())
}
