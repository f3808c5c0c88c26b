//! The text of messages.

use super::{BINDING_HEADER, ScramError};

/// Reads `x=value` attributes with commas between.
pub(super) struct Reader<'a> {
    pub(super) rest: &'a str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Result<Self, ScramError> {
        let rest = std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))?;
        if rest.is_empty() {
            return Err(ScramError::Malformed("empty"));
        }
        if rest.contains('\0') {
            return Err(ScramError::Malformed("zero byte"));
        }
        Ok(Self { rest })
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.rest.bytes().next()
    }

    pub(super) fn comma(&mut self) -> Result<(), ScramError> {
        self.rest = self.rest.strip_prefix(',').ok_or(ScramError::Malformed("comma expected"))?;
        Ok(())
    }

    /// The value of the next attribute, which must be `name`.
    pub(super) fn attribute(&mut self, name: u8) -> Result<&'a str, ScramError> {
        match self.any_attribute()? {
            (found, value) if found == name => Ok(value),
            _ => Err(ScramError::Malformed("unexpected attribute")),
        }
    }

    pub(super) fn any_attribute(&mut self) -> Result<(u8, &'a str), ScramError> {
        let name = self.peek().ok_or(ScramError::Malformed("attribute expected"))?;
        if !name.is_ascii_alphabetic() {
            return Err(ScramError::Malformed("attribute expected"));
        }
        let text = self.rest[1..].strip_prefix('=').ok_or(ScramError::Malformed("= expected"))?;
        let (value, rest) = text.split_once(',').unwrap_or((text, ""));
        self.rest = rest;
        Ok((name, value))
    }

    /// The first part of the GS2 header. Gives what `c=` of the last message must hold.
    pub(super) fn binding_flag(
        &mut self,
        plus: bool,
        end_point: Option<&[u8]>,
    ) -> Result<Vec<u8>, ScramError> {
        let flag = self.peek().ok_or(ScramError::Malformed("empty"))?;
        match flag {
            b'n' | b'y' if plus => Err(ScramError::Malformed("channel binding data expected")),
            b'y' if end_point.is_some() => Err(ScramError::ChannelBinding),
            b'n' | b'y' => {
                self.rest = &self.rest[1..];
                self.comma()?;
                Ok(vec![flag, b',', b','])
            }
            b'p' if plus => match self.attribute(b'p')? {
                "tls-server-end-point" => {
                    Ok([BINDING_HEADER.as_bytes(), end_point.unwrap_or_default()].concat())
                }
                _ => Err(ScramError::Malformed("unsupported channel-binding type")),
            },
            b'p' => Err(ScramError::Malformed("channel binding was not selected")),
            _ => Err(ScramError::Malformed("unexpected channel-binding flag")),
        }
    }
}
