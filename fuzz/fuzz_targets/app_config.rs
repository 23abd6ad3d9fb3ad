#![no_main]

libfuzzer_sys::fuzz_target!(init: knapsack_fuzz::begin("app_config"), |data: &[u8]| knapsack_fuzz::app_config(data));
