//! Settings and transaction modes: SET in all its spellings, RESET, SHOW, and `set_config`.

use super::command::{
    Command, ConfigLocal, ConfigName, ConfigValue, Isolation, Scope, SetConfig, SetValue, Setting,
    TransactionModes,
};
use super::literal::string_value;
use super::pin::{Pin, PinSet};
use super::recognize::Recognized;
use super::scan::{Token, TokenKind};
use super::tokens::Tokens;
use crate::pg::GucName;

/// `SELECT set_config(...), ...` with constants and parameters.
pub(super) fn set_config(text: &[u8], tokens: &[Token]) -> Option<Recognized> {
    let mut parser = Tokens::new(text, tokens);
    parser.word("select")?;
    let mut calls = Vec::new();
    loop {
        calls.push(parser.set_config_call()?);
        parser.label();
        if parser.kind(TokenKind::Comma).is_none() {
            break;
        }
    }
    parser.end()?;
    // The value is only safe to send again if it means the same later: see `setting_pins`.
    let mut pins = PinSet::EMPTY;
    for call in &calls {
        let ConfigName::Literal(name) = &call.name else {
            continue;
        };
        if is_of_transaction(name) {
            return None;
        }
        let source = if let ConfigValue::Source(source) = &call.value { source } else { &[][..] };
        if call.local != ConfigLocal::Transaction {
            pins = pins.union(setting_pins(name, source));
        }
    }
    Some(Recognized { command: Command::SetConfig(calls.into()), pins, ends: PinSet::EMPTY })
}

