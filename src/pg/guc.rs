//! Run-time settings (GUCs): how their names compare.

use std::fmt;

/// The settings that a server reports by itself after login, as ParameterStatus
/// (manual, 55.2.7 Asynchronous Operations; PostgreSQL 18 added `search_path`).
pub const REPORTED_AT_STARTUP: &[&str] = &[
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "in_hot_standby",
    "integer_datetimes",
    "IntervalStyle",
    "is_superuser",
    "scram_iterations",
    "search_path",
    "server_encoding",
    "server_version",
    "session_authorization",
    "standard_conforming_strings",
    "TimeZone",
];

/// The name of a setting. PostgreSQL compares these without regard to ASCII case, so the name is kept in lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GucName(Box<str>);

impl GucName {
    /// Folds `name` to lower case.
    pub fn new(name: &str) -> Self {
        Self(name.to_ascii_lowercase().into_boxed_str())
    }

    /// The folded name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name with a dot is a placeholder that an extension or an application made up
    /// (manual, 20.16 Customized Options).
    pub fn is_custom(&self) -> bool {
        self.0.contains('.')
    }
}

impl fmt::Debug for GucName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for GucName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
