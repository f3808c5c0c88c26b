//! The section of the cache that several Weirs share.

use std::fmt;
use std::time::Duration;

use toml::de::DeValue;

use super::file::Section;
use super::value::{Read, Wrong, duration};

/// Where the shared results are.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedCacheSettings {
    /// `redis://...`; `None`: nothing is shared. May hold a password.
    pub url: Option<String>,
    /// What the names of our keys begin with: Weirs in front of one primary have one in common, others have others.
    pub namespace: String,
    /// A lookup that takes longer is a miss.
    pub lookup_timeout: Duration,
    /// How long a write's answer waits at most until the others' results are void.
    pub invalidate_timeout: Duration,
}

impl fmt::Debug for SharedCacheSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCacheSettings")
            .field("is_on", &self.url.is_some())
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Default for SharedCacheSettings {
    fn default() -> Self {
        Self {
            url: None,
            namespace: "weir".to_owned(),
            lookup_timeout: Duration::from_millis(5),
            invalidate_timeout: Duration::from_millis(50),
        }
    }
}

/// Reads the section.
pub(super) fn shared_cache(mut section: Section<'_>) -> SharedCacheSettings {
    let default = SharedCacheSettings::default();
    let timeout = || duration("1ms"..="1s");
    let settings = SharedCacheSettings {
        url: section.read("url", url).flatten(),
        namespace: section.read("namespace", namespace).unwrap_or(default.namespace),
        lookup_timeout: section.read("lookup_timeout", timeout()).unwrap_or(default.lookup_timeout),
        invalidate_timeout: section
            .read("invalidate_timeout", timeout())
            .unwrap_or(default.invalidate_timeout),
    };
    section.finish();
    settings
}

fn url(value: &DeValue<'_>) -> Read<Option<String>> {
    let wrong = || {
        // What was written may hold a password.
        Wrong::with_got(
            "\"\" or a URL as redis://[USER:PASSWORD@]HOST[:PORT][/NUMBER]",
            "another text".to_owned(),
        )
    };
    match value.as_str() {
        Some("") => Ok(None),
        Some(url) if url.starts_with("redis://") || url.starts_with("redis+unix://") => {
            Ok(Some(url.to_owned()))
        }
        _ => Err(wrong()),
    }
}

fn namespace(value: &DeValue<'_>) -> Read<String> {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let is_name = |name: &&str| (1..=60).contains(&name.len()) && name.bytes().all(is_letter);
    let name = value.as_str().filter(is_name).map(str::to_owned);
    name.ok_or_else(|| Wrong::new("1 to 60 letters, digits, dots, hyphens and underscores"))
}