impl Tokens<'_> {
    /// `transaction_mode_list_or_empty`, to the end of the statement.
    pub(super) fn modes(&mut self) -> Option<TransactionModes> {
        let mut modes = TransactionModes::default();
        let mut first = true;
        while !self.at_end() {
            if !first {
                self.kind(TokenKind::Comma);
            }
            first = false;
            if self.words(&["isolation", "level"]).is_some() {
                let level = if self.words(&["read", "uncommitted"]).is_some() {
                    Isolation::ReadUncommitted
                } else if self.words(&["read", "committed"]).is_some() {
                    Isolation::ReadCommitted
                } else if self.words(&["repeatable", "read"]).is_some() {
                    Isolation::RepeatableRead
                } else {
                    self.word("serializable")?;
                    Isolation::Serializable
                };
                modes.isolation = Some(level);
            } else if self.words(&["read", "only"]).is_some() {
                modes.read_only = Some(true);
            } else if self.words(&["read", "write"]).is_some() {
                modes.read_only = Some(false);
            } else if self.word("deferrable").is_some() {
                modes.deferrable = Some(true);
            } else {
                self.words(&["not", "deferrable"])?;
                modes.deferrable = Some(false);
            }
        }
        Some(modes)
    }

    /// `VariableSetStmt`
    pub(super) fn set(&mut self) -> Option<Recognized> {
        if self.word("constraints").is_some() {
            return Some(Recognized::plain(Command::SetConstraints));
        }
        let mut scope = Scope::Session;
        // LOCAL and SESSION may also be (strange) names of settings.
        if !self.names_setting(self.at) && !self.is_dot(self.at + 1) {
            if self.word("local").is_some() {
                scope = Scope::Local;
            } else if !self.is_word(self.at + 1, "characteristics")
                && !self.is_word(self.at + 1, "authorization")
            {
                self.word("session");
            }
        }
        if self.names_setting(self.at) || self.is_dot(self.at + 1) {
            let name = self.setting_name()?;
            if self.word("to").is_none() {
                self.operator(b"=")?;
            }
            let value = self.set_value()?;
            return self.set_result(scope, name, value);
        }
        if self.word("transaction").is_some() {
            if self.word("snapshot").is_some() {
                self.string()?;
                self.end()?;
                return Some(Recognized::plain(Command::SetTransactionSnapshot));
            }
            if self.at_end() {
                return None;
            }
            return Some(Recognized::plain(Command::SetTransaction(self.modes()?)));
        }
        if self.words(&["session", "characteristics", "as", "transaction"]).is_some() {
            return self.characteristics(scope);
        }
        let (name, value) = if self.words(&["time", "zone"]).is_some() {
            ("timezone", self.time_zone()?)
        } else if self.word("schema").is_some() {
            let first = self.at;
            self.string()?;
            ("search_path", SetValue::Source(self.source_since(first)?))
        } else if self.word("names").is_some() {
            let first = self.at;
            let value = if self.at_end() || self.word("default").is_some() {
                SetValue::Default
            } else {
                self.string()?;
                SetValue::Source(self.source_since(first)?)
            };
            ("client_encoding", value)
        } else if self.word("role").is_some() {
            ("role", self.word_or_string()?)
        } else if self.words(&["session", "authorization"]).is_some() {
            let value =
                if self.word("default").is_some() { SetValue::Default } else { self.word_or_string()? };
            ("session_authorization", value)
        } else if self.words(&["xml", "option"]).is_some() {
            let first = self.at;
            if self.word("document").is_none() {
                self.word("content")?;
            }
            ("xmloption", SetValue::Source(self.source_since(first)?))
        } else {
            return None;
        };
        self.end()?;
        self.set_result(scope, GucName::new(name), value)
    }

    /// Whether a setting's name stands at `at`, followed by TO or `=`.
    fn names_setting(&self, at: usize) -> bool {
        let is_name = self.list.get(at).is_some_and(|token| token.kind.is_identifier());
        let is_equals = self
            .list
            .get(at + 1)
            .is_some_and(|&token| token.kind == TokenKind::Operator && self.source(token) == b"=");
        is_name && (is_equals || self.is_word(at + 1, "to"))
    }

    fn set_result(&self, scope: Scope, name: GucName, value: SetValue) -> Option<Recognized> {
        self.end()?;
        if is_of_transaction(&name) {
            return Some(Recognized::plain(Command::SetTransaction(transaction_modes(&name, &value)?)));
        }
        let mut pins = PinSet::EMPTY;
        if let (Scope::Session, SetValue::Source(source)) = (scope, &value) {
            pins = setting_pins(&name, source);
        }
        let command = Command::Set { scope, settings: [Setting { name, value }].into() };
        Some(Recognized { command, pins, ends: PinSet::EMPTY })
    }

    /// `var_list`, or DEFAULT.
    fn set_value(&mut self) -> Option<SetValue> {
        if self.word("default").is_some() {
            return Some(SetValue::Default);
        }
        let first = self.at;
        loop {
            if self.string().is_none() {
                let signed = self.operator(b"-").or_else(|| self.operator(b"+")).is_some();
                let token = self.peek()?;
                let is_number = matches!(token.kind, TokenKind::Integer | TokenKind::Numeric);
                if !is_number && (signed || !token.kind.is_identifier()) {
                    return None;
                }
                self.at += 1;
            }
            if self.kind(TokenKind::Comma).is_none() {
                return Some(SetValue::Source(self.source_since(first)?));
            }
        }
    }

    /// `NonReservedWord_or_Sconst`
    fn word_or_string(&mut self) -> Option<SetValue> {
        let first = self.at;
        if self.string().is_none() {
            self.peek().filter(|token| token.kind.is_identifier())?;
            self.at += 1;
        }
        Some(SetValue::Source(self.source_since(first)?))
    }

    /// `zone_value`
    fn time_zone(&mut self) -> Option<SetValue> {
        if self.word("local").is_some() || self.word("default").is_some() {
            return Some(SetValue::Default);
        }
        let first = self.at;
        if self.word("interval").is_none() {
            return self.set_value();
        }
        // INTERVAL '...' HOUR TO MINUTE, or INTERVAL(p) '...'
        if self.kind(TokenKind::OpenParen).is_some() {
            self.kind(TokenKind::Integer)?;
            self.kind(TokenKind::CloseParen)?;
        }
        self.string()?;
        if self.word("hour").is_some() && self.word("to").is_some() {
            self.word("minute")?;
        }
        Some(SetValue::Source(self.source_since(first)?))
    }

    /// SET SESSION CHARACTERISTICS: the defaults of the transactions to come.
    fn characteristics(&mut self, scope: Scope) -> Option<Recognized> {
        if self.at_end() {
            return None;
        }
        let modes = self.modes()?;
        let on_off = |on: bool| if on { "on" } else { "off" }.to_owned();
        let settings = [
            ("default_transaction_isolation", modes.isolation.map(|level| format!("'{}'", level.as_str()))),
            ("default_transaction_read_only", modes.read_only.map(on_off)),
            ("default_transaction_deferrable", modes.deferrable.map(on_off)),
        ];
        let settings = settings
            .into_iter()
            .filter_map(|(name, value)| {
                let value = SetValue::Source(value?.into_bytes().into());
                Some(Setting { name: GucName::new(name), value })
            })
            .collect();
        Some(Recognized::plain(Command::Set { scope, settings }))
    }

    pub(super) fn reset(&mut self) -> Option<Recognized> {
        let name = self.special_setting_name()?;
        self.end()?;
        Some(Recognized::plain(match name {
            SettingName::All => Command::ResetAll,
            SettingName::One(name) => Command::Reset(name),
        }))
    }

    pub(super) fn show(&mut self) -> Option<Recognized> {
        let name = self.special_setting_name()?;
        self.end()?;
        Some(Recognized::plain(match name {
            SettingName::All => Command::ShowAll,
            SettingName::One(name) => Command::Show(name),
        }))
    }

    /// What RESET and SHOW may name.
    fn special_setting_name(&mut self) -> Option<SettingName> {
        let name = if self.words(&["time", "zone"]).is_some() {
            GucName::new("timezone")
        } else if self.words(&["transaction", "isolation", "level"]).is_some() {
            GucName::new("transaction_isolation")
        } else if self.words(&["session", "authorization"]).is_some() {
            GucName::new("session_authorization")
        } else if self.word("all").is_some() {
            return Some(SettingName::All);
        } else {
            self.setting_name()?
        };
        Some(SettingName::One(name))
    }

    /// The name of a setting, dots included.
    fn setting_name(&mut self) -> Option<GucName> {
        let mut name = self.name()?.as_bytes().to_vec();
        while self.kind(TokenKind::Dot).is_some() {
            name.push(b'.');
            name.extend_from_slice(self.name()?.as_bytes());
        }
        Some(GucName::new(std::str::from_utf8(&name).ok()?))
    }

    fn set_config_call(&mut self) -> Option<SetConfig> {
        self.function("set_config")?;
        self.kind(TokenKind::OpenParen)?;
        let name = match self.argument()? {
            Argument::Parameter(number) => ConfigName::Parameter(number),
            Argument::String(token) => {
                let value = string_value(token.kind, self.source(token))?;
                ConfigName::Literal(GucName::new(std::str::from_utf8(&value).ok()?))
            }
            Argument::Null | Argument::Bool(_) => return None,
        };
        self.kind(TokenKind::Comma)?;
        let value = match self.argument()? {
            Argument::Parameter(number) => ConfigValue::Parameter(number),
            Argument::String(token) => ConfigValue::Source(self.source(token).into()),
            Argument::Null => ConfigValue::Null,
            Argument::Bool(_) => return None,
        };
        self.kind(TokenKind::Comma)?;
        let local = match self.argument()? {
            Argument::Parameter(number) => ConfigLocal::Parameter(number),
            Argument::Bool(true) => ConfigLocal::Transaction,
            Argument::Bool(false) => ConfigLocal::Session,
            Argument::String(token) => match string_value(token.kind, self.source(token))?.as_slice() {
                b"t" | b"true" | b"on" => ConfigLocal::Transaction,
                b"f" | b"false" | b"off" => ConfigLocal::Session,
                _ => return None,
            },
            Argument::Null => return None,
        };
        self.kind(TokenKind::CloseParen)?;
        Some(SetConfig { name, value, local })
    }

    /// A constant or parameter, with casts to a type of one word.
    fn argument(&mut self) -> Option<Argument> {
        let token = self.peek()?;
        let argument = if let Some(number) = self.kind(TokenKind::Parameter) {
            let digits = std::str::from_utf8(self.source(number).get(1..)?).ok()?;
            Argument::Parameter(digits.parse().ok()?)
        } else if self.word("null").is_some() {
            Argument::Null
        } else if self.word("true").is_some() {
            Argument::Bool(true)
        } else if self.word("false").is_some() {
            Argument::Bool(false)
        } else {
            // Its escapes may need a UESCAPE or more: only what `string_value` can read.
            if token.kind == TokenKind::UnicodeString {
                return None;
            }
            Argument::String(self.string()?)
        };
        while self.kind(TokenKind::TypeCast).is_some() {
            let harmless = ["text", "varchar", "boolean", "bool"];
            harmless.iter().find_map(|name| self.word(name))?;
        }
        Some(argument)
    }
}

