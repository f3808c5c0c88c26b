//! What `client::routing` decides: what is answered without a server, and what is a read that is sent alone.

use weir::session::Laziness;
use weir::sql::class::Class;
use weir::sql::classify::classify_anywhere;
use weir::sql::command::Isolation;
use weir::sql::{Classification, analyze};

use super::proxy::{Proxy, odd};

impl Proxy<'_> {
    /// Whether the client's next unit is answered here; if not, how it is to be sent.
    pub(super) fn is_answered(&mut self, index: usize, bytes: usize) -> Result<bool, String> {
        let client = &mut self.clients[index];
        let unit = client.input[..bytes].to_vec();
        client.allowance = None;
        client.opens_block = client.session.is_lazy();
        let Some(contents) = client.session.contents(&unit).map_err(odd)? else { return Ok(false) };
        let mut reads = !contents.texts.is_empty();
        for text in &contents.texts {
            let lexing = text.lexing(client.session.lexing());
            let analysis = analyze(text.as_bytes(), lexing);
            let laziness = Laziness::ByIsolation(Some(Isolation::ReadCommitted));
            if contents.texts.len() == 1
                && let Some(step) = client.session.block_step(&analysis, laziness)
            {
                let mut answer = Vec::new();
                let taken = client.session.take_step(step, text.as_bytes(), &unit, &self.shared, &mut answer);
                if !taken.map_err(odd)? {
                    return Ok(false);
                }
                self.trace.push(format!("client {index} is answered: {step:?}"));
                client.received.append(&mut answer);
                client.input.drain(..bytes);
                return Ok(true);
            }
            let classes = classify_anywhere(text.as_bytes(), lexing.standard_conforming_strings, &analysis);
            reads &= !classes.statements.is_empty() && classes.statements.iter().all(is_read);
        }
        if reads {
            client.allowance = Some(bytes);
            client.opens_block = false;
        }
        Ok(false)
    }
}

/// The model has no catalog: what reads no table, and calls nothing but what is known here.
fn is_read(class: &Classification) -> bool {
    class.class == Class::Read
        && class.relations.is_empty()
        && class.functions.iter().all(|call| call.name.is_builtin("generate_series"))
}
