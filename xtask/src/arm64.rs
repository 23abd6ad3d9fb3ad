//! The phone's instruction set, emulated: the CPU device's tests as 64-bit Arm Linux programs under qemu.

use crate::toolchain::{STD, Toolchain, quickly, run, tool};
use anyhow::Result;
use std::path::Path;

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Models that are enough here, where only the routines are in doubt and an emulator takes its time: full attention, sliding
/// windows, recurrent layers; and formats, and cases of each property. A format's products are among the properties. The same variables
/// set otherwise ask for more.
pub(crate) const LESS: [(&str, &str); 3] =
    [("KNAPSACK_MODELS", "gemma2,qwen3_5,lfm2"), ("KNAPSACK_FORMATS", "q4f16_1,q0f16"), ("KNAPSACK_CASES", "12")];
/// Tests of `knapsack-device`, and the processor that each runs on. `cortex-a53` has no dot product, and stops at an instruction that
/// it does not know; `max` has everything that qemu emulates. What is the same code on every processor is left out: slow devices,
/// and what becomes of libraries with mistakes.
const TESTS: [(&[&str], &str); 3] = [
    (&["--test", "conformance", "--", "cpu_neon"], "cortex-a53"),
    (&["--test", "conformance", "--", "cpu_neon_"], "max"),
    (&["--test", "cpu", "--", "--skip", "changed_libraries_do_no_harm"], "max"),
];
/// Optimised all the same: what makes models. (The routines are, in every profile.)
const OPTIMIZED: [&str; 3] = ["half", "knapsack-tensor", "knapsack-weights"];

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
        for package in OPTIMIZED {
            cargo.arg("--config").arg(format!("profile.mobile.package.{package}.opt-level=2"));
        }
        cargo.args(["--profile", "mobile", "--package", "knapsack-device"]).args(tests);
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", &linker);
        let runner = format!("{qemu} -cpu {processor} -L /usr/aarch64-linux-gnu");
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner);
        quickly(&mut cargo);
        for (name, value) in LESS.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()) {
            cargo.env(name, value);
        }
        run(&mut cargo)?;
    }
    Ok(())
}
