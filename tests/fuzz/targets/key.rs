#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kvtyped_fuzz::properties::key::check(bytes));
