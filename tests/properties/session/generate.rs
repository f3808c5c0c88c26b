//! Random conversations.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::conversation::{Client, Conversation, End, Step};

/// What clients say: few words, so that they meet.
pub(super) const STATEMENTS: &[&str] = &[
    "SELECT 1",
    "SELECT $1",
    "SELECT 1/0",
    "SELECT nope",
    "SELEC 1",
    "",
    "SELECT generate_series(1, 3)",
    "BEGIN",
    "BEGIN",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
    "SAVEPOINT a",
    "SAVEPOINT b",
    "ROLLBACK TO a",
    "ROLLBACK TO b",
    "RELEASE a",
    "SET work_mem TO '1MB'",
    "SET work_mem = '2MB'",
    "SET LOCAL work_mem TO '3MB'",
    "SET work_mem TO 'bad'",
    "SET work_mem TO DEFAULT",
    "RESET work_mem",
    "SHOW work_mem",
    "SHOW work_mem",
    "SET DateStyle TO 'German, DMY'",
    "SET LOCAL DateStyle TO 'SQL, DMY'",
    "RESET DateStyle",
    "SHOW DateStyle",
    "SET search_path TO app",
    "SHOW search_path",
    "SET my.x TO 'one'",
    "SET LOCAL my.x TO 'two'",
    "RESET my.x",
    "SHOW my.x",
    "SELECT current_setting('my.x', true)",
    "SELECT set_config('work_mem', '5MB', false)",
    "SELECT set_config('my.x', 'three', true)",
    "SELECT set_config($1, $2, false)",
    "SELECT set_config($1, $2, true)",
    "SET ROLE bob",
    "RESET ROLE",
    "SHOW role",
    "RESET ALL",
    "DISCARD ALL",
    "DISCARD TEMP",
    "CREATE TEMP TABLE t1 (a text)",
    "CREATE TEMP TABLE t2 (a text) ON COMMIT DROP",
    "DROP TABLE t1",
    "SELECT count(*) FROM t1",
    "SELECT count(*) FROM t2",
    "INSERT INTO t1 VALUES ('x')",
    "INSERT INTO log VALUES ('x')",
    "INSERT INTO log VALUES ($1)",
    "COPY log FROM STDIN",
    "COPY t1 FROM STDIN",
    "COPY (SELECT generate_series(1, 2)) TO STDOUT",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_advisory_unlock(1)",
    "SELECT app_set('work_mem', '7MB')",
    "SELECT app_temporary()",
    "LISTEN c",
    "UNLISTEN c",
    "UNLISTEN *",
    "SELECT count(*) FROM pg_listening_channels()",
    "PREPARE p AS SELECT 1",
    "PREPARE s1 AS SELECT 2",
    "EXECUTE p",
    "EXECUTE s1",
    "DEALLOCATE p",
    "DEALLOCATE s1",
    "DEALLOCATE ALL",
    "DECLARE c CURSOR FOR SELECT generate_series(1, 3)",
    "DECLARE h CURSOR WITH HOLD FOR SELECT generate_series(1, 3)",
    "FETCH 2 FROM c",
    "FETCH 1 FROM h",
    "CLOSE c",
    "CLOSE h",
    "CLOSE ALL",
    "COMMENT ON TABLE log IS 'x'",
    "SELECT pg_backend_pid()",
];

pub(super) const NAMES: &[&str] = &["", "s1", "s2", "s3"];
pub(super) const PORTALS: &[&str] = &["", "", "p1"];
pub(super) const PARAMETERS: &[&[&str]] = &[&[], &[], &[], &["x"], &["work_mem", "6MB"], &["my.x", "four"]];
pub(super) const STARTUPS: &[&[(&str, &str)]] =
    &[&[], &[], &[], &[("work_mem", "8MB")], &[("datestyle", "German"), ("my.x", "zero")]];
pub(super) const COPY_DATA: &[&str] = &["x\n", "x\ny\n", "x\ty\n"];

fn text(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(of).prop_map(str::to_owned)
}

fn string_of_statements() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => text(STATEMENTS),
        1 => vec(text(STATEMENTS), 2..4).prop_map(|statements| statements.join("; ")),
    ]
}

