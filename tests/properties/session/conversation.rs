//! Conversations: what clients say, in a form that can be generated, shrunk, printed and read again.
//!
//! ```text
//! pool 1 prepared 8 unnamed
//! schedule 0 17 3
//! client work_mem=2MB
//!   query SELECT 1
//!   parse [s1] SELECT $1
//!   bind [p1] [s1] x
//!   execute [p1] 0
//!   sync
//!   wait
//!   end politely
//! ```

use std::fmt;

use weir::wire::{build, frontend};

/// One message, or a pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Query(String),
    Parse {
        name: String,
        text: String,
    },
    Bind {
        portal: String,
        statement: String,
        parameters: Vec<String>,
    },
    DescribeStatement(String),
    DescribePortal(String),
    Execute {
        portal: String,
        limit: u32,
    },
    CloseStatement(String),
    ClosePortal(String),
    Sync,
    Flush,
    CopyData(String),
    CopyDone,
    CopyFail,
    /// The client reads what has been answered before it goes on.
    Wait,
}

/// How a client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Ends what is open, reads all answers, and says good-bye.
    Politely,
    /// Says good-bye without reading what is still to come.
    Terminate,
    /// Closes its side.
    Close,
    /// Is gone at once.
    Vanish,
}

/// One client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// Settings of its startup packet.
    pub(super) startup: Vec<(String, String)>,
    pub(super) steps: Vec<Step>,
    pub(super) end: End,
}

/// Clients, the proxy between, and the order in which things happen.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Conversation {
    /// Server connections at most.
    pub(super) pool: usize,
    /// Statements that a server connection keeps prepared.
    pub(super) prepared_max: usize,
    /// Unnamed statements that repeat are prepared.
    pub(super) prepare_unnamed: bool,
    pub(super) clients: Vec<Client>,
    /// What happens next, as long as there are numbers; from then on everything as soon as it can.
    pub(super) schedule: Vec<u8>,
    /// After that many events the server connection that is busiest breaks.
    pub(super) breaks_after: Option<usize>,
}

impl Step {
    /// Its bytes.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Query(text) => build::query(out, text.as_bytes()),
            Self::Parse { name, text } => build::parse(out, name.as_bytes(), text.as_bytes(), &[0, 0]),
            Self::Bind { portal, statement, parameters } => {
                let mut rest = vec![0, 0];
                rest.extend_from_slice(&u16::try_from(parameters.len()).unwrap().to_be_bytes());
                for parameter in parameters {
                    rest.extend_from_slice(&u32::try_from(parameter.len()).unwrap().to_be_bytes());
                    rest.extend_from_slice(parameter.as_bytes());
                }
                rest.extend_from_slice(&[0, 0]);
                build::bind(out, portal.as_bytes(), statement.as_bytes(), &rest);
            }
            Self::DescribeStatement(name) => named(out, frontend::DESCRIBE, b'S', name),
            Self::DescribePortal(name) => named(out, frontend::DESCRIBE, b'P', name),
            Self::Execute { portal, limit } => build::frame(out, frontend::EXECUTE, |body| {
                body.extend_from_slice(portal.as_bytes());
                body.push(0);
                body.extend_from_slice(&limit.to_be_bytes());
            }),
            Self::CloseStatement(name) => build::close_statement(out, name.as_bytes()),
            Self::ClosePortal(name) => named(out, frontend::CLOSE, b'P', name),
            Self::Sync => build::empty(out, frontend::SYNC),
            Self::Flush => build::empty(out, frontend::FLUSH),
            Self::CopyData(data) => {
                build::frame(out, frontend::COPY_DATA, |body| body.extend_from_slice(data.as_bytes()));
            }
            Self::CopyDone => build::empty(out, frontend::COPY_DONE),
            Self::CopyFail => {
                build::frame(out, frontend::COPY_FAIL, |body| body.extend_from_slice(b"gave up\0"));
            }
            Self::Wait => {}
        }
    }

    /// Tag and body.
    pub(super) fn message(&self) -> Option<(u8, Vec<u8>)> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        let tag = *bytes.first()?;
        Some((tag, bytes.split_off(5)))
    }
}

fn named(out: &mut Vec<u8>, tag: u8, kind: u8, name: &str) {
    build::frame(out, tag, |body| {
        body.push(kind);
        body.extend_from_slice(name.as_bytes());
        body.push(0);
    });
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query(text) => write!(f, "query {text}"),
            Self::Parse { name, text } => write!(f, "parse [{name}] {text}"),
            Self::Bind { portal, statement, parameters } => {
                write!(f, "bind [{portal}] [{statement}] {}", parameters.join("|"))
            }
            Self::DescribeStatement(name) => write!(f, "describe-statement [{name}]"),
            Self::DescribePortal(name) => write!(f, "describe-portal [{name}]"),
            Self::Execute { portal, limit } => write!(f, "execute [{portal}] {limit}"),
            Self::CloseStatement(name) => write!(f, "close-statement [{name}]"),
            Self::ClosePortal(name) => write!(f, "close-portal [{name}]"),
            Self::Sync => f.write_str("sync"),
            Self::Flush => f.write_str("flush"),
            Self::CopyData(data) => write!(f, "copy-data {}", data.escape_default()),
            Self::CopyDone => f.write_str("copy-done"),
            Self::CopyFail => f.write_str("copy-fail"),
            Self::Wait => f.write_str("wait"),
        }
    }
}

