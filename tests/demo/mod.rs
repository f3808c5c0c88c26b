//! The throw-away cluster: needs the PostgreSQL server programs.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use weir::demo::cluster::{Cluster, Error, Member, Options};
use weir::demo::sample;

#[test]
fn replicas_show_the_sample_and_nothing_is_left_behind() {
    let cluster = Cluster::start(&Options { replicas: 1, ..Options::default() }).unwrap();
    sample::load(&cluster).unwrap();
    let question = "SELECT pg_is_in_recovery(), count(*) FROM article";
    assert_eq!(cluster.psql("app", question).unwrap(), "f|5000\n");
    assert_eq!(cluster.psql_as("app", Member::Replica(1), "app", question).unwrap(), "t|5000\n");

    let directory = cluster.directory().to_owned();
    let ports: Vec<_> = cluster.members().map(|member| cluster.port(member)).collect();
    drop(cluster);
    assert_eq!(directory.metadata().unwrap_err().kind(), io::ErrorKind::NotFound);
    for port in ports {
        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }
}

#[test]
fn an_interrupted_start_leaves_nothing_behind() {
    let directory = std::env::temp_dir().join(format!("weir-interrupted-{}", std::process::id()));
    let interrupted = Arc::new(AtomicBool::new(true));
    let error = Cluster::start(&Options { directory: Some(directory.clone()), replicas: 1, interrupted });
    assert!(matches!(error, Err(Error::Interrupted)));
    assert!(!directory.exists());
}
