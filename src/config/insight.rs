//! What is watched of statements, and the slow-query log: the sections `[insight]` and `[slow_log]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::file::{Origin, Section, Written};
use super::value::{
    Read, Wrong, boolean, bytes, duration, duration_or_never, limit, number, one_of, optional_text,
};

/// What is watched of statements.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "switches that do not depend on each other")]
pub struct InsightSettings {
    /// Whether anything is.
    pub enabled: bool,
    /// Shapes with statistics of their own; what is seen least goes into one for all others.
    pub shapes_max: usize,
    /// Look for N+1 and other repetitions.
    pub repeats: bool,
    /// Keep values of slow executions in memory, to explain these.
    pub samples: bool,
    /// For so long.
    pub samples_ttl: Duration,
    /// Where slow shapes are explained.
    pub explain: ExplainOn,
    /// Analyses in a minute at most.
    pub explain_per_minute: u32,
    /// Also UPDATE and DELETE, on the primary.
    pub explain_writes: bool,
    /// Where it is kept what became of advice, for the next start; `None`: nowhere.
    pub advice_file: Option<PathBuf>,
}

impl Default for InsightSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            shapes_max: 2000,
            repeats: true,
            samples: true,
            samples_ttl: Duration::from_secs(15 * 60),
            explain: ExplainOn::Replica,
            explain_per_minute: 10,
            explain_writes: false,
            advice_file: None,
        }
    }
}

/// Where slow shapes are explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExplainOn {
    /// On a replica; without one, nowhere.
    Replica,
    /// On a replica; without one, on the primary.
    Any,
    /// Nowhere.
    Off,
}

/// The slow-query log.
#[derive(Clone, Debug, PartialEq)]
pub struct SlowLogSettings {
    /// Where it goes; `None`: there is none.
    pub output: Option<SlowLogOutput>,
    /// A statement that takes so long is slow.
    pub threshold: Duration,
    /// Instead, in these databases.
    pub databases: BTreeMap<String, Duration>,
    /// Instead, for these users; over that of the database.
    pub users: BTreeMap<String, Duration>,
    /// One in so many slow statements is written.
    pub sample: u32,
    /// Of one shape, one line in this time; `None`: all.
    pub per_shape: Option<Duration>,
    /// Lines in a second at most.
    pub per_second_max: u32,
    /// What of literals and parameters is written.
    pub parameters: LogParameters,
    /// A file that has grown so long is put aside.
    pub rotate_bytes: usize,
    /// A file that is so old is put aside; `None`: none is.
    pub rotate_age: Option<Duration>,
    /// Files kept aside.
    pub keep: usize,
}

impl Default for SlowLogSettings {
    fn default() -> Self {
        Self {
            output: None,
            threshold: Duration::from_millis(200),
            databases: BTreeMap::new(),
            users: BTreeMap::new(),
            sample: 1,
            per_shape: Some(Duration::from_secs(60)),
            per_second_max: 50,
            parameters: LogParameters::Off,
            rotate_bytes: 100 << 20,
            rotate_age: Some(Duration::from_secs(86_400)),
            keep: 7,
        }
    }
}

impl SlowLogSettings {
    /// What is slow for a client.
    pub fn threshold_of(&self, database: &str, user: &str) -> Duration {
        let own = self.users.get(user).or_else(|| self.databases.get(database));
        own.copied().unwrap_or(self.threshold)
    }

    /// Where it goes, as the file would say it.
    pub fn shown_output(&self) -> String {
        match &self.output {
            None => String::new(),
            Some(SlowLogOutput::Stderr) => "stderr".to_owned(),
            Some(SlowLogOutput::File(path)) => path.display().to_string(),
        }
    }

    /// The share that is written, as the file would say it.
    pub fn shown_sample(&self) -> String {
        if self.sample == 1 { "1".to_owned() } else { format!("1/{}", self.sample) }
    }

    /// The least of all thresholds.
    pub fn threshold_min(&self) -> Duration {
        let own = self.users.values().chain(self.databases.values());
        own.copied().fold(self.threshold, Duration::min)
    }
}

/// Where the slow-query log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlowLogOutput {
    /// Standard error, beside the log.
    Stderr,
    /// A file.
    File(PathBuf),
}

/// What of literals and parameters the slow-query log may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogParameters {
    /// Nothing.
    Off,
    /// How many, of which type, and how long: no value.
    Redacted,
    /// Values, and the text as it was sent.
    Full,
}

impl ExplainOn {
    /// The word in the file and in the console.
    pub fn as_str(self) -> &'static str {
        word_of(&EXPLAIN_ON, self)
    }
}

