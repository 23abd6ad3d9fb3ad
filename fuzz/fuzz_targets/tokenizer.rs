#![no_main]

libfuzzer_sys::fuzz_target!(init: knapsack_fuzz::begin("tokenizer"), |data: &[u8]| knapsack_fuzz::tokenizer(data));
