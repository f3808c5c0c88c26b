//! The change stream's section.

use std::time::Duration;

use toml::de::DeValue;

use super::file::Section;
use super::splitting::{Switch, switch};
use super::value::{Read, Wrong, duration, one_of};

/// How the primary's changes are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSettings {
    /// Whether they are.
    pub enabled: Switch,
    /// What the server decodes its log with.
    pub plugin: StreamPlugin,
    /// The publication that `pgoutput` is to use.
    pub publication: String,
    /// What the names of our slots begin with.
    pub slot_prefix: String,
    /// Silence, or being behind, for so long: the stream no longer vouches for anything.
    pub max_delay: Duration,
}

/// What the server decodes its log with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamPlugin {
    /// `test_decoding` where it is installed, else `pgoutput` where there is a publication.
    Auto,
    /// `test_decoding`
    TestDecoding,
    /// `pgoutput`; its publication is created where that is possible.
    PgOutput,
}

const PLUGINS: [(&str, StreamPlugin); 3] = [
    ("auto", StreamPlugin::Auto),
    ("test_decoding", StreamPlugin::TestDecoding),
    ("pgoutput", StreamPlugin::PgOutput),
];

impl StreamPlugin {
    /// The word in the file and in the console.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::TestDecoding => "test_decoding",
            Self::PgOutput => "pgoutput",
        }
    }
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            enabled: Switch::Auto,
            plugin: StreamPlugin::Auto,
            publication: "weir".to_owned(),
            slot_prefix: "weir".to_owned(),
            max_delay: Duration::from_secs(2),
        }
    }
}

/// Reads the section.
pub(super) fn stream(mut section: Section<'_>) -> StreamSettings {
    let default = StreamSettings::default();
    let stream = StreamSettings {
        enabled: section.read("enabled", switch).unwrap_or(default.enabled),
        plugin: section.read("plugin", one_of(&PLUGINS)).unwrap_or(default.plugin),
        publication: section.read("publication", publication).unwrap_or(default.publication),
        slot_prefix: section.read("slot_prefix", slot_prefix).unwrap_or(default.slot_prefix),
        max_delay: section.read("max_delay", duration("500ms"..="1min")).unwrap_or(default.max_delay),
    };
    section.finish();
    stream
}

fn publication(value: &DeValue<'_>) -> Read<String> {
    let is_name = |name: &&str| (1..=63).contains(&name.len()) && !name.contains('\0');
    value.as_str().filter(is_name).map(str::to_owned).ok_or_else(|| Wrong::new("a name of 1 to 63 bytes"))
}

/// PostgreSQL adds no quotes to the names of slots, and has few letters for them.
fn slot_prefix(value: &DeValue<'_>) -> Read<String> {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let is_name = |name: &&str| (1..=40).contains(&name.len()) && name.bytes().all(is_letter);
    value
        .as_str()
        .filter(is_name)
        .map(str::to_owned)
        .ok_or_else(|| Wrong::new("1 to 40 lower-case letters, digits and underscores"))
}