impl LogParameters {
    /// The word in the file and in the console.
    pub fn as_str(self) -> &'static str {
        word_of(&PARAMETERS, self)
    }
}

fn word_of<T: Copy + PartialEq>(words: &[(&'static str, T)], meaning: T) -> &'static str {
    words.iter().find(|(_, known)| *known == meaning).map_or("", |(word, _)| *word)
}

const EXPLAIN_ON: [(&str, ExplainOn); 3] =
    [("replica", ExplainOn::Replica), ("any", ExplainOn::Any), ("off", ExplainOn::Off)];

const PARAMETERS: [(&str, LogParameters); 3] =
    [("off", LogParameters::Off), ("redacted", LogParameters::Redacted), ("full", LogParameters::Full)];

/// Reads `[insight]`.
pub(super) fn insight(mut section: Section<'_>) -> InsightSettings {
    let default = InsightSettings::default();
    let per_minute = section.read("explain_per_minute", number(0..=600));
    let advice_file = section.written("advice_file", optional_text);
    let insight = InsightSettings {
        enabled: section.read("enabled", boolean).unwrap_or(default.enabled),
        shapes_max: section.read("shapes_max", number(10..=100_000)).unwrap_or(default.shapes_max),
        repeats: section.read("repeats", boolean).unwrap_or(default.repeats),
        samples: section.read("samples", boolean).unwrap_or(default.samples),
        samples_ttl: section.read("samples_ttl", duration("1s"..="1d")).unwrap_or(default.samples_ttl),
        explain: section.read("explain", one_of(&EXPLAIN_ON)).unwrap_or(default.explain),
        explain_per_minute: per_minute
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(default.explain_per_minute),
        explain_writes: section.read("explain_writes", boolean).unwrap_or(default.explain_writes),
        advice_file: advice_file.and_then(|file| Some(file.origin.directory.join(file.value?))),
    };
    section.finish();
    insight
}

/// Reads `[slow_log]`. `given`: what flag or environment say of `file`, and where.
pub(super) fn slow_log(mut section: Section<'_>, given: Option<Written<String>>) -> SlowLogSettings {
    let default = SlowLogSettings::default();
    let in_file = section.written("file", optional_text);
    let in_file = in_file.and_then(|Written { value, origin }| Some(Written { value: value?, origin }));
    let per_second = section.read("per_second_max", number(1..=100_000));
    let log = SlowLogSettings {
        output: given.or(in_file).and_then(|written| output(&written.value, &written.origin)),
        threshold: section.read("threshold", duration("0s"..="1d")).unwrap_or(default.threshold),
        databases: thresholds(&mut section, "databases"),
        users: thresholds(&mut section, "users"),
        sample: section.read("sample", share).unwrap_or(default.sample),
        per_shape: section.read("per_shape", duration_or_never("1ms"..="1d")).unwrap_or(default.per_shape),
        per_second_max: per_second
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(default.per_second_max),
        parameters: section.read("log_parameters", one_of(&PARAMETERS)).unwrap_or(default.parameters),
        rotate_bytes: section.read("rotate_bytes", bytes("64kB"..="64GB")).unwrap_or(default.rotate_bytes),
        rotate_age: section
            .read("rotate_age", duration_or_never("1s"..="365d"))
            .unwrap_or(default.rotate_age),
        keep: section.read("keep", limit(1000)).map_or(default.keep, Option::unwrap_or_default),
    };
    section.finish();
    log
}

fn output(text: &str, origin: &Origin) -> Option<SlowLogOutput> {
    match text {
        "off" | "" => None,
        "stderr" | "-" => Some(SlowLogOutput::Stderr),
        path => Some(SlowLogOutput::File(origin.directory.join(path))),
    }
}

/// `[slow_log.databases.app]` with a threshold of its own.
fn thresholds(section: &mut Section<'_>, key: &'static str) -> BTreeMap<String, Duration> {
    let mut thresholds = BTreeMap::new();
    for (name, mut own) in section.named_sections(key) {
        if let Some(threshold) = own.read("threshold", duration("0s"..="1d")) {
            thresholds.insert(name.value, threshold);
        }
        own.finish();
    }
    thresholds
}

/// `"1/100"`, or `"1"` for all.
fn share(value: &DeValue<'_>) -> Read<u32> {
    let wrong = || Wrong::new("a share such as \"1/100\", or \"1\" for all");
    let text = value.as_str().ok_or_else(wrong)?;
    let of = if text == "1" { Some("1") } else { text.strip_prefix("1/") };
    of.and_then(|of| of.parse().ok()).filter(|of| *of > 0).ok_or_else(wrong)
}
