//! The OpenCL kernels under Oclgrind, which interprets them thread by thread and tells data races, divergent barriers and accesses
//! beyond what a buffer or local memory has: every operation of the conformance suite, a model of each kind of kernel, and every way of
//! tiling products of many tokens. Debian has it as `oclgrind`; where it lies elsewhere, `OCLGRIND_LIBRARY` says where
//! (`liboclgrind-rt.so`).

use crate::toolchain::{Unavailable, host_target, run};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Debian has the library that is loaded as an OpenCL.
const LIBRARY: &str = "/usr/lib/oclgrind/liboclgrind-rt.so";
/// What runs under it.
const TESTS: [[&str; 3]; 2] = [
    ["conformance", "--exact", "driver::opencl"],
    ["opencl", "--exact", "products_of_many_tokens_are_tiled_in_every_way"],
];
/// Families of the models: rows and columns of codes, windows, layers that remember, layers that share a cache.
const MODELS: &str = "llama,mistral,lfm3,qwen3_5,gemma4";

pub(crate) fn check(root: &Path) -> Result<()> {
    let library = std::env::var_os("OCLGRIND_LIBRARY").map_or_else(|| PathBuf::from(LIBRARY), PathBuf::from);
    if !library.is_file() {
        return Err(Unavailable(format!("there is no Oclgrind at {} (Debian: oclgrind)", library.display())).into());
    }
    let log = host_target(root).join("oclgrind.log");
    for test in TESTS {
        let _ = std::fs::remove_file(&log);
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["test", "--locked", "--package", "knapsack-device", "--test", test[0], "--"]).args(&test[1..]);
        cargo.arg("--nocapture").current_dir(root);
        cargo.env("OPENCL_DYLIB_PATH", &library).env("KNAPSACK_REQUIRE_OPENCL", "1").env("KNAPSACK_MODELS", MODELS);
        cargo.env("OCLGRIND_LOG", &log).env("OCLGRIND_DATA_RACES", "1").env("OCLGRIND_MAX_ERRORS", "20");
        run(&mut cargo)?;
        let said = std::fs::read_to_string(&log).with_context(|| format!("{} was not written", log.display()))?;
        if !said.trim().is_empty() {
            bail!("Oclgrind on {}:\n{}", test[2], said.lines().take(60).collect::<Vec<_>>().join("\n"));
        }
    }
    println!("no data race and no access beyond a buffer");
    Ok(())
}
