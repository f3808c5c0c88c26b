//! What the machine offers to a throw-away cluster: programs, a directory, ports.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::cluster::Error;

/// Below the range that the system takes ports of outgoing connections from, so that none of those can be in the way.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// The directory of the server programs: what `PG_BINDIR` names, else what `PATH` has, else Debian's newest.
pub(super) fn find_binaries() -> Option<PathBuf> {
    let is_complete = |directory: &PathBuf| {
        ["initdb", "postgres", "pg_basebackup", "pg_ctl", "psql"]
            .iter()
            .all(|name| directory.join(name).exists())
    };
    if let Some(named) = std::env::var_os("PG_BINDIR") {
        return Some(PathBuf::from(named)).filter(is_complete);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).find(is_complete).or_else(|| {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(Result::ok);
        let directories = versions.map(|version| (major(&version.path()), version.path().join("bin")));
        directories.filter(|(_, bin)| is_complete(bin)).max().map(|(_, bin)| bin)
    })
}

fn major(version: &Path) -> u32 {
    version.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0)
}

/// A directory of our own.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    /// It was there before, and stays.
    is_kept: bool,
}

impl Directory {
    /// Makes it, or takes an empty one.
    pub(super) fn make(wanted: Option<&Path>) -> Result<Self, Error> {
        let failed = |path: &Path, error| Error::Io(path.display().to_string(), error);
        let path = match wanted {
            Some(wanted) => std::path::absolute(wanted).map_err(|error| failed(wanted, error))?,
            None => std::env::temp_dir().join(format!("weir-demo-{:08x}", rand::random::<u32>())),
        };
        let Ok(mut entries) = fs::read_dir(&path) else {
            // Not recursive: that would take a directory that somebody else made in this moment.
            let made = DirBuilder::new().mode(0o700).create(&path);
            return made
                .map(|()| Self { path: path.clone(), is_kept: false })
                .map_err(|error| failed(&path, error));
        };
        match entries.next() {
            Some(_) => Err(Error::DirectoryInUse(path)),
            None => Ok(Self { path, is_kept: true }),
        }
    }

    /// Removes what is in it, and itself if it was not there before. What cannot be removed stays: nobody could do
    /// more about it.
    pub(super) fn remove(&self) {
        if !self.is_kept {
            let _ = fs::remove_dir_all(&self.path);
            return;
        }
        for entry in fs::read_dir(&self.path).into_iter().flatten().filter_map(Result::ok) {
            let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
        }
    }
}

/// Ports of 127.0.0.1 that nobody listens on.
pub(super) fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let mut held = Vec::new();
    for _ in 0..1000 {
        if held.len() == count {
            break;
        }
        held.extend(TcpListener::bind(("127.0.0.1", rand::random_range(PORTS))));
    }
    if held.len() < count {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "no free ports"));
    }
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_use_is_refused() {
        let error = Directory::make(Some(Path::new("src"))).unwrap_err();
        assert!(matches!(error, Error::DirectoryInUse(_)), "{error}");
    }

    #[test]
    fn an_empty_directory_is_left_as_it_was() {
        let path = std::env::temp_dir().join(format!("weir-machine-{:08x}", rand::random::<u32>()));
        fs::create_dir(&path).unwrap();
        let directory = Directory::make(Some(&path)).unwrap();
        fs::create_dir(path.join("data")).unwrap();
        fs::write(path.join("data/file"), "x").unwrap();
        fs::write(path.join("file"), "x").unwrap();
        directory.remove();
        fs::remove_dir(&path).unwrap();
    }

    #[test]
    fn ports_differ() {
        let mut ports = free_ports(9).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 9);
    }
}
