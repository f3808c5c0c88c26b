//! What a unit runs: the texts in it, for a decision about all of them.

use std::sync::Arc;

use super::{Session, Statement};
use crate::sql::{Lexing, literal};
use crate::wire::frame::{self, MESSAGE_BYTES_MAX, Next};
use crate::wire::{Malformed, frontend};

/// A text that a unit parses or runs.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// It stands in the unit.
    Sent(&'a [u8]),
    /// It was prepared before.
    Prepared(Arc<Statement>),
}

impl Text<'_> {
    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sent(text) => text,
            Self::Prepared(statement) => &statement.text,
        }
    }

    /// How the server cuts it, or did when it was prepared; `now`: what the client sends now.
    pub fn lexing(&self, now: Lexing) -> Lexing {
        match self {
            Self::Sent(_) => now,
            Self::Prepared(statement) => statement.lexing,
        }
    }
}

/// What a statement's name stands for.
enum Meant<'a> {
    /// A statement that was there before.
    Known(Text<'a>),
    /// One that the unit parses, so that its text is looked at anyhow.
    InUnit,
    /// Nothing that is known here.
    Unknown,
}

/// The unnamed portal of a unit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Portal {
    None,
    Bound,
    Run,
}

/// What a unit runs.
#[derive(Clone, Debug, Default)]
pub struct Contents<'a> {
    /// All texts, in order.
    pub texts: Vec<Text<'a>>,
    /// A parameter's value stands for the current time, as `'now'` does.
    pub names_time: bool,
}

impl Session {
    /// What `unit` runs; `None` if there is more to it than texts that run to their end: a portal with a name or a limit
    /// of rows, a function call, COPY data, a name that is not known here, a message that has not all arrived.
    pub fn contents<'a>(&self, unit: &'a [u8]) -> Result<Option<Contents<'a>>, Malformed> {
        let mut contents = Contents::default();
        let mut rest = unit;
        let mut unnamed = self.unnamed.clone().map(Text::Prepared);
        let (mut ended, mut portal) = (false, Portal::None);
        while let Next::Frame(message) = frame::next(rest, MESSAGE_BYTES_MAX)? {
            rest = &rest[message.bytes.len()..];
            let body = message.body();
            match message.tag {
                // Behind messages of a batch without Sync: where one of those fails, the server skips it.
                frontend::QUERY if message.bytes.len() + rest.len() < unit.len() => return Ok(None),
                frontend::QUERY => {
                    contents.texts.push(Text::Sent(frontend::query(body)?));
                    ended = true;
                }
                frontend::PARSE => {
                    let parse = frontend::parse(body)?;
                    contents.texts.push(Text::Sent(parse.text));
                    if parse.name.is_empty() {
                        unnamed = Some(Text::Sent(parse.text));
                    }
                }
                frontend::BIND => {
                    let bind = frontend::bind(body)?;
                    if !bind.portal.is_empty() || portal == Portal::Bound {
                        return Ok(None);
                    }
                    portal = Portal::Bound;
                    contents.names_time |= names_time(&bind);
                    match self.meant(bind.statement, unnamed.as_ref(), unit)? {
                        Meant::Known(text) => contents.texts.push(text),
                        Meant::InUnit => {}
                        Meant::Unknown => return Ok(None),
                    }
                }
                frontend::DESCRIBE => match frontend::named(body)? {
                    frontend::Named::Portal(b"") => {}
                    frontend::Named::Portal(_) => return Ok(None),
                    frontend::Named::Statement(name) => match self.meant(name, unnamed.as_ref(), unit)? {
                        Meant::Known(text) => contents.texts.push(text),
                        Meant::InUnit => {}
                        Meant::Unknown => return Ok(None),
                    },
                },
                frontend::EXECUTE => {
                    let (name, limit) = frontend::execute(body)?;
                    if !name.is_empty() || limit != 0 || portal == Portal::None {
                        return Ok(None);
                    }
                    portal = Portal::Run;
                }
                frontend::SYNC => ended = true,
                frontend::CLOSE => {}
                // Behind Flush the batch goes on.
                _ => return Ok(None),
            }
        }
        // A portal that was not run yet may be run behind the unit.
        let is_whole = rest.is_empty() && ended && portal != Portal::Bound;
        Ok(is_whole.then_some(contents))
    }

    /// What a statement's name stands for in a unit.
    fn meant<'a>(
        &self,
        name: &[u8],
        unnamed: Option<&Text<'a>>,
        unit: &[u8],
    ) -> Result<Meant<'a>, Malformed> {
        if name.is_empty() {
            return Ok(match unnamed {
                Some(Text::Sent(_)) => Meant::InUnit,
                Some(known) => Meant::Known(known.clone()),
                None => Meant::Unknown,
            });
        }
        if let Some(statement) = self.named(name) {
            return Ok(Meant::Known(Text::Prepared(statement)));
        }
        Ok(if is_parsed_in(name, unit)? { Meant::InUnit } else { Meant::Unknown })
    }
}

/// Whether a Parse of the unit gives this name.
fn is_parsed_in(name: &[u8], unit: &[u8]) -> Result<bool, Malformed> {
    let mut rest = unit;
    while let Next::Frame(message) = frame::next(rest, MESSAGE_BYTES_MAX)? {
        rest = &rest[message.bytes.len()..];
        if message.tag == frontend::PARSE && frontend::parse(message.body())?.name == name {
            return Ok(true);
        }
    }
    Ok(false)
}

/// More parameters are not looked at one by one.
const PARAMETERS_MAX: usize = 64;

/// Whether a parameter may stand for the current time (manual, 8.5.1.4 Special Values).
fn names_time(bind: &frontend::Bind<'_>) -> bool {
    for number in 1..=PARAMETERS_MAX {
        match bind.parameter(number) {
            Ok(Some((_, value))) if literal::names_time(value) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    true
}
