//! Properties: what holds for any input. `PROPTEST_CASES=2560` runs ten times as many cases as the default, 256, does.

mod frame;
mod outline;
mod scram;
mod session;
mod startup;
mod stream;
mod views;

use proptest::test_runner::Config;

/// So many cases by default; `PROPTEST_CASES` scales that. Failures are printed, and written to no files.
fn config(cases: u32) -> Config {
    let default = Config::default();
    let scaled = u64::from(cases) * u64::from(default.cases) / 256;
    Config {
        cases: u32::try_from(scaled.max(1)).unwrap_or(u32::MAX),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..default
    }
}
