//! How results are cached: the section `[cache]`, with its rules.

use std::time::Duration;

use toml::de::DeValue;

use super::file::{Found, Origin, Section};
use super::value::{Read, Wrong, boolean, bytes, duration, one_of, shown, text};

/// How results are cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Whether they are.
    pub enabled: bool,
    /// What all entries may take, with their keys and all else that they need.
    pub bytes: usize,
    /// A larger result is not kept.
    pub max_entry: usize,
    /// An entry is not older, whatever nobody told us of.
    pub ttl: Duration,
    /// A statement is hot when it is seen twice within this time.
    pub admission_window: Duration,
    /// Who vouches that entries are true.
    pub freshness: CacheFreshness,
    /// How long a client waits for the same result that another is fetching.
    pub flight_wait: Duration,
    /// One hit in so many is asked of the primary too, and compared; `None`: none.
    pub verify: Option<u32>,
    /// Exceptions.
    pub rules: Vec<CacheRule>,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            bytes: 64 << 20,
            max_entry: 1 << 20,
            ttl: Duration::from_secs(15 * 60),
            admission_window: Duration::from_secs(60),
            freshness: CacheFreshness::Stream,
            flight_wait: Duration::from_millis(100),
            verify: None,
            rules: Vec::new(),
        }
    }
}

/// Who vouches that entries are true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheFreshness {
    /// The primary's change stream, and the proxy's own view: without the stream nothing is served.
    Stream,
    /// The operator says that all writes pass through this Weir.
    Proxy,
    /// Nobody: writes that pass elsewhere are seen when the entry's time is up.
    Ttl,
}

impl CacheFreshness {
    /// The word in the file and in the console.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Proxy => "proxy",
            Self::Ttl => "ttl",
        }
    }
}

/// What to do with the statements that a rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheAction {
    /// Cached from the first time on.
    Always,
    /// Cached when hot, as without a rule.
    Hot,
    /// Not cached.
    Never,
}

/// A rule: what it names must all hold. Where several speak of a statement, the most careful word of each kind counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRule {
    /// Its name in the file.
    pub name: String,
    /// One of the tables that are read, `schema.table` or a name in any schema.
    pub table: Option<String>,
    /// The statement's.
    pub fingerprint: Option<u64>,
    /// As it is called on the servers.
    pub database: Option<String>,
    /// Who logged in.
    pub user: Option<String>,
    /// What to do.
    pub action: CacheAction,
    /// Instead of that of the section, if it is shorter than that of other rules.
    pub ttl: Option<Duration>,
    /// Likewise.
    pub max_entry: Option<usize>,
}

const FRESHNESS: [(&str, CacheFreshness); 3] =
    [("stream", CacheFreshness::Stream), ("proxy", CacheFreshness::Proxy), ("ttl", CacheFreshness::Ttl)];

const ACTIONS: [(&str, CacheAction); 3] =
    [("always", CacheAction::Always), ("hot", CacheAction::Hot), ("never", CacheAction::Never)];

/// Reads the section. `given`: what flag or environment say of `enabled`, and where.
pub(super) fn cache(mut section: Section<'_>, given: Option<(&str, Origin)>, found: &Found) -> CacheSettings {
    let default = CacheSettings::default();
    let in_file = section.read("enabled", boolean);
    let given = given.and_then(|(word, origin)| match word {
        "on" | "true" => Some(true),
        "off" | "false" => Some(false),
        other => {
            found.note(&origin, Wrong::with_got("on or off", shown(other)));
            None
        }
    });
    let cache = CacheSettings {
        enabled: given.or(in_file).unwrap_or(default.enabled),
        bytes: section.read("bytes", bytes("64kB"..="1024GB")).unwrap_or(default.bytes),
        max_entry: section.read("max_entry", bytes("1kB"..="64MB")).unwrap_or(default.max_entry),
        ttl: section.read("ttl", duration("10ms"..="7d")).unwrap_or(default.ttl),
        admission_window: section
            .read("admission_window", duration("10ms"..="1d"))
            .unwrap_or(default.admission_window),
        freshness: section.read("freshness", one_of(&FRESHNESS)).unwrap_or(default.freshness),
        flight_wait: section.read("flight_wait", duration("0s"..="1min")).unwrap_or(default.flight_wait),
        verify: section.read("verify", share).unwrap_or(default.verify),
        rules: section
            .named_sections("rules")
            .into_iter()
            .map(|(name, rules)| rule(name.value, rules))
            .collect(),
    };
    section.finish();
    cache
}

fn rule(name: String, mut section: Section<'_>) -> CacheRule {
    let rule = CacheRule {
        name,
        table: section.read("table", text),
        fingerprint: section.read("fingerprint", fingerprint),
        database: section.read("database", text),
        user: section.read("user", text),
        action: section.read("cache", one_of(&ACTIONS)).unwrap_or(CacheAction::Hot),
        ttl: section.read("ttl", duration("10ms"..="7d")),
        max_entry: section.read("max_entry", bytes("1kB"..="64MB")),
    };
    section.finish();
    rule
}

/// `"1/1000"`, or `"0"`.
fn share(value: &DeValue<'_>) -> Read<Option<u32>> {
    let wrong = || Wrong::new("a share such as \"1/1000\", or \"0\" for none");
    match value.as_str().ok_or_else(wrong)? {
        "0" => Ok(None),
        share => {
            let of = share.strip_prefix("1/").and_then(|of| of.parse().ok()).filter(|of| *of > 0);
            of.map(Some).ok_or_else(wrong)
        }
    }
}

fn fingerprint(value: &DeValue<'_>) -> Read<u64> {
    let text = value.as_str().filter(|text| text.len() == 16);
    text.and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or_else(|| Wrong::new("a fingerprint of 16 hexadecimal digits"))
}
