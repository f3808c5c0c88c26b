//! Log lines on standard error: for people on a terminal, one JSON object per line elsewhere.
//!
//! The only global thing in Weir: `tracing` has one subscriber per process. Its filter can be replaced while running,
//! its format cannot.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{LogFormat, LogSettings};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings check the words of a filter; `tracing` knows its whole syntax.
    #[error("log.level: {0}")]
    Filter(#[from] ParseError),
    /// A subscriber is there already.
    #[error(transparent)]
    Started(#[from] TryInitError),
}

/// The running log.
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Starts logging for the whole process; once.
pub fn start(settings: &LogSettings) -> Result<Logging, Error> {
    let (filter, handle) = reload::Layer::new(parse(settings)?);
    let is_human = match settings.format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => stderr().is_terminal(),
    };
    let lines = if is_human {
        fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal()).boxed()
    } else {
        fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(stderr).boxed()
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(Logging { filter: handle })
}

impl Logging {
    /// Applies a changed `log.level`.
    pub fn set_level(&self, settings: &LogSettings) -> Result<(), Error> {
        let filter = parse(settings)?;
        // Fails only when the subscriber is gone, and then there is nothing to filter.
        let _ = self.filter.reload(filter);
        Ok(())
    }
}

fn parse(settings: &LogSettings) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(&settings.level)
}
