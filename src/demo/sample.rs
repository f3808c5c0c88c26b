//! Something to ask for: the tables and rows of the Flask example.

use super::cluster::{Cluster, Error};

/// The example's own file, so that both have the same tables.
const SAMPLE: &str = include_str!("../../examples/flask/sample.sql");

/// Loads the sample into the database `app`, and waits until every replica has it.
pub fn load(cluster: &Cluster) -> Result<(), Error> {
    cluster.psql("app", SAMPLE)?;
    cluster.wait_for_replicas()
}
