#![no_main]

libfuzzer_sys::fuzz_target!(init: knapsack_fuzz::begin("template"), |data: &[u8]| knapsack_fuzz::template(data));