enum SettingName {
    All,
    One(GucName),
}

enum Argument {
    Parameter(u16),
    String(Token),
    Null,
    Bool(bool),
}

/// Settings that belong to the running transaction: nothing to remember, and RESET does not know them.
fn is_of_transaction(name: &GucName) -> bool {
    matches!(name.as_str(), "transaction_isolation" | "transaction_read_only" | "transaction_deferrable")
}

/// Why a session setting cannot be sent again although its name and value are plain.
fn setting_pins(name: &GucName, source: &[u8]) -> PinSet {
    match name.as_str() {
        // Sets the state of `random()`, which nothing can ask for.
        "seed" => Pin::SessionFunction.into(),
        // With pg_temp in front, CREATE TABLE makes temporary tables that do not look like any.
        "search_path" if source.windows(7).any(|window| window.eq_ignore_ascii_case(b"pg_temp")) => {
            Pin::UnknownSetting.into()
        }
        _ => PinSet::EMPTY,
    }
}

/// `SET transaction_isolation = ...` and its like, as SET TRANSACTION.
fn transaction_modes(name: &GucName, value: &SetValue) -> Option<TransactionModes> {
    let SetValue::Source(source) = value else {
        return None;
    };
    let value = source.trim_ascii();
    let value = value.strip_prefix(b"'").and_then(|value| value.strip_suffix(b"'")).unwrap_or(value);
    let on_off = match value.to_ascii_lowercase().as_slice() {
        b"on" | b"true" | b"yes" | b"1" => Some(true),
        b"off" | b"false" | b"no" | b"0" => Some(false),
        _ => None,
    };
    let mut modes = TransactionModes::default();
    match name.as_str() {
        "transaction_isolation" => modes.isolation = Some(Isolation::from_name(value)?),
        "transaction_read_only" => modes.read_only = Some(on_off?),
        "transaction_deferrable" => modes.deferrable = Some(on_off?),
        _ => return None,
    }
    Some(modes)
}