/// What belongs together, most of the time.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = |step: Step| vec![step];
    let parameters =
        || select(PARAMETERS).prop_map(|list| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    let limit = || select(&[0u32, 0, 0, 1, 2][..]);
    let bind =
        || {
            (text(PORTALS), text(NAMES), parameters())
                .prop_map(|(portal, statement, parameters)| Step::Bind { portal, statement, parameters })
        };
    let execute = || (text(PORTALS), limit()).prop_map(|(portal, limit)| Step::Execute { portal, limit });
    prop_oneof![
        6 => string_of_statements().prop_map(|text| vec![Step::Query(text)]),
        6 => string_of_statements().prop_map(|text| vec![Step::Query(text), Step::Wait]),
        // As drivers do.
        8 => (text(NAMES), text(STATEMENTS), parameters(), limit(), 0u8..8).prop_map(
            |(name, text, parameters, limit, shape)| {
                let mut steps = vec![Step::Parse { name: name.clone(), text }];
                if shape & 1 == 1 {
                    steps.push(Step::DescribeStatement(name.clone()));
                }
                steps.push(Step::Bind { portal: String::new(), statement: name, parameters });
                if shape & 2 == 2 {
                    steps.push(Step::DescribePortal(String::new()));
                }
                steps.push(Step::Execute { portal: String::new(), limit });
                steps.push(Step::Sync);
                if shape & 4 == 4 {
                    steps.push(Step::Wait);
                }
                steps
            }
        ),
        4 => (text(NAMES), parameters(), limit(), any::<bool>()).prop_map(|(name, parameters, limit, waits)| {
            let mut steps = vec![
                Step::Bind { portal: String::new(), statement: name, parameters },
                Step::Execute { portal: String::new(), limit },
                Step::Sync,
            ];
            steps.extend(waits.then_some(Step::Wait));
            steps
        }),
        3 => (text(NAMES), text(STATEMENTS)).prop_map(move |(name, text)| one(Step::Parse { name, text })),
        3 => bind().prop_map(one),
        3 => execute().prop_map(one),
        1 => text(NAMES).prop_map(|name| vec![Step::DescribeStatement(name)]),
        1 => text(PORTALS).prop_map(|name| vec![Step::DescribePortal(name)]),
        2 => text(NAMES).prop_map(|name| vec![Step::CloseStatement(name)]),
        1 => text(PORTALS).prop_map(|name| vec![Step::ClosePortal(name)]),
        4 => Just(vec![Step::Sync]),
        1 => Just(vec![Step::Flush]),
        1 => Just(vec![Step::Flush, Step::Wait]),
        1 => text(COPY_DATA).prop_map(|data| vec![Step::CopyData(data)]),
        1 => Just(vec![Step::CopyDone]),
        1 => Just(vec![Step::CopyFail]),
        2 => Just(vec![Step::Query("COPY log FROM STDIN".to_owned()), Step::CopyData("x\n".to_owned()), Step::CopyDone]),
        // As libpq does, with a Sync that the server ignores.
        2 => any::<bool>().prop_map(|waits| {
            let mut steps = vec![
                Step::Parse { name: String::new(), text: "COPY log FROM STDIN".to_owned() },
                Step::Bind { portal: String::new(), statement: String::new(), parameters: Vec::new() },
                Step::Execute { portal: String::new(), limit: 0 },
                Step::Sync,
            ];
            steps.extend(waits.then_some(Step::Wait));
            steps.extend([Step::CopyData("x\n".to_owned()), Step::CopyDone, Step::Sync]);
            steps
        }),
        2 => Just(vec![Step::Wait]),
    ]
}

fn client(ends: &'static [End]) -> impl Strategy<Value = Client> {
    let startup = select(STARTUPS);
    (vec(steps(), 0..10), startup, select(ends)).prop_map(|(steps, startup, end)| Client {
        startup: startup.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        steps: steps.concat(),
        end,
    })
}

/// Conversations of so many clients that end in one of these ways.
pub(super) fn conversation(
    clients: std::ops::Range<usize>,
    ends: &'static [End],
    breaks: bool,
) -> impl Strategy<Value = Conversation> {
    let breaks_after = if breaks { (0usize..60).prop_map(Some).boxed() } else { Just(None).boxed() };
    (
        1usize..4,
        prop_oneof![Just(2usize), Just(100)],
        any::<bool>(),
        vec(client(ends), clients),
        vec(any::<u8>(), 0..80),
        breaks_after,
    )
        .prop_map(|(pool, prepared_max, prepare_unnamed, clients, schedule, breaks_after)| {
            Conversation { pool, prepared_max, prepare_unnamed, clients, schedule, breaks_after }
        })
}
