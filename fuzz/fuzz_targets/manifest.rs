#![no_main]

libfuzzer_sys::fuzz_target!(init: knapsack_fuzz::begin("manifest"), |data: &[u8]| knapsack_fuzz::manifest(data));
