//! Readers of single values: each turns a TOML value into a checked one or says what it expected.
//!
//! Durations and sizes are text with a unit, as in `postgresql.conf` (manual, 20.1.1), so that no number in the file
//! has a unit that must be looked up.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::settings::ListenAddress;

/// A value that is not right. Without `got` the value itself is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) expected: String,
    pub(super) got: Option<String>,
}

impl Wrong {
    pub(super) fn new(expected: impl Into<String>) -> Self {
        Self { expected: expected.into(), got: None }
    }

    pub(super) fn with_got(expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self { expected: expected.into(), got: Some(got.into()) }
    }
}

pub(super) type Read<T> = Result<T, Wrong>;

/// The port of PgBouncer, which we stand in for.
const LISTEN_PORT: u16 = 6432;

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("kB", 1 << 10),
    ("KiB", 1 << 10),
    ("MB", 1 << 20),
    ("MiB", 1 << 20),
    ("GB", 1 << 30),
    ("GiB", 1 << 30),
];

pub(super) fn number(range: RangeInclusive<usize>) -> impl Fn(&DeValue<'_>) -> Read<usize> {
    move |value| {
        integer(value)
            .filter(|number| range.contains(number))
            .ok_or_else(|| Wrong::new(format!("a number from {} to {}", range.start(), range.end())))
    }
}

/// A limit that 0 switches off.
pub(super) fn limit(max: usize) -> impl Fn(&DeValue<'_>) -> Read<Option<usize>> {
    move |value| match integer(value) {
        Some(0) => Ok(None),
        Some(number) if number <= max => Ok(Some(number)),
        _ => Err(Wrong::new(format!("a number from 1 to {max}, or 0 for no limit"))),
    }
}

pub(super) fn boolean(value: &DeValue<'_>) -> Read<bool> {
    value.as_bool().ok_or_else(|| Wrong::new("true or false"))
}

/// Text that is not empty.
pub(super) fn text(value: &DeValue<'_>) -> Read<String> {
    match value.as_str() {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(Wrong::new("a text in quotes")),
    }
}

/// Text where the empty text means: not set.
pub(super) fn optional_text(value: &DeValue<'_>) -> Read<Option<String>> {
    match value.as_str() {
        Some("") => Ok(None),
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(Wrong::new("a text in quotes")),
    }
}

/// Text that must not be shown, whatever it is.
pub(super) fn secret_text(value: &DeValue<'_>) -> Read<String> {
    text(value).map_err(|wrong| match value {
        DeValue::String(_) => Wrong::with_got(wrong.expected, "an empty text"),
        other => Wrong::with_got(wrong.expected, format!("a value of type {}", other.type_str())),
    })
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(words: &[(&str, T)]) -> impl Fn(&DeValue<'_>) -> Read<T> {
    move |value| word(value.as_str().unwrap_or_default(), words).map_err(|wrong| Wrong::new(wrong.expected))
}

/// One of a few words, where there is no TOML around it.
pub(super) fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Read<T> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Wrong::with_got(format!("one of {}", names.join(", ")), shown(text))
    })
}

/// A duration in `range`, the ends of which are written as the file would write them.
pub(super) fn duration(range: RangeInclusive<&'static str>) -> impl Fn(&DeValue<'_>) -> Read<Duration> {
    move |value| {
        value.as_str().and_then(parse_duration).filter(|duration| is_within(*duration, &range)).ok_or_else(
            || Wrong::new(format!("a duration from \"{}\" to \"{}\"", range.start(), range.end())),
        )
    }
}

/// As `duration`, but 0 means never.
pub(super) fn duration_or_never(
    range: RangeInclusive<&'static str>,
) -> impl Fn(&DeValue<'_>) -> Read<Option<Duration>> {
    move |value| {
        let is_zero = integer(value) == Some(0)
            || value.as_str().is_some_and(|text| parse_duration(text) == Some(Duration::ZERO));
        if is_zero {
            return Ok(None);
        }
        duration(range.clone())(value)
            .map(Some)
            .map_err(|wrong| Wrong::new(format!("{}, or 0 for never", wrong.expected)))
    }
}

/// A number of bytes in `range`, the ends of which are written as the file would write them.
pub(super) fn bytes(range: RangeInclusive<&'static str>) -> impl Fn(&DeValue<'_>) -> Read<usize> {
    move |value| {
        let is_allowed = |size: &u64| {
            parse_size(range.start()).is_some_and(|min| min <= *size)
                && parse_size(range.end()).is_some_and(|max| *size <= max)
        };
        value
            .as_str()
            .and_then(parse_size)
            .filter(is_allowed)
            .and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| Wrong::new(format!("a size from \"{}\" to \"{}\"", range.start(), range.end())))
    }
}

