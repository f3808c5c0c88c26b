//! Two threads of insight: one drains the clients' queues, ten times a second; one writes the slow-query log.
//!
//! A disk that hangs holds up the writer only. Between the two stands a bounded queue: what has no room is counted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::config::{SlowLogOutput, SlowLogSettings};
use crate::insight::Insight;

/// How often queues are drained.
const DRAIN_EVERY: Duration = Duration::from_millis(100);

/// Lines that wait for the disk.
const LINES_MAX: usize = 1024;

/// Readable to its group, as PostgreSQL's logs may be.
const MODE: u32 = 0o640;

/// After an error of the disk it is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The threads; dropped, they go on.
#[derive(Debug)]
pub struct Drainer {
    told: mpsc::Sender<Told>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Told {
    Reload(Box<SlowLogSettings>),
    Stop,
}

#[derive(Debug)]
enum Order {
    Write(String),
    Reload(Box<SlowLogSettings>),
}

impl Drainer {
    /// Starts both.
    pub fn start(insight: Arc<Insight>, settings: &SlowLogSettings) -> io::Result<Self> {
        let (orders, ordered) = mpsc::sync_channel(LINES_MAX);
        let mut log = SlowLog::new(settings.clone());
        let writer =
            std::thread::Builder::new().name("weir-slow-log".to_owned()).spawn(move || log.run(&ordered))?;
        let (told, hears) = mpsc::channel();
        let thread = std::thread::Builder::new().name("weir-insight".to_owned()).spawn(move || {
            drain(&insight, &hears, &orders);
            drop(orders);
            // What was drained last is on its way to the disk.
            let _ = writer.join();
        })?;
        Ok(Self { told, thread })
    }

    /// Other settings are in force; the file is opened anew in any case.
    pub fn reload(&self, settings: &SlowLogSettings) {
        // Without the thread nothing is written any more, which it has said.
        let _ = self.told.send(Told::Reload(Box::new(settings.clone())));
    }

    /// Drains once more, writes all, and ends.
    pub fn stop(self) {
        let _ = self.told.send(Told::Stop);
        let _ = self.thread.join();
    }
}

fn drain(insight: &Insight, hears: &Receiver<Told>, orders: &SyncSender<Order>) {
    loop {
        let told = hears.recv_timeout(DRAIN_EVERY);
        let mut dropped = 0;
        for line in insight.drain(Instant::now(), SystemTime::now()) {
            dropped += u64::from(orders.try_send(Order::Write(line)).is_err());
        }
        if dropped > 0 {
            insight.state().counts.lines_dropped += dropped;
        }
        match told {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Told::Reload(settings)) => {
                if let Err(TrySendError::Full(_)) = orders.try_send(Order::Reload(settings)) {
                    tracing::error!("the slow-query log does not keep up: it was not opened anew");
                }
            }
            Ok(Told::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The log's file.
#[derive(Debug)]
struct SlowLog {
    settings: SlowLogSettings,
    open: Option<Open>,
    /// Not to be tried again before.
    broken_until: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
    began: SystemTime,
}

impl SlowLog {
    fn new(settings: SlowLogSettings) -> Self {
        Self { settings, open: None, broken_until: None }
    }

    fn run(&mut self, ordered: &Receiver<Order>) {
        while let Ok(order) = ordered.recv() {
            match order {
                Order::Write(line) => self.line(&line),
                Order::Reload(settings) => {
                    self.settings = *settings;
                    self.open = None;
                    self.broken_until = None;
                }
            }
        }
    }

    fn line(&mut self, line: &str) {
        let now = Instant::now();
        if self.broken_until.is_some_and(|until| now < until) {
            return;
        }
        let written = match self.settings.output.clone() {
            None => Ok(()),
            Some(SlowLogOutput::Stderr) => writeln!(io::stderr(), "{line}"),
            Some(SlowLogOutput::File(path)) => self.append(&path, line),
        };
        match written {
            Ok(()) => self.broken_until = None,
            Err(error) => {
                tracing::error!(%error, "the slow-query log cannot be written");
                self.open = None;
                self.broken_until = Some(now + RETRY_AFTER);
            }
        }
    }

    fn append(&mut self, path: &Path, line: &str) -> io::Result<()> {
        let (rotate_bytes, rotate_age) = (self.settings.rotate_bytes as u64, self.settings.rotate_age);
        if let Some(open) = &self.open {
            let age = open.began.elapsed().unwrap_or_default();
            let is_long = open.bytes > 0 && open.bytes + line.len() as u64 + 1 > rotate_bytes;
            if is_long || open.bytes > 0 && rotate_age.is_some_and(|max| age >= max) {
                self.open = None;
                rotate(path, self.settings.keep)?;
            }
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(Open::at(path)?),
        };
        // In one write, so that a reader who follows sees whole lines.
        open.file.write_all(format!("{line}\n").as_bytes())?;
        open.bytes += line.len() as u64 + 1;
        Ok(())
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
        let metadata = file.metadata()?;
        // A file system that does not know when a file was made counts from now.
        let began = metadata.created().unwrap_or_else(|_| SystemTime::now());
        Ok(Self { bytes: metadata.len(), began, file })
    }
}

/// FILE becomes FILE.1, that FILE.2, and so on; the last goes.
fn rotate(path: &Path, keep: usize) -> io::Result<()> {
    if keep == 0 {
        return std::fs::remove_file(path);
    }
    let numbered = |number: usize| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..keep).rev() {
        match std::fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, numbered(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("weir-slow-log-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn a_file_is_put_aside_when_it_is_long() {
        let directory = directory("long");
        let path = directory.join("slow.jsonl");
        let output = Some(SlowLogOutput::File(path.clone()));
        let mut log =
            SlowLog::new(SlowLogSettings { output, rotate_bytes: 30, keep: 2, ..SlowLogSettings::default() });
        for number in 0..10 {
            log.line(&format!("{{\"n\": {number}}}"));
        }
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
        assert_eq!(read("slow.jsonl"), "{\"n\": 9}\n");
        assert_eq!(read("slow.jsonl.1"), "{\"n\": 6}\n{\"n\": 7}\n{\"n\": 8}\n");
        assert_eq!(read("slow.jsonl.2"), "{\"n\": 3}\n{\"n\": 4}\n{\"n\": 5}\n");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 3);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777 & !0o640, 0);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let directory = directory("moved");
        let path = directory.join("slow.jsonl");
        let output = Some(SlowLogOutput::File(path.clone()));
        let settings = SlowLogSettings { output, ..SlowLogSettings::default() };
        let (orders, ordered) = mpsc::sync_channel(16);
        let mut log = SlowLog::new(settings.clone());
        log.line("{}");
        std::fs::rename(&path, directory.join("moved")).unwrap();
        orders.send(Order::Write("{}".to_owned())).unwrap();
        orders.send(Order::Reload(Box::new(settings))).unwrap();
        orders.send(Order::Write("{}".to_owned())).unwrap();
        drop(orders);
        log.run(&ordered);
        assert_eq!(std::fs::read_to_string(directory.join("moved")).unwrap(), "{}\n{}\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}\n");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn an_error_of_the_disk_is_no_panic() {
        let output = Some(SlowLogOutput::File(PathBuf::from("/nonexistent/slow.jsonl")));
        let mut log = SlowLog::new(SlowLogSettings { output, ..SlowLogSettings::default() });
        log.line("{}");
        assert!(log.broken_until.is_some() && log.open.is_none());
    }
}
