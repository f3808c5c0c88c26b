//! A throw-away primary with streaming replicas, in one directory.
//!
//! The servers are children of this process and not daemons of `pg_ctl`: their process ids are certain until they
//! are waited for, so that stopping hits them and nothing else. Whatever happens, a panic or an error half-way
//! included, `Drop` stops them and removes what was made.

use std::fmt;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::account::Account;
use super::machine;

/// The roles that may log in; `app` and `bench` own a database of the same name, `postgres` is the superuser.
pub const ROLES: [&str; 3] = ["app", "bench", "postgres"];

/// A command, or a server's start, that takes longer has failed.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// A server that has not ended so long after SIGQUIT is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

const POLL_EVERY: Duration = Duration::from_millis(5);

/// Logical decoding for the cache's change stream, prepared transactions and room for many clients for the tests. The
/// log is kept, since the checkpoint that begins one copy would recycle the segment that another has yet to ask for.
const CONFIGURATION: &str = "
listen_addresses = '127.0.0.1'
wal_level = logical
max_wal_senders = 20
max_replication_slots = 20
wal_keep_size = 1GB
max_connections = 300
max_prepared_transactions = 50
hot_standby = on
hot_standby_feedback = on
fsync = off
";

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// An absent or empty directory; `None`: one under the system's temporary directory.
    pub directory: Option<PathBuf>,
    /// How many replicas.
    pub replicas: usize,
    /// Set from elsewhere to give up.
    pub interrupted: Arc<AtomicBool>,
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No `initdb` anywhere.
    #[error(
        "no PostgreSQL server programs found in PG_BINDIR, PATH or /usr/lib/postgresql/*/bin; \
         install them (Debian: apt-get install postgresql) or set PG_BINDIR"
    )]
    NoBinaries,
    /// Run by root, and there is nobody else to run the servers.
    #[error("PostgreSQL does not run as root, and there is no user `postgres`: run this as an ordinary user")]
    NoAccount,
    /// It would be removed at the end, with what is in it.
    #[error("{0} is not empty")]
    DirectoryInUse(PathBuf),
    /// A program failed.
    #[error("{what} failed:\n{output}")]
    Failed {
        /// Which program.
        what: String,
        /// The end of what it wrote.
        output: String,
    },
    /// A step took too long.
    #[error("{0} took too long")]
    Timeout(String),
    /// [`Options::interrupted`] was set.
    #[error("interrupted")]
    Interrupted,
    /// The file system, or a program that cannot be run.
    #[error("{0}: {1}")]
    Io(String, io::Error),
}

/// One of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// It takes writes.
    Primary,
    /// A hot standby; the first is number 1.
    Replica(usize),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::Replica(number) => write!(f, "replica{number}"),
        }
    }
}

/// A running primary with its replicas.
#[derive(Debug)]
pub struct Cluster {
    directory: machine::Directory,
    binaries: PathBuf,
    account: Account,
    /// By the order of [`ROLES`].
    passwords: [String; 3],
    /// The primary's first.
    ports: Vec<u16>,
    servers: Vec<Child>,
    interrupted: Arc<AtomicBool>,
}

impl Cluster {
    /// Brings all servers up; they accept connections when this returns.
    pub fn start(options: &Options) -> Result<Self, Error> {
        let binaries = machine::find_binaries().ok_or(Error::NoBinaries)?;
        let account = Account::find().map_err(|error| Error::Io("id".to_owned(), error))?;
        let account = account.ok_or(Error::NoAccount)?;
        let directory = machine::Directory::make(options.directory.as_deref())?;
        // From here on `Drop` cleans up.
        let mut cluster = Self {
            directory,
            binaries,
            account,
            passwords: [(); 3].map(|()| format!("{:016x}", rand::random::<u64>())),
            ports: Vec::new(),
            servers: Vec::new(),
            interrupted: Arc::clone(&options.interrupted),
        };
        cluster.bring_up(options.replicas)?;
        Ok(cluster)
    }

    fn bring_up(&mut self, replicas: usize) -> Result<(), Error> {
        self.account.own(&self.directory.path).map_err(|error| self.io(error))?;
        self.ports = machine::free_ports(1 + replicas).map_err(|error| self.io(error))?;
        self.initialize()?;
        self.launch(Member::Primary)?;
        self.wait_until_ready(Member::Primary)?;
        let copies: Vec<_> = (1..=replicas)
            .map(|number| self.spawn_copy(Member::Replica(number)))
            .collect::<Result<_, _>>()?;
        copies.into_iter().try_for_each(|copy| self.finish(copy))?;
        for number in 1..=replicas {
            self.launch(Member::Replica(number))?;
        }
        // After the copies: what goes through the log need not be copied.
        self.create_roles()?;
        (1..=replicas).try_for_each(|number| self.wait_until_ready(Member::Replica(number)))
    }

