//! Keeps what became of advice over a restart, and how long indexes have been there, in a small file of its own (`insight.advice_file`).
//!
//! The file is replaced as a whole, so that whenever Weir ends there is an old one or a new one. It is written by a thread of
//! its own, which a disk that hangs holds up alone.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::insight::Insight;
use crate::insight::keep::Kept;

/// How often it is looked whether there is something new.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Advice may name constants of the application: nobody else reads it.
const MODE: u32 = 0o600;

/// The thread; dropped, it writes what is new, and ends.
#[derive(Debug)]
pub struct AdviceFile {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl AdviceFile {
    /// Reads what was kept before, and keeps what comes. An error: the file is there and cannot be read.
    pub fn start(insight: Arc<Insight>, path: PathBuf) -> io::Result<Self> {
        let before = read(&path)?;
        let before = before.and_then(|text| understood(&path, &text)).unwrap_or_default();
        insight.restore(before.clone());
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("weir-advice".to_owned())
            .spawn(move || keep(&insight, &path, before, &stopped))?;
        Ok(Self { stop, thread })
    }

    /// Writes what is new, and ends.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

fn keep(insight: &Insight, path: &Path, mut written: Kept, stopped: &Receiver<()>) {
    let mut is_broken = false;
    loop {
        let is_last = stopped.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Timeout);
        let kept = insight.kept();
        // At last also how far the measuring has come.
        if kept.is_news(&written) || is_last && kept != written {
            match replace(path, &kept.to_text()) {
                Ok(()) => (written, is_broken) = (kept, false),
                // Once, and not every second.
                Err(error) if !is_broken => {
                    tracing::error!(%error, file = %path.display(), "what became of advice cannot be kept");
                    is_broken = true;
                }
                Err(_) => {}
            }
        }
        if is_last {
            return;
        }
    }
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // Not text at all: as good as a file of somebody else's, which is not ours to replace.
        Err(error) => Err(error),
    }
}

/// What is not understood is put aside, and Weir starts without it.
fn understood(path: &Path, text: &str) -> Option<Kept> {
    match Kept::parse(text) {
        Ok((kept, left_out)) => {
            if left_out > 0 {
                tracing::warn!(file = %path.display(), left_out, "some of the kept advice is not understood");
            }
            Some(kept)
        }
        Err(error) => {
            let aside = beside(path, "unread");
            let moved = std::fs::rename(path, &aside).is_ok();
            tracing::warn!(file = %path.display(), error, moved, "kept advice is not understood");
            None
        }
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = beside(path, "new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&new)?;
    file.write_all(text.as_bytes())?;
    // Else a crash of the machine may leave the new name with nothing behind it.
    file.sync_all()?;
    std::fs::rename(new, path)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{ending}"));
    PathBuf::from(name)
}