/// `ADDRESS:PORT`, or the directory of a Unix socket with or without `:PORT`.
pub(super) fn listen_address(text: &str) -> Read<ListenAddress> {
    if text.starts_with('/') {
        let (directory, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let port = if port.is_empty() { Some(LISTEN_PORT) } else { port.parse().ok() };
        if let Some(port) = port.filter(|port| *port != 0) {
            return Ok(ListenAddress::Unix { directory: PathBuf::from(directory), port });
        }
    } else if let Some(address) = socket_address(text) {
        return Ok(ListenAddress::Tcp(address));
    }
    Err(Wrong::with_got(
        "an address and port such as \"127.0.0.1:6432\", or a directory such as \"/run/weir\" for a Unix socket",
        shown(text),
    ))
}

/// `ADDRESS:PORT`, or `off`.
pub(super) fn http_address(text: &str) -> Read<Option<SocketAddr>> {
    match text {
        "off" => Ok(None),
        text => socket_address(text).map(Some).ok_or_else(|| {
            Wrong::with_got("an address and port such as \"127.0.0.1:6433\", or \"off\"", shown(text))
        }),
    }
}

/// A `tracing` filter. Unknown words in it would silently become names of targets, so levels must be spelled out.
pub(super) fn log_filter(text: &str) -> Read<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_known =
        |directive: &str| LEVELS.contains(&directive.rsplit('=').next().unwrap_or_default().trim());
    if text.split(',').all(is_known) {
        return Ok(text.to_owned());
    }
    Err(Wrong::with_got(
        "off, error, warn, info, debug or trace, with MODULE=LEVEL after a comma for single modules",
        shown(text),
    ))
}

/// Text as a mistake shows it: quoted, and not at any length.
pub(super) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A value as a mistake shows it.
pub(super) fn shown_value(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => shown(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a section".to_owned(),
    }
}

fn integer(value: &DeValue<'_>) -> Option<usize> {
    let number = value.as_integer()?;
    usize::from_str_radix(number.as_str(), number.radix()).ok()
}

fn is_within(duration: Duration, range: &RangeInclusive<&'static str>) -> bool {
    let end = |text: &str| parse_duration(text);
    end(range.start()).is_some_and(|min| min <= duration)
        && end(range.end()).is_some_and(|max| duration <= max)
}

fn parse_duration(text: &str) -> Option<Duration> {
    parse_with_unit(text, &DURATION_UNITS).map(Duration::from_millis)
}

fn parse_size(text: &str) -> Option<u64> {
    parse_with_unit(text, &SIZE_UNITS)
}

fn parse_with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim_start();
    if number == 0 && unit.is_empty() {
        return Some(0);
    }
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

/// Resolving names is not for pure code; `localhost` is the one that everybody writes.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let literal = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    literal.parse().ok().filter(|address: &SocketAddr| address.port() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_and_sizes_need_their_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("15s", 15_000),
            ("15 min", 900_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for (text, size) in [("1B", 1), ("64kB", 65536), ("1 GiB", 1 << 30), ("1GB", 1 << 30)] {
            assert_eq!(parse_size(text), Some(size), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1.5h", "1 parsec", "99999999999999999999s", "9999999999999999999d"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn listen_addresses() {
        let unix = |directory: &str, port| ListenAddress::Unix { directory: directory.into(), port };
        let tcp = |text: &str| ListenAddress::Tcp(text.parse().unwrap());
        for (text, address) in [
            ("127.0.0.1:6432", tcp("127.0.0.1:6432")),
            ("[::1]:6432", tcp("[::1]:6432")),
            ("localhost:6432", tcp("127.0.0.1:6432")),
            ("/run/weir", unix("/run/weir", 6432)),
            ("/run/weir:7000", unix("/run/weir", 7000)),
        ] {
            assert_eq!(listen_address(text), Ok(address), "{text}");
        }
        for text in ["", "6432", "127.0.0.1", "127.0.0.1:0", "db1:6432", "/run/weir:many", "/run/weir:0"] {
            assert!(listen_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn log_filters_name_known_levels() {
        assert!(log_filter("info,weir::client=debug").is_ok());
        assert!(log_filter("inof").is_err());
        assert!(log_filter("info,weir::client=verbose").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (parse_duration(&text), parse_size(&text), log_filter(&text), shown(&text));
            let _ = (listen_address(&text), listen_address(&format!("/{text}")), http_address(&text));
        }
    }
}
