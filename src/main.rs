//! The command line; everything else is in the library.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use weir::app::watch::{Kind, URL_VARIABLES};
use weir::config::{Flags, Settings};
use weir::insight::report::Top;
use weir::{app, demo};

/// The configuration is wrong; clap ends with the same code when the command line is.
const EXIT_MISTAKES: u8 = 2;

/// A PostgreSQL proxy: few server connections for many clients, reads from replicas, hot SELECTs from memory.
#[derive(Parser)]
#[command(name = "weir", version, subcommand_required = true, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the proxy.
    Serve(Sources),
    /// Try out the configuration: logins, rights, replication; say which features are on and how to get the others.
    Check(Sources),
    /// Say what a statement does and where it would go, and why.
    Why(Why),
    /// Explain statements and say which indexes they lack, or why none would help.
    Advise(Advise),
    /// Read the slow-query log: the shapes that cost most, N+1 and other repetitions, and which index they lack.
    Slow(Slow),
    /// Run a command, such as a test suite, with a Weir in front of its database; say what it saw, and fail on it.
    Watch(Watch),
    /// Bring up a throw-away primary with replicas and sample data, and the proxy in front of them.
    Demo(Demo),
}

/// Where the settings come from. Flags win over the environment, which wins over the file.
#[derive(Args)]
struct Sources {
    /// The server that takes writes: postgres://USER:PASSWORD@HOST:PORT/DATABASE [env: WEIR_PRIMARY]
    #[arg(long, value_name = "URL")]
    primary: Option<String>,
    /// A hot standby that takes reads, as often as there are some; the URL inherits what it leaves out from the
    /// primary's [env: WEIR_REPLICAS, with commas]
    #[arg(long = "replica", value_name = "URL")]
    replicas: Vec<String>,
    /// Where clients connect: ADDRESS:PORT, or a directory for a Unix socket; may be repeated [default:
    /// 127.0.0.1:6432] [env: WEIR_LISTEN, with commas]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// Where metrics, health and the dashboard are served: ADDRESS:PORT, or off [default: off] [env: WEIR_HTTP]
    #[arg(long, value_name = "ADDRESS")]
    http: Option<String>,
    /// The configuration file; config/weir.toml documents all keys [env: WEIR_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Threads that serve clients; 0 means half of the machine's cores [default: 0]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Answer hot SELECTs from memory: on or off [default: off] [env: WEIR_CACHE]
    #[arg(long, value_name = "on|off")]
    cache: Option<String>,
    /// Where slow statements are logged, a file or stderr [default: off] [env: WEIR_SLOW_LOG]
    #[arg(long, value_name = "FILE")]
    slow_log: Option<String>,
    /// What to log: off, error, warn, info, debug or trace; MODULE=LEVEL after a comma for single modules
    /// [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Args)]
struct Why {
    /// The text as a client would send it
    #[arg(value_name = "SQL")]
    text: String,
    /// The client's search_path [default: that of the user in the URL]
    #[arg(long, value_name = "PATH")]
    search_path: Option<String>,
    /// As if behind BEGIN
    #[arg(long)]
    in_transaction: bool,
    #[command(flatten)]
    sources: Sources,
}

#[derive(Args)]
struct Advise {
    /// Statements; with `$1` in them for what a parameter stands for
    #[arg(value_name = "SQL")]
    texts: Vec<String>,
    /// A file of statements: SQL, or on each line a JSON object with `text` and `values`; - is standard input
    #[arg(long, value_name = "FILE")]
    statements: Option<PathBuf>,
    /// The client's search_path [default: that of the user in the URL]
    #[arg(long, value_name = "PATH")]
    search_path: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// As if HypoPG were not installed: estimate from statistics
    #[arg(long)]
    without_hypopg: bool,
    /// As if the values of parameters were not known
    #[arg(long)]
    without_values: bool,
    #[command(flatten)]
    sources: Sources,
}

#[derive(Args)]
struct Watch {
    /// What to fail on, with commas: n+1, duplicate (the same again and again), batchable-write (row by row), seq-scan (no index
    /// serves a condition), slow (slow_log.threshold), error
    #[arg(long, value_name = "WHAT", value_delimiter = ',', value_parser = kind)]
    fail_on: Vec<Kind>,
    #[command(flatten)]
    sources: Sources,
    /// The command. It finds Weir where DATABASE_URL, SQLALCHEMY_DATABASE_URI, SQLALCHEMY_DATABASE_URL, TEST_DATABASE_URL or
    /// PGHOST and PGPORT lead it; without --primary, the first of these URLs is the database
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn kind(text: &str) -> Result<Kind, String> {
    let found = Kind::ALL.into_iter().find(|(word, _)| *word == text).map(|(_, kind)| kind);
    found.ok_or_else(|| format!("one of {}", Kind::ALL.map(|(word, _)| word).join(", ")))
}

#[derive(Args)]
struct Slow {
    /// Files of the slow-query log, also those put aside; standard input if there is none
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What to order by: time in all, the time that one in a hundred exceeds, the mean, how often, or rows read per row
    /// returned
    #[arg(long, value_name = "WHAT", default_value = "total", value_parser = ["total", "p99", "mean", "calls", "rows"])]
    top: String,
    /// How many shapes
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// From then on: a date or a time in UTC, such as 2026-11-30T19:50
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Until then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Write one page of HTML, with charts, that needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show lines as they are written
    #[arg(long, conflicts_with = "html")]
    follow: bool,
}

#[derive(Args)]
struct Demo {
    /// Where the servers keep their data, absent or empty, removed at the end [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Bring up the servers without the proxy
    #[arg(long)]
    only_cluster: bool,
    /// How many replicas
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=8))]
    replicas: u8,
}

