//! Values for a statement whose own are not known: its plan for any values says what they are compared with.

use tokio_postgres::SimpleQueryMessage;

use super::ControlError;
use super::explain::{EXPLAIN, Explainer, json};
use crate::advice::plan::Node;
use crate::advice::samples::{Bound, Generic, generic, typical};
use crate::advice::text::limit_parameters;

impl Explainer {
    /// Values for parameters that are not known, from the generic plan and the statistics. Advice by the generic plan itself
    /// finds less: for it each open range is a third of the table.
    pub(super) async fn typical(&mut self, text: &str, types: &[String]) -> Result<Vec<Bound>, ControlError> {
        let mut answer = Ok(String::new());
        for how in generic(self.schema.server.version) {
            answer = match how {
                Generic::Explain => Box::pin(self.explain_generic(text)).await,
                Generic::Prepare => Box::pin(self.explain_prepared(text, types.len())).await,
            };
            self.rollback().await?;
            let is_refused =
                matches!(&answer, Err(ControlError::Postgres(error)) if error.as_db_error().is_some());
            if !is_refused {
                break;
            }
        }
        let Some(plan) = Node::parse(&answer?) else { return Ok(Vec::new()) };
        self.learn(&plan).await?;
        Ok(typical(types, &plan, &self.schema, &limit_parameters(text)))
    }

    /// GENERIC_PLAN wants parameters that are not bound, and so the simple protocol. No second statement rides along: the
    /// server prepares the text before, and what holds several it does not prepare.
    async fn explain_generic(&self, text: &str) -> Result<String, ControlError> {
        let asking = async {
            let client = self.session.client();
            client.prepare(text).await?;
            client.simple_query(&format!("{EXPLAIN_GENERIC} {text}")).await
        };
        let limit = self.options.statement_timeout.saturating_mul(2);
        let messages = tokio::time::timeout(limit, asking).await.map_err(|_| ControlError::Timeout)??;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(row.unwrap_or_default().to_owned())
    }

    async fn explain_prepared(&self, text: &str, parameters: usize) -> Result<String, ControlError> {
        let nulls = vec!["NULL"; parameters].join(", ");
        let asking = async {
            self.session.rows(&format!("PREPARE weir_advice AS {text}"), &[]).await?;
            self.session.rows(GENERIC, &[]).await?;
            self.session.row(&format!("{EXPLAIN} EXECUTE weir_advice ({nulls})"), &[]).await
        };
        let answer = asking.await;
        self.rollback().await?;
        // It outlives the rollback; where PREPARE itself failed there is none.
        let _ = self.session.run("DEALLOCATE weir_advice").await;
        Ok(json(&answer?))
    }
}

/// Partitions are kept whatever the NULLs that stand for the values.
const GENERIC: &str = "SELECT pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true),
       pg_catalog.set_config('enable_partition_pruning', 'off', true)";

/// Since 16; never ANALYZE.
const EXPLAIN_GENERIC: &str = "EXPLAIN (GENERIC_PLAN, FORMAT JSON, VERBOSE, SETTINGS)";
