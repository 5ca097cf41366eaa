#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rivven_mqtt::fuzzing::config(data));
