//! Who runs the servers. PostgreSQL refuses to be root, so root runs it as the user `postgres`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The user that the servers run as.
#[derive(Debug)]
pub(super) struct Account {
    /// Another user than ours, and its group.
    other: Option<(u32, u32)>,
    has_setpriv: bool,
}

impl Account {
    /// The present user, or `postgres` for root; `None` if there is no such user.
    pub(super) fn find() -> io::Result<Option<Self>> {
        let has_setpriv = Command::new("setpriv").arg("--version").output().is_ok();
        if id(&["-u"])? != Some(0) {
            return Ok(Some(Self { other: None, has_setpriv }));
        }
        let other = id(&["-u", "postgres"])?.zip(id(&["-g", "postgres"])?);
        Ok(other.map(|other| Self { other: Some(other), has_setpriv }))
    }

    /// A command that will run as this user. It does not get the terminal's Ctrl-C, which is ours to act on, and it
    /// gets SIGQUIT should we be killed without a chance to stop it (where `setpriv` can arrange that).
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = if self.has_setpriv {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig=QUIT", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        if let Some((user, group)) = self.other {
            command.uid(user).gid(group);
        }
        command.process_group(0).env("LC_ALL", "C");
        // PGHOST, PGOPTIONS and the like speak of other servers.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command
    }

    /// Makes this user the owner.
    pub(super) fn own(&self, path: &Path) -> io::Result<()> {
        match self.other {
            Some((user, group)) => chown(path, Some(user), Some(group)),
            None => Ok(()),
        }
    }
}

/// A number from `id`, if the user exists.
fn id(arguments: &[&str]) -> io::Result<Option<u32>> {
    let output = Command::new("id").args(arguments).output()?;
    let number = String::from_utf8_lossy(&output.stdout).trim().parse();
    Ok(number.ok().filter(|_| output.status.success()))
}
