//! Bytes as a script for the session machine. The first says how they are read: as a conversation of several clients,
//! which is held against the model in `tests/properties/session`; or as raw messages from either side, which nothing
//! shall make panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, unused_imports, reason = "its properties are run elsewhere")]
#[path = "../../tests/properties/session/mod.rs"]
mod session;

fuzz_target!(|data: &[u8]| {
    let Some((how, script)) = data.split_first() else { return };
    if how & 1 == 0 {
        if let Err(problem) = session::check_script(script) {
            panic!("{problem}");
        }
    } else {
        session::survive(script);
    }
});

/// What the properties' own module gives to [`session`].
fn config(cases: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config::with_cases(cases)
}
