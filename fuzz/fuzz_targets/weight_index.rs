#![no_main]

libfuzzer_sys::fuzz_target!(init: knapsack_fuzz::begin("weight_index"), |data: &[u8]| knapsack_fuzz::weight_index(data));
