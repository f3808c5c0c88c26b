//! Gives the configuration what it needs of the machine: environment, files, cores.

use std::collections::BTreeMap;
use std::env;
use std::thread::available_parallelism;

use crate::config::{self, Flags, Machine, Mistakes, Settings};

/// Environment variables; those that are not UTF-8 are none of ours.
pub fn environment() -> BTreeMap<String, String> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    env::vars_os().filter_map(text).collect()
}

/// Reads and checks the settings from flags, environment and file.
pub fn load(flags: &Flags) -> Result<Settings, Mistakes> {
    let environment = environment();
    let cores = available_parallelism().map_or(1, std::num::NonZero::get);
    config::load(flags, &Machine { environment: &environment, cores, read: &|path| std::fs::read(path) })
}
