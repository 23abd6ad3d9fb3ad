#![no_main]

libfuzzer_sys::fuzz_target!(init: knapsack_fuzz::begin("lock"), |data: &[u8]| knapsack_fuzz::lock(data));