    /// Makes the primary's data directory.
    fn initialize(&self) -> Result<(), Error> {
        let password_file = self.directory.path.join("superuser-password");
        self.write_private(&password_file, self.password("postgres"))?;
        self.account.own(&password_file).map_err(|error| self.io(error))?;
        let mut initdb = self.program("initdb");
        initdb
            .args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"])
            .args(["--no-sync", "--no-instructions"])
            .arg("--pwfile")
            .arg(&password_file)
            .arg("--pgdata")
            .arg(self.data(Member::Primary));
        self.finish(self.spawn("initdb", initdb)?)?;
        let file = self.data(Member::Primary).join("postgresql.conf");
        let appended = OpenOptions::new()
            .append(true)
            .open(file)
            .and_then(|mut file| file.write_all(CONFIGURATION.as_bytes()));
        appended.map_err(|error| self.io(error))
    }

    fn create_roles(&self) -> Result<(), Error> {
        let mut sql = String::new();
        for role in ["app", "bench"] {
            let password = self.password(role);
            let _ = writeln!(sql, "CREATE ROLE {role} LOGIN PASSWORD '{password}';");
            let _ = writeln!(sql, "CREATE DATABASE {role} OWNER {role};");
        }
        self.psql_as("postgres", Member::Primary, "postgres", &sql).map(drop)
    }

    /// Starts copying the primary into a replica's data directory.
    fn spawn_copy(&self, replica: Member) -> Result<Step, Error> {
        let what = format!("pg_basebackup-{replica}");
        let mut copy = self.program("pg_basebackup");
        copy.args(["--host=127.0.0.1", "--username=postgres", "--write-recovery-conf", "--no-sync"])
            .args(["--checkpoint=fast", "--wal-method=stream"])
            .arg(format!("--port={}", self.port(Member::Primary)))
            .arg("--pgdata")
            .arg(self.data(replica))
            .env("PGPASSWORD", self.password("postgres"));
        self.spawn(&what, copy)
    }

    fn launch(&mut self, member: Member) -> Result<(), Error> {
        let log = self.create_log(&member.to_string())?;
        let errors = log.try_clone().map_err(|error| self.io(error))?;
        let mut server = self.program("postgres");
        server
            .arg("-D")
            .arg(self.data(member))
            .arg("-k")
            .arg(&self.directory.path)
            .args(["-p", &self.port(member).to_string(), "-c", &format!("cluster_name={member}")])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        let server = server.spawn().map_err(|error| self.io(error))?;
        self.servers.push(server);
        Ok(())
    }