impl From<Sources> for Flags {
    fn from(sources: Sources) -> Self {
        let Sources { primary, replicas, listen, http, config, workers, cache, slow_log, log } = sources;
        Self { config, primary, replicas, listen, http, workers, cache, slow_log, log }
    }
}

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    let outcome = match CommandLine::parse().command {
        Command::Serve(sources) => with_settings(sources.into(), |settings, flags| {
            app::serve(settings, Box::new(move || app::sources::load(&flags)))
        }),
        Command::Check(sources) => with_settings(sources.into(), |settings, _| app::check::run(&settings)),
        Command::Why(Why { text, search_path, in_transaction, sources }) => {
            let question = app::why::Question { text, search_path, in_transaction };
            with_settings(sources.into(), |settings, _| app::why::run(&settings, &question))
        }
        Command::Advise(Advise {
            texts,
            statements,
            search_path,
            json,
            without_hypopg,
            without_values,
            sources,
        }) => {
            let options = app::advise::Options {
                texts,
                file: statements,
                search_path,
                json,
                without_hypopg,
                without_values,
            };
            with_settings(sources.into(), |settings, _| app::advise::run(&settings, &options))
        }
        Command::Slow(Slow { files, top, limit, since, until, html, follow }) => {
            let top = match top.as_str() {
                "p99" => Top::P99,
                "mean" => Top::Mean,
                "calls" => Top::Calls,
                "rows" => Top::Rows,
                _ => Top::Total,
            };
            let options = app::slow::Options { files, top, limit, since, until, html, follow };
            if app::slow::has_no_input(&options) {
                eprintln!("reading the log from standard input");
            }
            app::slow::run(&options).map_err(Into::into)
        }
        Command::Watch(Watch { fail_on, sources, command }) => {
            let environment = app::sources::environment();
            let mut flags: Flags = sources.into();
            if flags.primary.is_none() && flags.config.is_none() && !environment.contains_key("WEIR_PRIMARY")
            {
                flags.primary = URL_VARIABLES.iter().find_map(|name| environment.get(*name)).cloned();
            }
            let options = app::watch::Options { command, fail_on };
            with_settings(flags, |settings, _| {
                app::watch::run(settings, &options, &environment).map(|ended| code = ended)
            })
        }
        Command::Demo(Demo { directory, only_cluster, replicas }) => {
            let options = demo::Options { directory, only_cluster, replicas: replicas.into() };
            demo::run(&options, |settings| {
                let unchanged = settings.clone();
                Ok(app::serve(settings, Box::new(move || Ok(unchanged.clone())))?)
            })
        }
    };
    match outcome {
        Ok(()) => code,
        Err(error) if error.is::<weir::config::Mistakes>() => {
            eprintln!("{error}");
            ExitCode::from(EXIT_MISTAKES)
        }
        Err(error) => {
            eprintln!("weir: {error}");
            ExitCode::FAILURE
        }
    }
}

fn with_settings<E: Error + 'static>(
    flags: Flags,
    run: impl FnOnce(Settings, Flags) -> Result<(), E>,
) -> Result<(), Box<dyn Error>> {
    let settings = app::sources::load(&flags)?;
    Ok(run(settings, flags)?)
}
