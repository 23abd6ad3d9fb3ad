#![no_main]

libfuzzer_sys::fuzz_target!(init: knapsack_fuzz::begin("safetensors"), |data: &[u8]| knapsack_fuzz::safetensors(data));
