//! Units that may be answered from memory: plain ones, which run one statement to its end, and the answers to them.
//!
//! One result serves both protocols, since its rows are the same messages in both: around them go what each message of the
//! client's is answered with.

use std::sync::atomic::Ordering;

use super::contents::Text;
use super::{Named, Session, Shared};
use crate::wire::frame::{self, Fields, MESSAGE_BYTES_MAX, Next};
use crate::wire::{Malformed, backend, build, frontend};

/// Parse and Bind count nothing with these.
const NONE: &[u8] = &[0, 0];

/// Formats and parameters: none of either.
const NO_PARAMETERS: &[u8] = &[0, 0, 0, 0];

/// A unit that runs one statement to its end: a simple query; or Parse, Bind, Describe and Execute of the unnamed portal and
/// Sync, where Parse and Describe may be missing.
#[derive(Clone, Debug)]
pub struct Plain<'a> {
    /// What is run.
    pub text: Text<'a>,
    /// Declared parameter types, as in Parse; empty for none.
    types: Option<&'a [u8]>,
    /// Formats and values of parameters, as in Bind; empty for none.
    pub parameters: &'a [u8],
    /// Result formats, as in Bind; empty for text.
    pub formats: &'a [u8],
    /// The client is told the columns.
    pub describes: bool,
    /// The text was parsed in an earlier unit.
    pub is_prepared: bool,
}

impl Plain<'_> {
    /// Declared parameter types, as in Parse; empty for none.
    pub fn types(&self) -> &[u8] {
        let types = match (&self.text, self.types) {
            (_, Some(types)) => types,
            (Text::Prepared(statement), None) => &statement.types,
            (Text::Sent(_), None) => b"",
        };
        if types == NONE { b"" } else { types }
    }
}