impl End {
    pub(super) const ALL: [Self; 4] = [Self::Politely, Self::Terminate, Self::Close, Self::Vanish];

    fn as_str(self) -> &'static str {
        match self {
            Self::Politely => "politely",
            Self::Terminate => "terminate",
            Self::Close => "close",
            Self::Vanish => "vanish",
        }
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{self}")
    }
}

impl fmt::Display for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {} prepared {}", self.pool, self.prepared_max)?;
        writeln!(f, "{}", if self.prepare_unnamed { " unnamed" } else { "" })?;
        if let Some(events) = self.breaks_after {
            writeln!(f, "breaks {events}")?;
        }
        if !self.schedule.is_empty() {
            let numbers: Vec<String> = self.schedule.iter().map(u8::to_string).collect();
            writeln!(f, "schedule {}", numbers.join(" "))?;
        }
        for client in &self.clients {
            f.write_str("client")?;
            for (name, value) in &client.startup {
                write!(f, " {name}={value}")?;
            }
            writeln!(f)?;
            for step in &client.steps {
                writeln!(f, "  {step}")?;
            }
            writeln!(f, "  end {}", client.end.as_str())?;
        }
        Ok(())
    }
}

/// Reads what `Display` writes.
pub(super) fn read(text: &str) -> Conversation {
    let mut conversation = Conversation {
        pool: 1,
        prepared_max: 8,
        prepare_unnamed: false,
        clients: Vec::new(),
        schedule: Vec::new(),
        breaks_after: None,
    };
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "pool" => {
                let words: Vec<&str> = rest.split(' ').collect();
                conversation.pool = words[0].parse().unwrap();
                conversation.prepared_max = words[2].parse().unwrap();
                conversation.prepare_unnamed = words.len() > 3;
            }
            "breaks" => conversation.breaks_after = rest.parse().ok(),
            "schedule" => {
                conversation.schedule = rest.split(' ').map(|number| number.parse().unwrap()).collect();
            }
            "client" => {
                let pairs = rest.split(' ').filter_map(|pair| pair.split_once('='));
                let startup = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                conversation.clients.push(Client { startup, steps: Vec::new(), end: End::Politely });
            }
            "end" => {
                let end = End::ALL.into_iter().find(|end| end.as_str() == rest).unwrap();
                conversation.clients.last_mut().unwrap().end = end;
            }
            _ => conversation.clients.last_mut().unwrap().steps.push(step(word, rest)),
        }
    }
    conversation
}

fn step(word: &str, rest: &str) -> Step {
    let mut rest = rest;
    let mut bracketed = || {
        let (name, behind) = rest.strip_prefix('[').unwrap().split_once(']').unwrap();
        rest = behind.strip_prefix(' ').unwrap_or(behind);
        name.to_owned()
    };
    match word {
        "query" => Step::Query(rest.to_owned()),
        "parse" => Step::Parse { name: bracketed(), text: rest.to_owned() },
        "bind" => {
            let (portal, statement) = (bracketed(), bracketed());
            let parameters = rest.split('|').filter(|text| !text.is_empty()).map(str::to_owned).collect();
            Step::Bind { portal, statement, parameters }
        }
        "describe-statement" => Step::DescribeStatement(bracketed()),
        "describe-portal" => Step::DescribePortal(bracketed()),
        "execute" => Step::Execute { portal: bracketed(), limit: rest.parse().unwrap() },
        "close-statement" => Step::CloseStatement(bracketed()),
        "close-portal" => Step::ClosePortal(bracketed()),
        "sync" => Step::Sync,
        "flush" => Step::Flush,
        "copy-data" => Step::CopyData(rest.replace("\\n", "\n").replace("\\t", "\t")),
        "copy-done" => Step::CopyDone,
        "copy-fail" => Step::CopyFail,
        "wait" => Step::Wait,
        other => panic!("unknown step {other}"),
    }
}

/// A backend message as text.
pub(super) fn show(message: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').replace('\0', " ");
    let (tag, body) = (message[0], &message[5..]);
    match tag {
        b'1' => "ParseComplete".to_owned(),
        b'2' => "BindComplete".to_owned(),
        b'3' => "CloseComplete".to_owned(),
        b'C' => format!("CommandComplete {}", text(body)),
        b'D' => format!("DataRow {}", text(&body[2..]).escape_default()),
        b'E' | b'N' => {
            let name = if tag == b'E' { "Error" } else { "Notice" };
            let fields = body.split(|byte| *byte == 0).filter(|field| !field.is_empty());
            let shown: Vec<String> =
                fields.filter(|field| b"VCM".contains(&field[0])).map(|field| text(&field[1..])).collect();
            format!("{name} {}", shown.join(" "))
        }
        b'G' => "CopyInResponse".to_owned(),
        b'H' => "CopyOutResponse".to_owned(),
        b'I' => "EmptyQueryResponse".to_owned(),
        b'S' => format!("ParameterStatus {}", text(body)),
        b'T' => format!("RowDescription {}", u16::from_be_bytes([body[0], body[1]])),
        b'Z' => format!("ReadyForQuery {}", text(body)),
        b'c' => "CopyDone".to_owned(),
        b'd' => format!("CopyData {}", text(body).escape_default()),
        b'n' => "NoData".to_owned(),
        b's' => "PortalSuspended".to_owned(),
        b't' => format!("ParameterDescription {}", u16::from_be_bytes([body[0], body[1]])),
        _ => format!("{:?} {}", char::from(tag), text(body).escape_default()),
    }
}
