#![no_main]

libfuzzer_sys::fuzz_target!(init: knapsack_fuzz::begin("chat_config"), |data: &[u8]| knapsack_fuzz::chat_config(data));
