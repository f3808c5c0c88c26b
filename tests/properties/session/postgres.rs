//! The model held against PostgreSQL itself.
//!
//! `WEIR_TEST_POSTGRES=127.0.0.1:5432 cargo test the_model -- --ignored`, with a throw-away server that trusts `postgres`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use weir::wire::build;

use super::conversation::{Client, End, show};
use super::generate;
use super::proxy::messages;
use super::reference::{Part, Reference};

/// What the conversations need, in each schema that they look into.
const SETUP: &str = "\
CREATE TABLE log (a text);\
CREATE FUNCTION app_set(name text, value text) RETURNS text LANGUAGE plpgsql AS \
'BEGIN RETURN set_config(name, value, false); END';\
CREATE FUNCTION app_temporary() RETURNS void LANGUAGE plpgsql AS 'BEGIN CREATE TEMP TABLE t1 (a text); END'";

/// How long an answer that is due may take.
const DEADLINE: Duration = Duration::from_secs(1);

#[test]
#[ignore = "needs a PostgreSQL server of its own: WEIR_TEST_POSTGRES=host:port"]
#[expect(clippy::disallowed_methods, reason = "tests have no settings")]
fn the_model_answers_as_postgresql_does() {
    let address = std::env::var("WEIR_TEST_POSTGRES").expect("WEIR_TEST_POSTGRES names a server");
    let mut session = Session::login(&address, &[]);
    // Fails if it was done before.
    let setup = format!("{SETUP};CREATE ROLE bob SUPERUSER;CREATE SCHEMA app;SET search_path TO app;{SETUP}");
    session.send(|out| build::query(out, setup.as_bytes()));
    session.leave();
    let mut runner = TestRunner::new(Config { max_shrink_iters: 200, ..super::super::config(2000) });
    let conversations = generate::conversation(1..2, &[End::Politely], false);
    let outcome = runner.run(&conversations, |conversation| {
        let client = &conversation.clients[0];
        let reference = Reference::new(0, client);
        let wanted = super::in_order(&reference.messages);
        let got = run(&address, client, &reference);
        let at = wanted.iter().zip(&got).take_while(|(wanted, got)| alike(wanted, got)).count();
        let line = |list: &[String]| list.get(at).cloned().unwrap_or_else(|| "nothing".to_owned());
        prop_assert!(
            at == wanted.len() && at == got.len(),
            "message {} is {}\nand in the model {}\n{}",
            at,
            line(&got),
            line(&wanted),
            conversation
        );
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

fn run(address: &str, client: &Client, reference: &Reference) -> Vec<String> {
    let mut session = Session::login(address, &client.startup);
    for part in &reference.parts {
        match part {
            Part::Bytes(bytes) => session.send(|out| out.extend_from_slice(bytes)),
            Part::Wait(count) => session.read(*count),
        }
    }
    let process = session.process.to_string();
    let theirs = format!("\\u{{{}}}{process}", process.len());
    let found = session.leave();
    super::in_order(&found).iter().map(|line| line.replace(&theirs, "\\u{1}1")).collect()
}

/// The model does not know all of PostgreSQL's words.
fn alike(wanted: &str, got: &str) -> bool {
    let is_vague = ["42601", "08P01 unexpected message type"].iter().any(|text| wanted.contains(text));
    wanted == got || is_vague && wanted.split(' ').take(3).eq(got.split(' ').take(3))
}

struct Session {
    stream: TcpStream,
    received: Vec<u8>,
    process: u32,
}

impl Session {
    fn login(address: &str, startup: &[(String, String)]) -> Self {
        let stream = TcpStream::connect(address).expect("a server listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time");
        let mut session = Self { stream, received: Vec::new(), process: 0 };
        let mut parameters = vec![(&b"user"[..], &b"postgres"[..]), (b"database", b"postgres")];
        parameters.extend(startup.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        session.send(|out| build::startup(out, &parameters));
        while messages(&session.received).last().is_none_or(|message| message[0] != b'Z') {
            session.fill();
        }
        for message in messages(&session.received) {
            if message[0] == b'K' {
                session.process = u32::from_be_bytes(message[5..9].try_into().unwrap());
            }
        }
        session.received.clear();
        session
    }

    fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut bytes);
        // It may have ended the session.
        let _ = self.stream.write_all(&bytes);
    }

    fn fill(&mut self) -> usize {
        let mut buffer = [0; 8192];
        let count = self.stream.read(&mut buffer).unwrap_or(0);
        self.received.extend_from_slice(&buffer[..count]);
        count
    }

    fn read(&mut self, count: usize) {
        while messages(&self.received).len() < count && self.fill() > 0 {}
    }

    /// Says good-bye; gives all that was answered.
    fn leave(mut self) -> Vec<Vec<u8>> {
        self.send(build::terminate);
        while self.fill() > 0 {}
        messages(&self.received).iter().filter(|message| !show(message).is_empty()).cloned().collect()
    }
}