impl Session {
    /// The unit as a plain one; `None` if it is more, or if the server would have something to say about it.
    pub fn plain<'a>(&self, unit: &'a [u8], shared: &Shared) -> Result<Option<Plain<'a>>, Malformed> {
        let mut messages = [None; 5];
        let mut rest = unit;
        let mut count = 0;
        while let Next::Frame(message) = frame::next(rest, MESSAGE_BYTES_MAX)? {
            rest = &rest[message.bytes.len()..];
            let Some(place) = messages.get_mut(count) else { return Ok(None) };
            *place = Some(message);
            count += 1;
        }
        let mut messages = messages.into_iter().flatten().peekable();
        let mut next = |tag: u8| messages.next_if(|message| message.tag == tag).map(|message| message.body());
        if let Some(body) = next(frontend::QUERY) {
            let text = Text::Sent(frontend::query(body)?);
            let whole = rest.is_empty() && messages.next().is_none();
            return Ok(whole.then_some(Plain {
                text,
                types: None,
                parameters: b"",
                formats: b"",
                describes: true,
                is_prepared: false,
            }));
        }
        let parse = next(frontend::PARSE).map(frontend::parse).transpose()?;
        let Some(bind) = next(frontend::BIND).map(frontend::bind).transpose()? else { return Ok(None) };
        let describe = next(frontend::DESCRIBE).map(frontend::named).transpose()?;
        let Some(execute) = next(frontend::EXECUTE).map(frontend::execute).transpose()? else {
            return Ok(None);
        };
        let ends = next(frontend::SYNC).is_some_and(<[u8]>::is_empty)
            && messages.next().is_none()
            && rest.is_empty();
        let is_whole_portal = bind.portal.is_empty()
            && describe.is_none_or(|named| named == frontend::Named::Portal(b""))
            && execute == (b"", 0);
        if !ends || !is_whole_portal {
            return Ok(None);
        }
        let (text, types) = match parse {
            Some(parse) if parse.name == bind.statement && self.may_take(parse.name, shared) => {
                (Text::Sent(parse.text), Some(parse.types))
            }
            Some(_) => return Ok(None),
            None => {
                let meant =
                    if bind.statement.is_empty() { self.unnamed.clone() } else { self.named(bind.statement) };
                match meant {
                    Some(statement) => (Text::Prepared(statement), None),
                    None => return Ok(None),
                }
            }
        };
        let Some((parameters, formats)) = bound(bind.rest)? else { return Ok(None) };
        Ok(Some(Plain {
            text,
            types,
            parameters,
            formats,
            describes: describe.is_some(),
            is_prepared: parse.is_none(),
        }))
    }

    /// Whether a Parse that gives this name would go well.
    fn may_take(&self, name: &[u8], shared: &Shared) -> bool {
        name.is_empty()
            || self.named(name).is_none()
                && self.sql_names.as_ref().is_none_or(|names| !names.contains(name))
                && self.statements.as_ref().is_none_or(|map| map.len() < shared.statements_per_client_max)
    }

    /// Whether the client may be given rows that it asks no description of: what it was told of the statement's columns is
    /// still so.
    pub fn is_told_of(plain: &Plain<'_>, shared: &Shared) -> bool {
        match &plain.text {
            Text::Sent(_) => true,
            Text::Prepared(_) if plain.describes => true,
            Text::Prepared(statement) => statement.ddl_epoch == shared.ddl_epoch.load(Ordering::Acquire),
        }
    }

    /// Writes the answers to a plain unit; `rows` has DataRow messages and CommandComplete, `description` is a RowDescription
    /// where the unit asks for one.
    pub fn answer_plain(
        &mut self,
        unit: &[u8],
        description: &[u8],
        rows: &[u8],
        shared: &Shared,
        out: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        out.reserve(description.len() + rows.len() + 32);
        let mut rest = unit;
        while let Next::Frame(message) = frame::next(rest, MESSAGE_BYTES_MAX)? {
            rest = &rest[message.bytes.len()..];
            match message.tag {
                frontend::QUERY => {
                    // A simple query destroys the unnamed statement (manual, 55.2.3).
                    self.unnamed = None;
                    out.extend_from_slice(description);
                    out.extend_from_slice(rows);
                    build::ready_for_query(out, self.client_status());
                }
                frontend::PARSE => {
                    let parse = frontend::parse(message.body())?;
                    let statement = self.intern(parse, shared).statement;
                    if parse.name.is_empty() {
                        self.unnamed = Some(statement);
                    } else {
                        let named = Named::new(parse.name, statement);
                        self.statements.get_or_insert_default().insert(parse.name.into(), named);
                    }
                    build::empty(out, backend::PARSE_COMPLETE);
                }
                frontend::BIND => build::empty(out, backend::BIND_COMPLETE),
                frontend::DESCRIBE => out.extend_from_slice(description),
                frontend::EXECUTE => out.extend_from_slice(rows),
                _ => build::ready_for_query(out, self.client_status()),
            }
        }
        Ok(())
    }
}

/// Parameters and result formats of a Bind.
type Bound<'a> = (&'a [u8], &'a [u8]);

/// Parameters and result formats of a Bind, each empty where it says nothing; `None`: the server would refuse it.
fn bound(rest: &[u8]) -> Result<Option<Bound<'_>>, Malformed> {
    let mut fields = Fields::new(rest);
    let format_count = usize::from(fields.u16()?);
    let parameter_formats = fields.bytes(format_count * 2)?;
    let count = usize::from(fields.u16()?);
    for _ in 0..count {
        let length = fields.u32()?;
        if length != u32::MAX {
            fields.bytes(usize::try_from(length).map_err(|_| Malformed::Truncated)?)?;
        }
    }
    let (parameters, formats) = rest.split_at(rest.len() - fields.rest().len());
    let mut result_formats = Fields::new(formats);
    let result_count = usize::from(result_formats.u16()?);
    let codes = result_formats.bytes(result_count * 2)?;
    let is_known = |codes: &[u8]| codes.chunks_exact(2).all(|code| matches!(code, [0, 0 | 1]));
    let counts_agree = matches!(format_count, 0 | 1) || format_count == count;
    if !result_formats.rest().is_empty() || !is_known(codes) || !is_known(parameter_formats) || !counts_agree
    {
        return Ok(None);
    }
    // One code for all columns: all text is what a simple query gets. More than one must count the columns right, which
    // is not known here.
    let is_text = matches!(codes, [] | [0, 0]);
    let parameters = if parameters == NO_PARAMETERS { &b""[..] } else { parameters };
    Ok(Some((parameters, if is_text { b"" } else { formats })))
}
