//! Statements and where they go.

use weir::catalog::Catalog;
use weir::config::PrimaryReads;
use weir::consistency::Standing;
use weir::pg::{HostId, SqlState};
use weir::route::{Block, Candidate, Facts, Pinned, Reason, Target, decide, retry};
use weir::sql::analyze;
use weir::sql::classify::classify_anywhere;
use weir::sql::comment::TargetHint;

#[test]
fn check() {
    let catalog = super::effect::by_hand();
    super::table::check("route.txt", |input| outcome(&catalog, input));
}

fn outcome(catalog: &Catalog, input: &str) -> String {
    let (words, text) = input.split_once('\n').unwrap_or(("", input));
    let mut block = Block::None;
    let mut replicas = vec![candidate(1, "ok:1:0"), candidate(2, "ok:1:5")];
    let mut facts = Facts {
        splitting: true,
        pinned: Pinned::No,
        hint: None,
        primary_reads: PrimaryReads::Fallback,
        primary: None,
        parameter_names_time: false,
        turn: 1,
    };
    for word in words.split_whitespace() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("block", name) => block = read_block(name),
            ("replicas", list) => {
                let each = list.split(',').filter(|text| !text.is_empty());
                replicas = each.zip(1..).map(|(text, host)| candidate(host, text)).collect();
            }
            ("hint", "primary") => facts.hint = Some(TargetHint::Primary),
            ("hint", "replica") => facts.hint = Some(TargetHint::Replica),
            ("pinned", _) => facts.pinned = Pinned::ToPrimary,
            ("no_splitting", _) => facts.splitting = false,
            ("time_parameter", _) => facts.parameter_names_time = true,
            ("share", load) => {
                facts.primary_reads = PrimaryReads::Share;
                facts.primary = Some(candidate(0, &format!("ok:{load}")));
            }
            _ => panic!("{word}"),
        }
    }
    let analysis = analyze(text.as_bytes(), true);
    let classes = classify_anywhere(text.as_bytes(), true, &analysis);
    let path = catalog.default_search_path("app").unwrap();
    let route = decide(&catalog.effect(&analysis, &classes, &path), block, &facts, replicas);
    let target = match route.target {
        Target::Primary => "primary".to_owned(),
        Target::Replica(host) => format!("replica {}", host.0),
    };
    let opens = if route.opens_block { " | opens" } else { "" };
    format!("{target} | {}{opens}", route.reason.as_str())
}

fn read_block(name: &str) -> Block {
    let host = |number: &str| HostId(number.parse().unwrap());
    match name.split_once(':') {
        None => match name {
            "none" => Block::None,
            "lazy" => Block::Lazy,
            "snapshot" => Block::Snapshot,
            "isolation" => Block::Eager { isolation: true },
            "eager" => Block::Eager { isolation: false },
            "primary" => Block::OnPrimary,
            _ => panic!("{name}"),
        },
        Some(("replica", number)) => Block::OnReplica(host(number)),
        Some(("snapshot", number)) => Block::SnapshotOnReplica(host(number)),
        Some(_) => panic!("{name}"),
    }
}

fn candidate(host: usize, text: &str) -> Candidate {
    let [standing, weight, outstanding] = text.split(':').collect::<Vec<_>>().try_into().unwrap();
    let standing = match standing {
        "ok" => Standing::Satisfies,
        "floor" => Standing::Floor,
        "lag" => Standing::Lag,
        "unknown" => Standing::Unknown,
        _ => panic!("{text}"),
    };
    let number = |text: &str| text.parse().unwrap();
    Candidate { host: HostId(host), standing, weight: number(weight), outstanding: number(outstanding) }
}

/// No statement of the table of effects that is not a read anywhere ever goes to a replica, whatever the facts, unless
/// the block is open there and read-only.
#[test]
fn only_reads_leave_the_primary() {
    let catalog = super::effect::by_hand();
    let texts = include_str!("effect.txt").split("\n\n").flat_map(str::lines);
    let blocks = ["none", "lazy", "snapshot", "isolation", "eager", "primary", "replica:1"].map(read_block);
    let hints = [None, Some(TargetHint::Primary), Some(TargetHint::Replica)];
    let mut left = 0;
    for text in texts.filter(|line| !line.starts_with(['#', '=']) && !line.starts_with("path ")) {
        let analysis = analyze(text.as_bytes(), true);
        let classes = classify_anywhere(text.as_bytes(), true, &analysis);
        let path = catalog.default_search_path("app").unwrap();
        let effect = catalog.effect(&analysis, &classes, &path);
        for (block, hint) in blocks.into_iter().flat_map(|block| hints.map(|hint| (block, hint))) {
            let facts = Facts {
                splitting: true,
                pinned: Pinned::No,
                hint,
                primary_reads: PrimaryReads::Fallback,
                primary: None,
                parameter_names_time: false,
                turn: 1,
            };
            let route = decide(&effect, block, &facts, [candidate(1, "ok:1:0")]);
            if route.target != Target::Primary {
                left += 1;
                assert!(effect.on_primary.is_none() && effect.writes.is_nothing(), "{text}");
                assert!(matches!(
                    route.reason,
                    Reason::Read | Reason::TransactionTime | Reason::Snapshot | Reason::BlockOnReplica
                ));
            }
        }
    }
    assert!(left > 100, "{left}");
}

#[test]
fn a_read_that_a_replica_refused_is_run_again() {
    let is = |code: &[u8; 5], message: &str| retry(SqlState::from_bytes(code).unwrap(), message);
    assert!(is(b"25006", "cannot execute INSERT in a read-only transaction"));
    assert!(is(b"42501", "permission denied for table report"));
    assert!(is(b"40001", "canceling statement due to conflict with recovery"));
    assert!(is(b"57014", "canceling statement due to conflict with recovery"));
    assert!(is(b"57P01", "terminating connection due to administrator command"));
    assert!(!is(b"57014", "canceling statement due to user request"));
    assert!(!is(b"57014", "canceling statement due to statement timeout"));
    assert!(!is(b"40001", "could not serialize access due to concurrent update"));
    assert!(!is(b"42P01", "relation \"x\" does not exist"));
}
