#![no_main]

libfuzzer_sys::fuzz_target!(init: knapsack_fuzz::begin("library"), |data: &[u8]| knapsack_fuzz::library(data));
