//! The session machine against a model of PostgreSQL.
//!
//! A client must not notice that it shares its server connections: whatever some clients say, however their messages and
//! the answers are cut and interleaved, each sees what a backend of its own would have answered. The model is a backend
//! of few words ([`backend`], [`transaction`], [`sql`]); [`reference`] gives each client one of its own; [`proxy`] runs them
//! all through the machine, over few.

mod backend;
mod conversation;
mod exclusions;
mod extended;
mod generate;
#[cfg(test)]
mod postgres;
mod proxy;
mod reference;
mod relay;
mod routing;
mod script;
mod server;
mod settings;
mod sql;
mod transaction;

use std::fmt::Write as _;

use proptest::prelude::*;

use conversation::{Conversation, End, show};
use proxy::Seen;
use reference::Reference;

proptest! {
    #![proptest_config(super::config(5000))]

    /// The promise of pooling.
    #[test]
    fn clients_see_what_a_backend_of_their_own_would_answer(
        conversation in generate::conversation(1..4, &[End::Politely], false)
    ) {
        check_way(&conversation, false).map_err(TestCaseError::fail)?;
    }

    /// A client that goes at any moment leaves nothing behind, and the others do not notice.
    #[test]
    fn clients_that_vanish_leave_nothing_behind(
        conversation in generate::conversation(2..4, &[End::Politely, End::Terminate, End::Close, End::Vanish], false)
    ) {
        check_way(&conversation, false).map_err(TestCaseError::fail)?;
    }

    /// A server connection that breaks cuts off one client at most.
    #[test]
    fn a_broken_server_connection_cuts_off_only_who_has_it(
        conversation in generate::conversation(1..4, &[End::Politely, End::Vanish], true)
    ) {
        check_way(&conversation, false).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(super::config(5000))]

    /// The same where blocks are lazy and reads are sent one by one.
    #[test]
    fn clients_of_lazy_blocks_see_the_same(
        conversation in generate::conversation(1..4, &[End::Politely, End::Terminate, End::Close, End::Vanish], false)
    ) {
        check_way(&conversation, true).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_broken_server_connection_cuts_off_only_who_has_it_though_lazy(
        conversation in generate::conversation(1..4, &[End::Politely, End::Vanish], true)
    ) {
        check_way(&conversation, true).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(super::config(2000))]

    /// As the fuzz target reads them.
    #[test]
    fn any_bytes_are_a_conversation(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check_script(&bytes).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn no_messages_of_either_side_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        survive(&bytes);
    }
}

/// Takes bytes as a conversation and checks it.
pub(super) fn check_script(bytes: &[u8]) -> Result<(), String> {
    check(&script::conversation(bytes))
}

/// Takes bytes as messages of both sides.
pub(super) fn survive(bytes: &[u8]) {
    script::survive(bytes);
}

/// Runs a conversation without and with lazy blocks.
fn check(conversation: &Conversation) -> Result<(), String> {
    check_way(conversation, false)?;
    check_way(conversation, true)
}

/// Runs a conversation over a backend of its own and through the machine, and compares what each client sees and does.
fn check_way(conversation: &Conversation, splitting: bool) -> Result<(), String> {
    let clients = conversation.clients.iter().enumerate();
    let references: Vec<Reference> = clients.map(|(index, client)| Reference::new(index, client)).collect();
    let (outcome, trace) = proxy::run(conversation, &references, splitting);
    let problem = match outcome {
        Ok(seen) => {
            let mut both = references.iter().zip(&seen).enumerate();
            both.find_map(|(index, (reference, seen))| difference(conversation, index, reference, seen))
        }
        Err(problem) => Some(problem),
    };
    let Some(problem) = problem else { return Ok(()) };
    let mut text = format!("{problem}\n\n{conversation}\n");
    for (index, reference) in references.iter().enumerate() {
        for (step, reason) in &reference.excluded {
            let step = &conversation.clients[index].steps[*step];
            writeln!(text, "left out of client {index}: {step} ({reason})")
                .map_err(|error| error.to_string())?;
        }
    }
    Err(format!("{text}\nWhat happened:\n{}", trace.join("\n")))
}

/// Where what a client saw differs from what it should have seen.
fn difference(
    conversation: &Conversation,
    index: usize,
    expected: &Reference,
    seen: &Seen,
) -> Option<String> {
    let (mut wanted, mut got) = (in_order(&expected.messages), in_order(&seen.messages));
    let politely = conversation.clients[index].end == End::Politely && !seen.was_cut_off;
    if seen.was_cut_off {
        got.pop();
    }
    let (wanted_log, got_log) = (&expected.committed[..], &seen.committed[..]);
    if !politely {
        // It need not have heard or done all, but nothing else.
        wanted.truncate(got.len());
        if !wanted_log.starts_with(got_log) {
            return Some(format!("client {index} committed {got_log:?}, not {wanted_log:?}"));
        }
    } else if wanted_log != got_log {
        return Some(format!("client {index} committed {got_log:?}, not {wanted_log:?}"));
    }
    if wanted == got {
        return None;
    }
    let at = wanted.iter().zip(&got).take_while(|(wanted, got)| wanted == got).count();
    let line = |list: &[String]| list.get(at).cloned().unwrap_or_else(|| "nothing".to_owned());
    Some(format!("client {index} got, as message {at}, {}\nand not {}", line(&got), line(&wanted)))
}

/// Messages as text; reports of settings that stand together in alphabetical order, since that is nobody's business.
fn in_order(messages: &[Vec<u8>]) -> Vec<String> {
    let mut lines: Vec<String> = messages.iter().map(|message| show(message)).collect();
    let is_report = |line: &String| line.starts_with("ParameterStatus");
    lines.chunk_by_mut(|one, other| is_report(one) && is_report(other)).for_each(<[String]>::sort);
    lines
}

/// Conversations that once showed something wrong.
#[test]
fn conversations_that_once_failed() {
    for text in include_str!("regressions.txt").split("\n\n").filter(|text| text.contains("\nclient")) {
        let conversation = conversation::read(text);
        assert_eq!(conversation::read(&conversation.to_string()), conversation);
        check(&conversation).unwrap_or_else(|problem| panic!("{problem}"));
    }
}
