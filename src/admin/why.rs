//! SHOW WHY: what a statement does, and where it would go now.

use std::sync::Arc;
use std::time::Duration;

use super::table::{ColumnType, Table, row};
use crate::catalog::Reader;
use crate::client::Proxy;
use crate::consistency::{Floors, Pace, Positions};
use crate::control::{Known, Question};
use crate::pg::SqlState;
use crate::route::Reason;
use crate::wire::build::{Report, Severity};

/// How long to wait for the catalog of a database that nobody has used yet.
const CATALOG_WAIT: Duration = Duration::from_secs(5);
const CATALOG_POLL: Duration = Duration::from_millis(20);

/// Its columns.
pub(super) fn columns() -> Table {
    Table::new(&[("name", ColumnType::Text), ("value", ColumnType::Text)])
}

/// Answers, as for a user's session in a database: as clients name it, or that of Weir's own login.
pub(super) async fn why(
    proxy: &Proxy,
    user: &str,
    text: &str,
    database: Option<&str>,
) -> Result<Table, Report> {
    let settings = proxy.settings();
    let name = database.unwrap_or(&settings.servers.control.database);
    let Some(entry) = settings.databases.get(name).or_else(|| settings.databases.get("*")) else {
        let message = format!("database \"{name}\" does not exist");
        return Err(Report::new(Severity::Error, SqlState::INVALID_CATALOG_NAME, message));
    };
    let question = Question { text: text.to_owned(), search_path: None, in_transaction: false };
    let wrong = |message: String| Report::new(Severity::Error, SqlState::INTERNAL_ERROR, message);
    let (analysis, classes) = question.classify().await.map_err(|error| wrong(error.to_string()))?;
    let splitting = proxy.splitting.as_ref();
    let of_splitting = splitting.map(|known| known.database(entry.dbname.as_deref().unwrap_or(name)));
    let (floors, shared) = if let Some(database) = &of_splitting {
        (Arc::clone(&database.floors), Arc::clone(&database.catalog))
    } else {
        let positions = Positions::new(proxy.hosts.list().len(), Pace::default());
        (Arc::new(Floors::new(Arc::new(positions))), Arc::default())
    };
    if of_splitting.is_some() {
        let loading = async {
            while shared.latest().is_none() {
                tokio::time::sleep(CATALOG_POLL).await;
            }
        };
        // Without it the answer is that there is none.
        let _ = tokio::time::timeout(CATALOG_WAIT, loading).await;
    }
    let mut reader = Reader::new(shared);
    let known = Known {
        hosts: &proxy.hosts,
        splitting: splitting.is_some_and(|known| known.splits).then_some(&settings.splitting),
        consistency: entry.consistency,
        cache: &settings.cache,
        database: entry.dbname.as_deref().unwrap_or(name),
        floors: &floors,
        catalog: reader.current().map(|catalog| &**catalog),
        user,
    };
    let answer = question.answer(&analysis, &classes, &known);
    let (lines, route) = answer.map_err(|error| wrong(error.to_string()))?;
    if let (Reason::Statement(reason), Some(database), Some(splitting)) =
        (route.reason, &of_splitting, splitting)
        && reason.is_unknown_name()
        && database.catalog.suspect()
    {
        // Perhaps it is known the next time.
        splitting.catalog_changed(database);
    }
    let mut table = columns();
    table.rows = lines.into_iter().map(|(name, value)| row![name, value]).collect();
    Ok(table)
}
