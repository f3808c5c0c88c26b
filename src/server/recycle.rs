//! Bringing a server connection back to a clean state, or closing it.

use std::sync::Arc;
use std::time::Duration;

use super::Server;
use crate::pg::{SqlState, TransactionStatus};
use crate::session::Settings;
use crate::wire::build::{Report, Severity};
use crate::wire::frame::{self, Frame, MESSAGE_BYTES_MAX, Next};
use crate::wire::{backend, build};

/// Cleaning that takes longer has failed.
const CLEAN_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a connection is asked to take on settings while a timeout of a millisecond strikes at once.
const TAKE_ON_TRIES_MAX: usize = 10;

/// A machine that stands still for longer breaks more than a timeout.
pub(super) const STALL_MAX: Duration = Duration::from_secs(10);

/// While an abandoned statement has not ended, it is canceled again after so long.
const CANCEL_AGAIN: Duration = Duration::from_millis(200);

/// The reason in CopyFail.
const GONE: &[u8] = b"the client has gone";

/// What is read before ReadyForQuery until the connection is given up, in bytes.
const ABANDONED_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Server {
    /// Cleans a connection that its client left with session state, in a transaction, or in the middle of a
    /// statement; `None` if that failed, and the connection is closed.
    pub async fn cleaned(mut self, status: TransactionStatus) -> Option<Self> {
        self.cancel.release();
        let cleaning = async {
            let mut status = status;
            if !self.state.is_drained() {
                let cancel = Arc::clone(&self.cancel);
                // A cancel that comes before the statement has begun is lost. Each is a task: once sent it must be
                // waited for, whatever becomes of the rest.
                let cancels = async {
                    loop {
                        tokio::spawn(cancel.announce().send());
                        tokio::time::sleep(CANCEL_AGAIN).await;
                    }
                };
                status = tokio::select! {
                    status = self.drain() => status?,
                    () = cancels => return None,
                };
            }
            self.cancel.settled().await;
            if status != TransactionStatus::Idle && !self.run(b"ROLLBACK").await {
                return None;
            }
            if !self.run(b"DISCARD ALL").await || !self.realigned(false).await {
                return None;
            }
            self.state.discarded();
            Some(())
        };
        let cleaned = tokio::time::timeout(CLEAN_TIMEOUT, cleaning).await;
        matches!(cleaned, Ok(Some(()))).then_some(self)
    }

    /// Ends a transaction that has left nothing else; `None` if that failed, and the connection is closed.
    pub async fn rolled_back(mut self) -> Option<Self> {
        let ending = tokio::time::timeout(CLEAN_TIMEOUT, self.run(b"ROLLBACK")).await;
        matches!(ending, Ok(true)).then_some(self)
    }

    /// Gives the connection `calm` settings: without timeouts that may strike the next client. `None` if that failed, and
    /// the connection is closed.
    pub async fn calmed(mut self, calm: &Settings) -> Option<Self> {
        self.take_on(calm).await.is_ok().then_some(self)
    }

    /// Ends what is under way and reads up to the last ReadyForQuery that is owed.
    async fn drain(&mut self) -> Option<TransactionStatus> {
        let is_batch = self.state.owes_sync();
        // Whether a Sync behind COPY's Execute was ignored (manual, 55.2.6), or ends what a cancel has struck, cannot
        // be told: nobody knows how many answers are to come.
        if is_batch && self.state.is_copying_in() {
            return None;
        }
        let ready_owed = self.state.abandon(self.connection.output());
        self.until_ready(ready_owed, |message, ready_owed| match message.tag {
            // What stands behind the COPY would be taken for its data.
            backend::COPY_IN if is_batch || ready_owed > 1 => Heard::GiveUp,
            backend::COPY_IN => Heard::FailCopy,
            _ => Heard::GoOn,
        })
        .await
    }

    /// Gives the connection other settings; `Err` holds what the server had against them, or nothing if the
    /// connection broke or hangs. What cancels it by the way was meant for somebody else: it is tried again.
    pub async fn take_on(&mut self, settings: &Settings) -> Result<(), Option<Report>> {
        let may_strike = self.state.settings.without_timeouts(STALL_MAX).is_some();
        let taking = async {
            for _ in 0..TAKE_ON_TRIES_MAX {
                let is_over = match self.try_take_on(settings).await {
                    Err(Some(report)) if report.sqlstate == SqlState::QUERY_CANCELED => false,
                    Ok(()) if may_strike => true,
                    outcome => return outcome,
                };
                if !self.realigned(!is_over).await {
                    return Err(None);
                }
                if is_over {
                    return Ok(());
                }
            }
            Err(None)
        };
        tokio::time::timeout(CLEAN_TIMEOUT, taking).await.unwrap_or(Err(None))
    }

    async fn try_take_on(&mut self, settings: &Settings) -> Result<(), Option<Report>> {
        let ready_owed =
            settings.write_difference(&self.state.settings, &[], false, self.connection.output());
        self.state.simple_query_ran();
        let mut refused = None;
        let hear = |message: Frame<'_>, _| {
            if message.tag == backend::ERROR && refused.is_none() {
                refused = Some(as_fatal(message.body()));
            }
            Heard::GoOn
        };
        if self.until_ready(ready_owed, hear).await.is_none() {
            return Err(None);
        }
        if refused.is_some() {
            return Err(refused);
        }
        self.state.settings = settings.clone();
        settings.custom_names().for_each(|name| self.state.note_custom(name));
        Ok(())
    }

    /// Makes sure that the next answer is one to what is asked next; gives whether that is so. `may_be_in_block`: a
    /// transaction is ended by the way.
    ///
    /// `statement_timeout` may strike when its statement has just ended. PostgreSQL then cancels whatever comes next: it says
    /// so, with a ReadyForQuery, either unasked or in place of an answer, and nobody can tell which. So something is asked
    /// that nothing else answers, until it is answered.
    async fn realigned(&mut self, may_be_in_block: bool) -> bool {
        for turn in 0..TAKE_ON_TRIES_MAX {
            let token = format!("weir_{}_{turn}", self.id);
            let end = if may_be_in_block { "ROLLBACK;" } else { "" };
            build::query(self.connection.output(), format!("{end}SELECT '{token}'").as_bytes());
            self.state.simple_query_ran();
            loop {
                let (mut is_it, mut failed) = (false, false);
                let hear = |message: Frame<'_>, _| {
                    failed |= message.tag == backend::ERROR;
                    is_it |= message.tag == backend::DATA_ROW
                        && backend::single_value(message.body()) == Some(token.as_bytes());
                    Heard::GoOn
                };
                match self.until_ready(1, hear).await {
                    None => return false,
                    // Perhaps there is no other answer: the next question's comes behind this one's, if there is.
                    _ if failed => break,
                    Some(status) if is_it => return status == TransactionStatus::Idle,
                    Some(_) => {}
                }
            }
        }
        false
    }

    /// Runs a query whose result is of no interest; gives whether it left the connection idle and well.
    pub async fn run(&mut self, sql: &[u8]) -> bool {
        build::query(self.connection.output(), sql);
        let (mut failed, mut completed) = (false, false);
        let hear = |message: Frame<'_>, _| {
            failed |= message.tag == backend::ERROR;
            completed |= message.tag == backend::COMMAND_COMPLETE;
            Heard::GoOn
        };
        let status = self.until_ready(1, hear).await;
        // One without a result would be the end of something else.
        completed && !failed && status == Some(TransactionStatus::Idle)
    }

    /// Sends what waits and reads up to the last of so many ReadyForQuery; gives its status, or nothing if that does not
    /// come. `hear` is given each message, and how many are still owed.
    async fn until_ready(
        &mut self,
        mut ready_owed: usize,
        mut hear: impl FnMut(Frame<'_>, usize) -> Heard,
    ) -> Option<TransactionStatus> {
        let mut read = 0;
        let mut status = TransactionStatus::Idle;
        while ready_owed > 0 {
            self.connection.flush().await.ok()?;
            let Next::Frame(message) = frame::next(self.connection.input(), MESSAGE_BYTES_MAX).ok()? else {
                match self.connection.fill().await {
                    Ok(count) if count > 0 && read < ABANDONED_BYTES_MAX => read += count,
                    _ => return None,
                }
                continue;
            };
            match message.tag {
                backend::READY_FOR_QUERY => {
                    status = backend::ready_for_query(message.body()).ok()?;
                    ready_owed -= 1;
                }
                backend::PARAMETER_STATUS => self.state.take_report(message.body()),
                _ => {}
            }
            let bytes = message.bytes.len();
            let heard = hear(message, ready_owed);
            self.connection.consume(bytes);
            match heard {
                Heard::GoOn => {}
                Heard::FailCopy => build::copy_fail(self.connection.output(), GONE),
                Heard::GiveUp => return None,
            }
        }
        Some(status)
    }
}

/// What to do about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Read on.
    GoOn,
    /// End the COPY that waits for data.
    FailCopy,
    /// The connection is of no use any more.
    GiveUp,
}

/// A server's error, told as the end of a login.
fn as_fatal(body: &[u8]) -> Report {
    let mut report = Report::new(Severity::Fatal, SqlState::INTERNAL_ERROR, "");
    for (code, text) in backend::error_fields(body) {
        let string = || String::from_utf8_lossy(text).into_owned();
        match code {
            b'C' => report.sqlstate = SqlState::from_bytes(text).unwrap_or(SqlState::INTERNAL_ERROR),
            b'M' => report.message = string(),
            b'D' => report.detail = Some(string()),
            b'H' => report.hint = Some(string()),
            _ => {}
        }
    }
    report
}
