//! `weir slow`: the slow-query log as a table, as an HTML page, or as it grows.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal as _, Read as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::insight::html::{page, time};
use crate::insight::report::{Line, Report, Top, repetition};
use crate::insight::time::{parse, rfc3339};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Options {
    /// Files; none is standard input.
    pub files: Vec<PathBuf>,
    /// What shapes are ordered by.
    pub top: Top,
    /// Shapes that are shown.
    pub limit: usize,
    /// Lines from then on.
    pub since: Option<String>,
    /// Lines until then.
    pub until: Option<String>,
    /// Where the page goes.
    pub html: Option<PathBuf>,
    /// Shows lines as they are written.
    pub follow: bool,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum SlowError {
    /// A file.
    #[error("{0}: {1}")]
    File(String, io::Error),
    /// Output.
    #[error("{0}")]
    Output(#[from] io::Error),
    /// A point in time.
    #[error("not a date or a time in UTC, such as 2026-11-30 or 2026-11-30T19:50: {0:?}")]
    Time(String),
    /// More than one file to follow.
    #[error("--follow takes one file")]
    Follow,
}

/// How often a file is looked at that is followed.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Characters of a text in the table.
const TEXT_CHARS: usize = 100;

/// Reads, and prints on standard output.
pub fn run(options: &Options) -> Result<(), SlowError> {
    let when = |text: &Option<String>| match text {
        Some(text) => parse(text).map(Some).ok_or_else(|| SlowError::Time(text.clone())),
        None => Ok(None),
    };
    let mut report = Report::between(when(&options.since)?, when(&options.until)?);
    let mut out = io::stdout().lock();
    if options.follow {
        let [file] = options.files.as_slice() else { return Err(SlowError::Follow) };
        return done(follow(file, &mut report, &mut out));
    }
    if options.files.is_empty() {
        read(io::stdin().lock(), &mut report)?;
    }
    for file in &options.files {
        let opened = File::open(file).map(BufReader::new);
        let taken = opened.and_then(|opened| read(opened, &mut report));
        taken.map_err(|error| SlowError::File(file.display().to_string(), error))?;
    }
    if let Some(path) = &options.html {
        let page = page(&report, options.top, options.limit);
        std::fs::write(path, page).map_err(|error| SlowError::File(path.display().to_string(), error))?;
        writeln!(out, "{}: {} lines", path.display(), report.lines)?;
        return Ok(());
    }
    done(table(&report, options, &mut out))
}

/// Who reads the output may have seen enough.
fn done(outcome: io::Result<()>) -> Result<(), SlowError> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn read(from: impl io::BufRead, report: &mut Report) -> io::Result<()> {
    for line in from.split(b'\n') {
        report.add(&String::from_utf8_lossy(&line?));
    }
    Ok(())
}

fn table(report: &Report, options: &Options, out: &mut impl Write) -> io::Result<()> {
    let lines = report.top(options.top);
    if let Some((first, last)) = report.span {
        writeln!(
            out,
            "{} lines of {} shapes, {} to {}",
            report.lines,
            lines.len(),
            rfc3339(first),
            rfc3339(last)
        )?;
    } else {
        writeln!(out, "no line of a slow-query log")?;
    }
    if report.unread > 0 {
        writeln!(out, "{} lines are none of the log's", report.unread)?;
    }
    if !lines.is_empty() {
        let heads = ["calls", "total", "mean", "p99", "max", "rows", "read/row", "where"];
        writeln!(
            out,
            "\n{:>7} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}  {}",
            heads[0], heads[1], heads[2], heads[3], heads[4], heads[5], heads[6], heads[7]
        )?;
    }
    for line in lines.iter().take(options.limit) {
        row(report, line, out)?;
    }
    for (headline, repeats) in report.repeats() {
        writeln!(out, "\n{headline}:")?;
        for repeated in repeats.into_iter().take(options.limit) {
            writeln!(
                out,
                "  {} {}: {}, seen {} times\n      {}",
                repeated.summary, repeated.route, repeated.how_often, repeated.seen, repeated.suggestion
            )?;
        }
    }
    Ok(())
}

fn row(report: &Report, line: &Line, out: &mut impl Write) -> io::Result<()> {
    let per_row = line.read_per_returned().map_or_else(String::new, |read| format!("{read:.0}"));
    writeln!(
        out,
        "{:>7} {:>8} {:>8} {:>8} {:>8} {:>8.1} {per_row:>8}  {} {} {}",
        line.calls(),
        time(line.total()),
        time(line.times.mean()),
        time(line.times.quantile(990)),
        time(line.times.max()),
        line.rows(),
        line.main_route(),
        line.route,
        line.fingerprint,
    )?;
    writeln!(out, "        {}", short(&line.text))?;
    for finding in &line.findings {
        writeln!(out, "        - {finding}")?;
    }
    for advised in line.advice.iter().filter_map(|id| report.advice.get(id)) {
        writeln!(out, "        {};  -- {}", advised.ddl, advised.gain)?;
    }
    Ok(())
}

fn short(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(TEXT_CHARS) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text,
    }
}

/// Shows what a file has, and then what is written to it, also when it is put aside for a new one.
fn follow(path: &Path, report: &mut Report, out: &mut impl Write) -> io::Result<()> {
    let mut begun = Vec::new();
    let mut file: Option<File> = None;
    loop {
        if file.is_none() {
            file = File::open(path).ok();
        }
        if let Some(open) = &mut file {
            open.read_to_end(&mut begun)?;
            while let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = begun.drain(..=end).collect();
                if let Some(value) = report.add(&String::from_utf8_lossy(&line)) {
                    show(&value, report, out)?;
                }
            }
            out.flush()?;
            let is_same = std::fs::metadata(path).and_then(|now| Ok(now.ino() == open.metadata()?.ino()));
            if !is_same.unwrap_or(false) {
                // It was read to its end before it was seen that it is another.
                file = None;
                begun.clear();
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// One line for people, and a second with what to do.
fn show(value: &Value, report: &Report, out: &mut impl Write) -> io::Result<()> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let at = text("timestamp");
    let route = value.pointer("/weir.tags/route").and_then(Value::as_str).unwrap_or_default();
    match text("event.name") {
        "db.query.slow" => {
            let ms = value.pointer("/weir.duration_ms/total").and_then(Value::as_f64).unwrap_or_default();
            let summary = text("db.query.summary");
            writeln!(out, "{at} {ms:>9.1} ms {:<18} {summary} {route}", text("weir.route"))?;
            let ids = value.get("weir.advice_ids").and_then(Value::as_array).into_iter().flatten();
            for advised in ids.filter_map(|id| report.advice.get(id.as_str()?)) {
                writeln!(out, "    {};", advised.ddl)?;
            }
        }
        event if let Some((headline, of_what)) = repetition(event) => {
            let count = value.pointer("/weir.repeats/count").and_then(Value::as_u64).unwrap_or_default();
            writeln!(out, "{at} {headline}: {} {count} times {of_what} {route}", text("db.query.summary"))?;
            writeln!(
                out,
                "    {}",
                value.pointer("/weir.suggestion/text").and_then(Value::as_str).unwrap_or_default()
            )?;
        }
        _ => {
            let of = |key: &str| value.get("weir.advice")?.get(key)?.as_str();
            let ddl = of("drop_ddl").or(of("ddl")).unwrap_or_default();
            let measured = of("measured").map(|measured| format!(": {measured}")).unwrap_or_default();
            writeln!(out, "{at} index for {}{measured}\n    {ddl};", text("db.query.summary"))?;
        }
    }
    Ok(())
}

/// Whether standard input is a terminal, so that waiting for it would be a surprise.
pub fn has_no_input(options: &Options) -> bool {
    options.files.is_empty() && io::stdin().is_terminal()
}
