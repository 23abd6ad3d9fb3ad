#![no_main]

libfuzzer_sys::fuzz_target!(init: knapsack_fuzz::begin("config"), |data: &[u8]| knapsack_fuzz::config(data));