    /// Waits as `pg_ctl start` does: for the word in `postmaster.pid`.
    fn wait_until_ready(&mut self, member: Member) -> Result<(), Error> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        let file = self.data(member).join("postmaster.pid");
        loop {
            let content = fs::read_to_string(&file).unwrap_or_default();
            if content.lines().nth(7).is_some_and(|state| state.trim() == "ready") {
                return Ok(());
            }
            let server = &mut self.servers[place(member)];
            if server.try_wait().is_ok_and(|status| status.is_some()) {
                return Err(Error::Failed {
                    what: member.to_string(),
                    output: self.end_of_log(&member.to_string()),
                });
            }
            self.pause(&member.to_string(), deadline)?;
        }
    }

    /// Waits until every replica shows what the primary shows now.
    pub fn wait_for_replicas(&self) -> Result<(), Error> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        let position =
            self.psql_as("postgres", Member::Primary, "postgres", "SELECT pg_current_wal_flush_lsn()")?;
        let question = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", position.trim());
        for replica in self.members().skip(1) {
            while self.psql_as("postgres", replica, "postgres", &question)?.trim() != "t" {
                self.pause(&replica.to_string(), deadline)?;
            }
        }
        Ok(())
    }

    /// Ends a server as a crash of its machine would: at once, and without a word to anybody.
    pub fn crash(&mut self, member: Member) -> Result<(), Error> {
        // The postmaster's children notice that it is gone, and end by themselves.
        let server = &mut self.servers[place(member)];
        let ended = server.kill().and_then(|()| server.wait());
        ended.map(drop).map_err(|error| self.io(error))
    }

    /// Runs SQL on the primary as the owner of `database`; gives what `psql` printed, unaligned and without headers.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String, Error> {
        self.psql_as(database, Member::Primary, database, sql)
    }

    /// Runs SQL as a role of [`ROLES`] on a server.
    pub fn psql_as(&self, user: &str, member: Member, database: &str, sql: &str) -> Result<String, Error> {
        let mut psql = self.program("psql");
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-U",
            user,
            "-d",
            database,
        ])
        .args(["-p", &self.port(member).to_string(), "-f", "-"])
        .env("PGPASSWORD", self.password(user))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
        let mut child = psql.spawn().map_err(|error| self.io(error))?;
        let mut input = child.stdin.take().expect("it is a pipe");
        // What psql does not read it answers for with its exit status.
        let _ = input.write_all(sql.as_bytes());
        drop(input);
        let output = child.wait_with_output().map_err(|error| self.io(error))?;
        if !output.status.success() {
            let output = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Error::Failed { what: "psql".to_owned(), output });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes `env` into the directory, for shells to source: ports, passwords, URLs. Its presence says that all is up.
    pub fn write_environment(&self) -> Result<(), Error> {
        let mut text = String::new();
        let mut set = |name: &str, value: &dyn fmt::Display| {
            let _ = writeln!(text, "export {name}='{}'", value.to_string().replace('\'', r"'\''"));
        };
        set("WEIR_CLUSTER_DIR", &self.directory.path.display());
        set("PG_BINDIR", &self.binaries.display());
        for member in self.members() {
            let name = member.to_string().to_uppercase();
            set(&format!("{name}_PORT"), &self.port(member));
            set(&format!("{name}_URL"), &self.url("postgres", member));
        }
        for user in ROLES {
            let name = user.to_uppercase();
            set(&format!("{name}_PASSWORD"), &self.password(user));
            set(&format!("{name}_URL"), &self.url(user, Member::Primary));
        }
        let (unfinished, file) = (self.directory.path.join("env.new"), self.directory.path.join("env"));
        self.write_private(&unfinished, &text)?;
        fs::rename(unfinished, file).map_err(|error| self.io(error))
    }

    /// Where a role finds its database on a server (`postgres`: the database `app`).
    pub fn url(&self, user: &str, member: Member) -> String {
        let database = if user == "bench" { "bench" } else { "app" };
        format!("postgresql://{user}:{}@127.0.0.1:{}/{database}", self.password(user), self.port(member))
    }

    /// The port of a server.
    pub fn port(&self, member: Member) -> u16 {
        self.ports[place(member)]
    }

    /// The password of a role of [`ROLES`].
    pub fn password(&self, user: &str) -> &str {
        let place = ROLES.iter().position(|role| *role == user).expect("a role of ROLES");
        &self.passwords[place]
    }

    /// Where everything is, sockets included.
    pub fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// All servers, the primary first.
    pub fn members(&self) -> impl Iterator<Item = Member> + use<> {
        (0..self.ports.len()).map(|place| if place == 0 { Member::Primary } else { Member::Replica(place) })
    }

    fn data(&self, member: Member) -> PathBuf {
        self.directory.path.join(format!("{member}-data"))
    }

    fn program(&self, name: &str) -> Command {
        let mut command = self.account.command(self.binaries.join(name));
        command.current_dir(&self.directory.path);
        command
    }

    fn spawn(&self, what: &str, mut command: Command) -> Result<Step, Error> {
        let log = self.create_log(what)?;
        let errors = log.try_clone().map_err(|error| self.io(error))?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().map_err(|error| Error::Io(what.to_owned(), error))?;
        Ok(Step { what: what.to_owned(), child })
    }

    /// Waits for a step. An interruption waits too: steps are short, and one that is cut off could leave children.
    fn finish(&self, mut step: Step) -> Result<(), Error> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            match step.child.try_wait().map_err(|error| self.io(error))? {
                Some(status) if status.success() => break,
                Some(_) => {
                    let output = self.end_of_log(&step.what);
                    return Err(Error::Failed { what: std::mem::take(&mut step.what), output });
                }
                None if Instant::now() > deadline => {
                    return Err(Error::Timeout(std::mem::take(&mut step.what)));
                }
                None => std::thread::sleep(POLL_EVERY),
            }
        }
        if self.interrupted.load(Ordering::Acquire) { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn pause(&self, what: &str, deadline: Instant) -> Result<(), Error> {
        if self.interrupted.load(Ordering::Acquire) {
            return Err(Error::Interrupted);
        }
        if Instant::now() > deadline {
            return Err(Error::Timeout(what.to_owned()));
        }
        std::thread::sleep(POLL_EVERY);
        Ok(())
    }

    fn create_log(&self, name: &str) -> Result<File, Error> {
        File::create(self.directory.path.join(format!("{name}.log"))).map_err(|error| self.io(error))
    }

    fn end_of_log(&self, name: &str) -> String {
        let text = fs::read(self.directory.path.join(format!("{name}.log"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Readable by its owner only.
    fn write_private(&self, file: &Path, content: &str) -> Result<(), Error> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options
            .open(file)
            .and_then(|mut file| file.write_all(content.as_bytes()))
            .map_err(|error| self.io(error))
    }

    fn io(&self, error: io::Error) -> Error {
        Error::Io(self.directory.path.display().to_string(), error)
    }

    /// Tells a server to end at once: there is nothing in it to be saved.
    fn quit(&self, server: &Child) {
        let process = server.id().to_string();
        let _ = self.program("pg_ctl").args(["kill", "QUIT", &process]).output();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut servers = std::mem::take(&mut self.servers);
        servers.retain_mut(|server| !server.try_wait().is_ok_and(|status| status.is_some()));
        for server in &servers {
            self.quit(server);
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for mut server in servers {
            while server.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < deadline {
                std::thread::sleep(POLL_EVERY);
            }
            let _ = server.kill();
            let _ = server.wait();
        }
        self.directory.remove();
    }
}

/// A program that runs for a while; ended when it is dropped before.
struct Step {
    what: String,
    child: Child,
}

impl Drop for Step {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn place(member: Member) -> usize {
    match member {
        Member::Primary => 0,
        Member::Replica(number) => number,
    }
}
